"""Evaluation: tasks, context lengths, the source of the samples, how questions are asked, and the
documents of perplexity."""

from dataclasses import dataclass

from lm2_jax.config.checks import at_least, one_of, require

PROMPT_STYLES = ("fine_tuned", "instruct")
RETRIEVE_ORDERS = ("document", "similarity")
NEW_TOKENS = {"fine_tuned": 8, "instruct": 20}  # 20 is the benchmark's
PROMPT_BUDGET = 300  # tokens of a length that the benchmark reserves for what is not context


@dataclass(frozen=True)
class EvalConfig:
    """Evaluation on BABILong samples over tasks and context lengths, and on held-out documents."""

    tasks: tuple[str, ...] = ()
    """Tasks to evaluate; empty takes data.tasks."""
    lengths: tuple[str, ...] = ("0k",)
    """Tokens of a sample, such as 192,4k,1M (k is 1024); 0k is the facts without background."""
    num_samples: int = 100
    """Samples per task and length."""
    max_samples: tuple[int, ...] = ()
    """Most samples per task at each of eval.lengths; empty is eval.num_samples at all, and so is an
    override of eval.lengths without this key."""
    during_training: int = 0
    """Samples per task and length in evaluations during training; 0 takes num_samples."""
    batch_size: int = 50
    """Samples that are evaluated at a time."""
    samples: str = ""
    """File of samples (JSON or parquet), all of which are evaluated, or a folder with the published
    BABILong data; empty draws samples."""
    babi: str = ""
    """Folder of bAbI files whose test split is used; empty uses the built-in simulator."""
    indices: str = ""
    """JSON file {task: [index of a question in its bAbI test file, ...]} that selects questions;
    the questions of other tasks are drawn."""
    background: str = ""
    """Background text, given as data.background; empty takes data.background."""
    min_distance: int = 0
    """Whole segments between the last fact and the segment of the question."""
    prompt_style: str = "fine_tuned"
    """How a question is put: fine_tuned (as in training) or instruct (the benchmark's template)."""
    prompts: str = ""
    """instruct: JSON file {task: {instruction, examples, post_prompt}}; empty takes our own."""
    use_instruction: bool = True
    """instruct: whether the prompt has the instruction."""
    use_examples: bool = True
    """instruct: whether the prompt has the examples."""
    use_post_prompt: bool = True
    """instruct: whether the prompt has the required form of the answer."""
    retrieve: int = 0
    """RAG: the model reads only this many sentences of the context, by BM25; 0 reads all of it."""
    retrieve_order: str = "document"
    """RAG: retrieved sentences stand in document order, or by similarity, the best first."""
    memory: tuple[str, ...] = ("carried", "reset")
    """Memory modes to evaluate: carried between segments, and reset at each segment. Where answers
    are asked for, the attention window is reset too; perplexity is measured with the window."""
    reset_up_to: str = ""
    """Longest length at which the mode reset is evaluated; empty evaluates it at all."""
    max_new_tokens: int = 0
    """Longest answer in tokens; 0 takes 8 for fine_tuned and 20 for instruct prompts."""
    seed: int = 1
    """Seed of the held-out samples, and of the choice of eval.max_documents."""
    corpora: tuple[str, ...] = ()
    """Folders that `lm2 data tokenize` made, whose held-out documents perplexity is measured on;
    empty takes data.corpora where data.source is corpus."""
    max_documents: int = 100
    """Most documents of a corpus that perplexity is measured on; 0 measures none."""
    max_document_segments: int = 64
    """Segments of each document that are read, from its beginning; 0 reads all of it."""

    def __post_init__(self):
        at_least(self, "eval", 1, "num_samples", "batch_size")
        at_least(self, "eval", 0, "during_training", "min_distance", "max_new_tokens",
                 "retrieve", "max_documents", "max_document_segments")
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
        require(len(self.max_samples) in (0, len(self.lengths)) and min(
            self.max_samples, default=1) >= 1, "eval.max_samples", self.max_samples,
            f"{len(self.lengths)} numbers >= 1, one for each of eval.lengths, or empty")
        if self.reset_up_to:
            parse_length(self.reset_up_to, "eval.reset_up_to")
        require(not (self.indices and self.samples), "eval.indices", self.indices,
                "'' where eval.samples is set")
        require(not self.prompts or self.prompt_style == "instruct", "eval.prompts", self.prompts,
                "'' unless eval.prompt_style is instruct")
        if not self.max_new_tokens:
            object.__setattr__(self, "max_new_tokens", NEW_TOKENS[self.prompt_style])


def parse_length(length: str, key: str = "eval.lengths") -> int:
    """Tokens of a length: "192" is 192, "4k" is 4 * 1024, "1M" is 1024 * 1024, "0k" is 0.

    Tokens are those of the model's own tokenizer. (The benchmark's 4k is 4000 GPT-2 tokens, its
    prompt's 300 among them.)
    """
    scale = {"k": 1024, "M": 1024**2}.get(length[-1:], 1)
    digits = length[:-1] if scale > 1 else length
    require(digits.isascii() and digits.isdigit(), key, length,
            "a number of tokens, such as '192', '4k' or '1M'")
    return int(digits) * scale
