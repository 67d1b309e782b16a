"""Text to token ids and back: a tokenizer of our own, or any tokenizer.json."""

from lm2_jax.data.tokenizer.loading import load
from lm2_jax.data.tokenizer.special import ANSWER, END, PAD, SPECIAL_TOKENS, UNK
from lm2_jax.data.tokenizer.tokenizer import Tokenizer
from lm2_jax.data.tokenizer.training import train

__all__ = ["ANSWER", "END", "PAD", "SPECIAL_TOKENS", "UNK", "Tokenizer", "load", "train"]
