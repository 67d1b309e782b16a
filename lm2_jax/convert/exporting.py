"""Writes the model of a workdir to a folder that the transformers library loads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, cast

import jax
import numpy as np
from flax import traverse_util

from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import Config
from lm2_jax.convert import card, llama, names, tensors
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.tokenizer import END
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import copy, new_folder
from lm2_jax.types import Params

TORCH_NAMES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_TOKENIZER_CONFIG = "tokenizer_config.json"
# A tokenizer with our special tokens has other names for some ids than these files and keys.
_OF_THE_LLAMA_ALONE = ("special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
                       "tokenizer.model")
_NAMED_TOKENS = ("added_tokens_decoder", "additional_special_tokens", "extra_special_tokens")


class Exported(NamedTuple):
    """What was exported: the step, the most frequent dtype as torch names it, and the bytes of the
    tensors."""

    step: int
    dtype: str
    bytes: int


def to_hf(workdir: str | Path, folder: str | Path, step: int | None = None, dtype: str = "",
          shard_bytes: int = tensors.SHARD_BYTES) -> Exported:
    """Writes a model as config.json, safetensors, tokenizer and a model card (README.md).

    A workdir that `from_hf` wrote gives back the bytes of each parameter, and the files of the
    tokenizer. The model of any other run is written as it was trained, in float32, with its
    tokenizer and as many rows of the vocabulary as that has tokens, or as the Llama has that it
    began from. A model without a memory is a LlamaForCausalLM; one with a memory is "lm2", which
    `from_hf` reads.

    Args:
      step: of the checkpoint; None = the newest valid one.
      dtype: "float32", "bfloat16" or "float16" for all tensors.

    Raises:
      UserError: if there is no model, or if the folder is not empty.
    """
    workdir = paths.of(workdir)
    codes = {name: code for code, name in TORCH_NAMES.items()}
    if dtype and dtype not in codes:
        raise UserError(f"dtype is {dtype!r}; it must be one of {', '.join(codes)}")
    with new_folder(folder) as partial:
        config, checkpointer, step = workdirs.open_checkpoint(workdir, step)
        params = abstract_params(LanguageModel(config.model),
                                 partition.mesh_for_storage(config.model.embed_dim))
        record = _read(workdir / workdirs.CONVERTED)
        source = _read(workdir / workdirs.SOURCE / llama.CONFIG)
        rows = record.get("rows") or max(tokenizers.load(workdir).vocab_size,
                                         source.get("vocab_size", 0))
        dtypes = {} if dtype else record.get("dtypes", {})
        found = _tensors(_OneAtATime(checkpointer, step, params), rows, dtypes,
                         codes.get(dtype, "F32"),
                         twice=names.UNEMBEDDING in record.get("dtypes", {}))
        sizes = {code: sum(t.bytes for t in found if t.dtype == code) for code in TORCH_NAMES}
        torch_dtype = TORCH_NAMES[max(sizes, key=sizes.__getitem__)]
        llama_config = llama.to_json(config.model, rows, torch_dtype, source)
        if not record:
            llama_config |= _token_ids(workdir)
        text = card.text(config, workdir, step, sum(sizes.values()), torch_dtype)
        tensors.write(partial, found, shard_bytes)
        _write(partial / llama.CONFIG, llama_config)
        _copy_small_files(workdir, partial, config, converted=bool(record))
        (partial / "README.md").write_text(text, "utf-8")
    return Exported(step, torch_dtype, sum(sizes.values()))


class _OneAtATime:
    """The parameters of a checkpoint, of which the last one that was asked for is in memory."""

    def __init__(self, checkpointer: Checkpointer, step: int, params: Params):
        self.abstract = params
        self._checkpointer, self._step = checkpointer, step
        self._path: tuple[str, ...] = ()
        self._leaf: jax.Array | None = None

    def __call__(self, path: tuple[str, ...]) -> jax.Array:
        if path != self._path:
            self._leaf = None
            wanted = {path: traverse_util.flatten_dict(self.abstract)[path]}
            self._leaf = traverse_util.flatten_dict(self._checkpointer.restore_some_params(
                self._step, traverse_util.unflatten_dict(wanted)))[path]
            self._path = path
        return cast(jax.Array, self._leaf)


def _tensors(params: _OneAtATime, rows: int, dtypes: dict[str, str], dtype: str, twice: bool
             ) -> list[tensors.ToWrite]:
    """The tensors to write, those of one parameter after the other.

    Args:
      rows: of the vocabulary.
      dtypes: {name: dtype} where it is not `dtype`.
      twice: whether a tied embedding is stored as lm_head too.
    """
    found = {}
    for part in names.stored(params.abstract):
        shape = part.stored_shape
        if part.name in (names.EMBEDDING, names.UNEMBEDDING):
            shape = (rows, *shape[1:])
        for name in [part.name] + [names.UNEMBEDDING] * (twice and part.name == names.EMBEDDING):
            found[name] = tensors.ToWrite(name, shape, dtypes.get(name, dtype),
                                          _values(params, part, shape))
    return list(found.values())


def _values(params: _OneAtATime, part: names.Stored, shape: tuple[int, ...]
            ) -> Callable[[], np.ndarray]:
    def values() -> np.ndarray:
        leaf = params(part.path)
        array = leaf if part.block is None else _block(leaf, part.block)
        return part.to_stored(np.asarray(array))[:shape[0]]

    return values


@jax.jit
def _block(leaf: jax.Array, block: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(leaf, block, keepdims=False)


def _copy_small_files(workdir: Path, to: Path, config: Config, converted: bool) -> None:
    """Copies what the workdir keeps of a transformers model, and the tokenizer of its own."""
    kept = workdir / workdirs.SOURCE
    for path in sorted(kept.iterdir()) if kept.is_dir() else ():
        if path.name not in (llama.CONFIG, Path(workdirs.CONVERTED).name) and (
                converted or path.name not in _OF_THE_LLAMA_ALONE):
            copy(path, to / path.name)
    if converted:
        return
    copy(workdir / "tokenizer.json", to / "tokenizer.json")
    tokens = tokenizers.load(workdir)
    own = {"tokenizer_class": "PreTrainedTokenizerFast",
           "model_max_length": config.model.segment_length,
           "clean_up_tokenization_spaces": False}
    told: dict[str, str | bool] = {"pad_token": tokens.pad, "eos_token": tokens.eos or END}
    if tokens.bos:
        told |= {"bos_token": tokens.bos, "add_bos_token": True}
    theirs = _read(kept / _TOKENIZER_CONFIG)
    for key in _NAMED_TOKENS:
        theirs.pop(key, None)
    _write(to / _TOKENIZER_CONFIG, own | theirs | told)


def _token_ids(workdir: Path) -> dict[str, int | None]:
    """The ids of BOS, EOS and PAD for the config.json of a model that was trained here."""
    tokens = tokenizers.load(workdir)
    return {"bos_token_id": next(iter(tokens.bos_ids), None), "pad_token_id": tokens.pad_id,
            "eos_token_id": tokens.end_id if tokens.eos_id is None else tokens.eos_id}


def _read(path: Path) -> dict:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def _write(partial: Path, values: dict) -> None:
    partial.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
