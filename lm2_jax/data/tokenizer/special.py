"""The special tokens that the package needs, and how a tokenizer gets them."""

import json
import re
from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken

PAD = "<pad>"
ANSWER = "<answer>"  # stands between a question and its answer
END = "<end>"  # ends an answer
UNK = "<unk>"
SPECIAL_TOKENS = (PAD, ANSWER, END, UNK)

# Unused tokens of Llama 3 (<|reserved_special_token_0|>), Gemma (<unused0>), BERT ([unused0]),
# Mistral ([control_8], <SPECIAL_20>) and Phi 3 (<|placeholder1|>).
_RESERVED = re.compile(
    r"[<\[]\|?(?:reserved_special_token_|unused|control_|SPECIAL_|placeholder)\d+\|?[>\]]")
PADS = (PAD, "<|finetune_right_pad_id|>", "[PAD]")
ENDS_OF_TEXT = ("<|end_of_text|>", "<|endoftext|>", "</s>", "<eos>", "<|eot_id|>", "<|eom_id|>",
                "<|im_end|>", "<|end|>", "<end_of_turn>")


def with_special_tokens(tokenizer: tokenizers.Tokenizer, names: Sequence[str]
                        ) -> tokenizers.Tokenizer:
    """Returns the tokenizer with these special tokens.

    New ones take the ids of reserved tokens, and are appended where there are too few of those.
    """
    known = tokenizer.get_vocab(with_added_tokens=True)
    reserved = sorted(filter(_RESERVED.fullmatch, known), key=known.__getitem__)
    if new := dict(zip(reserved, (n for n in names if n not in known), strict=False)):
        written = json.loads(tokenizer.to_str())
        for token in written["added_tokens"]:
            token["content"] = new.get(token["content"], token["content"])
            token["special"] |= token["content"] in names
        model = written["model"]
        model["vocab"] = ({new.get(t, t): i for t, i in model["vocab"].items()}
                          if isinstance(model["vocab"], dict) else
                          [[new.get(t, t), score] for t, score in model["vocab"]])
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(written))
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    return tokenizer
