"""Everything that the answers of an evaluation depend on, as short digests.

Answers are resumed only under the identity that they were given under, and all processes of one
evaluation must have the same one.
"""

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from lm2_jax.config import Config, files
from lm2_jax.data.babilong.samples import Cells
from lm2_jax.model.params import weights_digest
from lm2_jax.types import Params

_PACKAGE = Path(__file__).parents[1]
_CHUNK = 1 << 20  # tokens that are in memory at once


def identity(config: Config, step: int, params: Params, tokenizer: str,
             data: Mapping[str, object]) -> dict[str, object]:
    """The parts of an evaluation's identity, by name; JSON values.

    Every process must call this, since `params` may be spread over all of them.

    Args:
      tokenizer: its digest.
      data: digests of what the model reads, by name.
    """
    sections = files.to_dict(config)
    return {"step": step, "weights": weights_digest(params), "tokenizer": tokenizer,
            **data, "code": code_digest(),
            **{name: sections[name] for name in ("seed", "model", "data", "eval")}}


def prompts_digest(prompts: Cells) -> str:
    """SHA-256 (hex) of every prompt: its tokens, question and target.

    Contexts are read chunk by chunk: they are neither held as a whole nor tokenized again.
    """
    hashed = hashlib.sha256()
    for key, cell in prompts.items():
        hashed.update(repr((key, len(cell))).encode())
        for p in cell:
            hashed.update(repr((p.question, p.target, len(p.tokens))).encode())
            for first in range(0, len(p.tokens), _CHUNK):
                hashed.update(np.asarray(p.tokens[first:first + _CHUNK], "<i4").tobytes())
    return hashed.hexdigest()


@functools.cache
def code_digest() -> str:
    """SHA-256 (hex) of this package's files, changes that are not committed included, and of
    JAX's version."""
    hashed = hashlib.sha256(jax.__version__.encode())
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in (".py", ".json", ".txt"):
            content = path.read_bytes()
            hashed.update(repr((path.relative_to(_PACKAGE).as_posix(), len(content))).encode())
            hashed.update(content)
    return hashed.hexdigest()
