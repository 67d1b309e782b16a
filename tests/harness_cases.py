"""A small model in memory for tests of lm-evaluation-harness, and its tokenizer."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
from model_cases import make_config, variables

from lm2_jax import partition
from lm2_jax.checkpoint.workdir import Run
from lm2_jax.config import Config
from lm2_jax.data import tokenizer as tokenizers

T, VOCAB = 8, 300
MODEL = make_config(T=T, M=3, P=1, vocab_size=VOCAB, num_layers=1)
TEXT = "Mary went to the kitchen. John moved to the garden; it was dark, and he was tired."
MESH = partition.make_mesh({"data": 1}, jax.devices()[:1])


@cache
def tokens():
    return tokenizers.train([TEXT], kind="bpe", vocab_size=VOCAB)


@cache
def run():
    params = jax.device_put(jax.tree.map(jnp.asarray, variables(MODEL)), partition.named(MESH))
    return Run(Config(model=MODEL), params, tokens(), 7)


def instances(*arguments):
    """What the harness passes to a model."""
    return [SimpleNamespace(args=args) for args in arguments]
