"""What is evaluated: tasks, context lengths, where the samples come from, how they are asked."""

from dataclasses import dataclass

from lm2_jax.config.checks import at_least, one_of, require
from lm2_jax.errors import UserError

PROMPT_STYLES = ("fine_tuned", "instruct")
RETRIEVE_ORDERS = ("document", "similarity")
NEW_TOKENS = {"fine_tuned": 8, "instruct": 20}  # 20 is the benchmark's
PROMPT_BUDGET = 300  # tokens of a length that the benchmark keeps for what is not context


@dataclass(frozen=True)
class EvalConfig:
    tasks: tuple[str, ...] = ()  # () = data.tasks
    lengths: tuple[str, ...] = ("0k",)  # tokens of a sample: "192", "4k"; 0k = facts alone
    num_samples: int = 100  # a task and length
    during_training: int = 0  # samples a task and length in periodic evaluation; 0 = as above
    batch_size: int = 50
    # A file (JSON or parquet) of task, length, input, question, target, all of which is asked; or
    # a folder with BABILong's data set as published, of which tasks, lengths, num_samples are
    samples: str = ""
    babi: str = ""  # folder of bAbI files whose test split is asked; "" = the simulator
    # JSON of a task's questions by their place in its bAbI file; "" and tasks not there = drawn
    indices: str = ""
    background: str = ""  # "" = data.background
    min_distance: int = 0  # whole segments between the last fact and the question's segment
    prompt_style: str = "fine_tuned"  # as in training; or instruct: the benchmark's template
    prompts: str = ""  # instruct: JSON of a task's instruction, examples, post_prompt; "" = ours
    use_instruction: bool = True
    use_examples: bool = True
    use_post_prompt: bool = True
    retrieve: int = 0  # sentences of the context that the model is given, by BM25; 0 = all
    retrieve_order: str = "document"  # or similarity, as the benchmark's own baseline
    memory: tuple[str, ...] = ("carried", "reset")
    max_new_tokens: int = 0  # 0 = 8, or 20 if instruct
    seed: int = 1  # of the held-out samples

    def __post_init__(self):
        at_least(self, "eval", 1, "num_samples", "batch_size")
        at_least(self, "eval", 0, "during_training", "min_distance", "max_new_tokens",
                 "retrieve")
        require(0 <= self.seed < 2**31, "eval.seed", self.seed, "in [0, 2**31)")
        one_of(self, "eval", "prompt_style", PROMPT_STYLES)
        one_of(self, "eval", "retrieve_order", RETRIEVE_ORDERS)
        for mode in self.memory:
            require(mode in ("carried", "reset"), "eval.memory", self.memory,
                    "a tuple of carried, reset")
        for length in self.lengths:
            fits = not 0 < parse_length(length) <= PROMPT_BUDGET
            require(fits or self.prompt_style == "fine_tuned" or bool(self.samples),
                    "eval.lengths", self.lengths, f"0k or more than {PROMPT_BUDGET} tokens where "
                    "eval.prompt_style is instruct")
        require(not (self.indices and self.samples), "eval.indices", self.indices,
                "'' where eval.samples is set")
        require(not self.prompts or self.prompt_style == "instruct", "eval.prompts", self.prompts,
                "'' unless eval.prompt_style is instruct")
        if not self.max_new_tokens:
            object.__setattr__(self, "max_new_tokens", NEW_TOKENS[self.prompt_style])


def parse_length(length: str) -> int:
    """Tokens of a length: "192" is 192, "4k" is 4 * 1024, "1M" is 1024 * 1024, "0k" is 0.

    They are tokens of our own tokenizer; the benchmark's 4k are 4000 GPT-2 tokens, the prompt's
    300 among them.
    """
    scale = {"k": 1024, "M": 1024**2}.get(length[-1:], 1)
    digits = length[:-1] if scale > 1 else length
    if not digits.isdigit():
        raise UserError(f"eval.lengths has {length!r}; a length is a number of tokens as "
                         "'192', '4k' or '1M'")
    return int(digits) * scale
