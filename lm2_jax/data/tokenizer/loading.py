"""Reads a tokenizer.json, of this package or of another."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import tokenizers

from lm2_jax.data.tokenizer.special import ANSWER, END, PAD, PADS, with_special_tokens
from lm2_jax.data.tokenizer.tokenizer import CONFIG, Tokenizer
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths


def load(path: str | os.PathLike) -> Tokenizer:
    """Reads a tokenizer.json, or the one in a folder, and gives it the special tokens it lacks.

    They take the place of reserved tokens where the tokenizer has some, so that its size stays as
    it is, and are appended otherwise. Its own BOS, EOS and PAD are used; a tokenizer_config.json
    beside it says which they are. Truncation and padding that the file asks for are switched off.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is not a tokenizer.
    """
    path = paths.of(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise UserFileNotFoundError(f"no tokenizer at {path}: expected a tokenizer.json file")
    try:
        tokenizer = tokenizers.Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises nothing narrower
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is not a valid tokenizer.json: {reason}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _read_config(path.with_name(CONFIG))
    known = tokenizer.get_vocab(with_added_tokens=True)
    bos, eos, pad = (_named(config, key, known) for key in ("bos_token", "eos_token", "pad_token"))
    saved_by_us = ANSWER in known
    if not pad and not saved_by_us:
        pad = next((name for name in PADS if name in known), None)
    tokenizer = with_special_tokens(tokenizer, (pad or PAD, ANSWER, END))
    if not config.get("add_bos_token"):
        bos = None if saved_by_us else _template_bos(tokenizer)
    return Tokenizer(tokenizer, bos, eos, pad or PAD)


def _read_config(path: Path) -> dict:
    try:
        config = json.loads(path.read_text("utf-8-sig")) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a JSON object")
    return config


def _named(config: Mapping, key: str, known: Mapping[str, int]) -> str | None:
    """The token that stands under a key, as text or as {"content": text}, if it is known."""
    token = config.get(key)
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) and token in known else None


def _template_bos(tokenizer: tokenizers.Tokenizer) -> str | None:
    """The token that the tokenizer's template puts before a text."""
    first = tokenizer.encode(ANSWER).tokens[0]
    return first if first != ANSWER else None
