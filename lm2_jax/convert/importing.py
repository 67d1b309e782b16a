"""Reads a model from a folder of the transformers library: `config.json`, safetensors, tokenizer.

No pickle is read, and no code that comes with a checkpoint is run.
"""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import CheckpointConfig, Config, EvalConfig, ModelConfig, files
from lm2_jax.convert import llama, names
from lm2_jax.convert.tensors import DTYPES, Tensors
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.babilong.corpus import VOCAB_MULTIPLE
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params
from lm2_jax.runtime import paths
from lm2_jax.runtime.files import cached_folder, copy, new_folder
from lm2_jax.types import Params

# What is kept of a folder as it is, beside config.json: the tokenizer and the licence.
KEPT = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
        "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
        "chat_template.json", "generation_config.json", "LICENSE*", "NOTICE*", "USE_POLICY*")
COPIED = (llama.CONFIG, *KEPT, "*.safetensors", "*.safetensors.index.json")  # from a bucket
STEP = 1  # of the checkpoint in a converted workdir; steps count from 1
MEAN_ROWS = 4096  # of the embedding that are averaged at a time


class Source:
    """A model in a folder of the transformers library, whose tensors have been checked.

    Attributes:
      folder: where it is, or its copy on a local disk.
      config: the contents of its config.json.
      tokenizer: with the special tokens that we add.
      model: the `ModelConfig`, from `read_config`.
      tensors: of its safetensors files.
      rows: rows of the stored embedding.
      notes: lines for the user.

    Raises:
      UserError: if the model is not a Llama, or if tensors are missing, extra, of another shape or
        quantised; it names them all.
    """

    def __init__(self, folder: str | Path, segment_length: int = 0):
        self.folder = local_copy(folder)
        self.config, self.tokenizer, self.model = read_config(self.folder, segment_length)
        self.rows = self.config["vocab_size"]
        self.tensors = Tensors(self.folder)
        self.notes: list[str] = []
        if "auto_map" in self.config:
            self.notes.append(f"{self.folder / llama.CONFIG}: auto_map is ignored; no code of a "
                              "checkpoint is run")
        self._check()

    def variables(self, mesh: jax.sharding.Mesh) -> Params:
        """Reads the variables, float32, in their shardings; each device gets its own part alone.

        The largest parameter is read first, since it is in memory twice until it is on the devices.

        Rows of the vocabulary that are not stored are the mean of those that are. So their logits
        are the mean logit, and together they get at most the share of the probability that their
        number has among all rows.
        """
        abstract = abstract_params(LanguageModel(self.model), mesh)
        parts: dict[tuple[str, ...], list[names.Stored]] = {}
        for part in names.stored(abstract):
            parts.setdefault(part.path, []).append(part)
        flat = traverse_util.flatten_dict(abstract)
        return traverse_util.unflatten_dict(
            {path: self._read(flat[path], parts[path])
             for path in sorted(flat, key=lambda path: -flat[path].size)})

    def _read(self, leaf: jax.ShapeDtypeStruct, parts: list[names.Stored]) -> jax.Array:
        """Reads one parameter, stacked or not."""
        rows_axis = {names.EMBEDDING: 0, names.UNEMBEDDING: 1}.get(parts[0].name)

        def values(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None  # the sharding has devices of this process
            shape = tuple(len(range(*part.indices(size)))
                          for part, size in zip(index, leaf.shape, strict=True))
            array = np.empty(shape, np.float32)
            if parts[0].block is None:
                if rows_axis is None:
                    array[:] = parts[0].read(self.tensors, index)
                else:
                    self._read_rows(array, parts[0], index, rows_axis)
                return array
            for i, block in enumerate(range(*index[0].indices(leaf.shape[0]))):
                array[i] = parts[block].read(self.tensors, index[1:])
            return array

        return jax.make_array_from_callback(leaf.shape, leaf.sharding, values)

    def _read_rows(self, array: np.ndarray, part: names.Stored, index: tuple[slice, ...],
                   axis: int) -> None:
        """Reads rows of the vocabulary, which are columns of the kernel of `lm_head`."""
        out = np.moveaxis(array, axis, 0)
        start, stop, _ = index[axis].indices(self.model.vocab_size)
        columns = index[1 - axis]
        stored = max(min(stop, self.rows) - start, 0)
        if stored:
            out[:stored] = self.tensors.read(part.name, slice(start, start + stored), columns)
        if stored < len(out):
            total = np.zeros(out.shape[1], np.float64)
            for first in range(0, self.rows, MEAN_ROWS):
                rows = slice(first, min(first + MEAN_ROWS, self.rows))
                total += self.tensors.read(part.name, rows, columns).astype(np.float64).sum(axis=0)
            out[stored:] = total / self.rows

    def _check(self) -> None:
        """Compares the tensors of the files with those that the model needs."""
        wanted = {part.name: part.stored_shape for part in names.stored(
            abstract_params(LanguageModel(dataclasses.replace(self.model, vocab_size=self.rows)),
                            partition.make_mesh({}, 1)))}
        found = dict(self.tensors.shapes)
        frequencies = [name for name in found if name.endswith(".rotary_emb.inv_freq")]
        for name in frequencies:
            del found[name]
        if frequencies:
            self.notes.append("rotary_emb.inv_freq of older files is left out: "
                              f"{llama.CONFIG} gives the frequencies")
        problems = [f"missing: {', '.join(sorted(wanted.keys() - found))}"] * (
            not wanted.keys() <= found.keys())
        if self.model.tie_embeddings and {names.UNEMBEDDING, names.EMBEDDING} <= found.keys():
            del found[names.UNEMBEDDING]
            if not self._is_copy():
                problems.append(f"{names.UNEMBEDDING} differs from {names.EMBEDDING} although "
                                "tie_word_embeddings is true; set it to false if the model has "
                                "both")
        if extra := sorted(found.keys() - wanted):
            problems.append(f"not of this model: {', '.join(extra)}")
        if shapes := [f"{name} {list(found[name])}, not {list(shape)}"
                      for name, shape in wanted.items() if found.get(name, shape) != shape]:
            problems.append(f"of another shape: {', '.join(shapes)}")
        if dtypes := [f"{name} {self.tensors.dtypes[name]}" for name in wanted
                      if self.tensors.dtypes.get(name, "F32") not in DTYPES]:
            problems.append(f"of a dtype other than {', '.join(DTYPES)}: {', '.join(dtypes)}")
        if problems:
            raise UserError(f"the tensors in {self.folder} do not fit its {llama.CONFIG}: "
                            + "; ".join(problems))

    def _is_copy(self) -> bool:
        """Whether a tied model's lm_head is stored too, equal to the embedding."""
        shapes = self.tensors.shapes
        if shapes[names.UNEMBEDDING] != shapes[names.EMBEDDING]:
            return False
        chunks = (slice(first, min(first + MEAN_ROWS, self.rows))
                  for first in range(0, self.rows, MEAN_ROWS))
        return all(np.array_equal(self.tensors.read(names.UNEMBEDDING, rows),
                                  self.tensors.read(names.EMBEDDING, rows)) for rows in chunks)


def local_copy(folder: str | Path) -> Path:
    """The folder of a model; of one in a bucket a local copy, since tensors are memory-mapped."""
    return cached_folder(paths.of(folder), COPIED)


def read_config(folder: Path, segment_length: int = 0) -> tuple[dict, Tokenizer, ModelConfig]:
    """Returns the contents of config.json, the tokenizer and the `ModelConfig`; runs no JAX.

    The vocabulary of the `ModelConfig` has room for the tokenizer's own tokens and those that we
    add, and is a multiple of VOCAB_MULTIPLE.
    """
    config = llama.read(folder)
    model = llama.model_config(config, folder / llama.CONFIG, segment_length)
    tokenizer = _tokenizer(folder)
    size = max(model.vocab_size, tokenizer.vocab_size)
    padded = -(-size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
    return config, tokenizer, dataclasses.replace(model, vocab_size=padded)


def from_hf(folder: str | Path, workdir: str | Path, segment_length: int = 0) -> Source:
    """Writes a workdir that holds the model of a folder of the transformers library.

    It has a config, a tokenizer and one checkpoint, of step 1, without an optimizer's state, and
    `config.py`, a config file of the model for the commands that take one. `hf` keeps the small
    files of the folder and the dtypes of its tensors, for `to_hf`.

    Args:
      segment_length: tokens of a segment; 0 = the context that the model was trained with, at most
        8192.

    Raises:
      UserError: if the model cannot be converted, or if the workdir is not empty.
    """
    source = Source(folder, segment_length)
    with new_folder(workdir) as partial:
        # Evaluations measure perplexity, unless they ask for tasks.
        config = Config(model=source.model, eval=EvalConfig(lengths=()))
        source.tokenizer.save(partial / "tokenizer.json")
        keep(source.folder, partial)
        (partial / workdirs.CONVERTED).write_text(json.dumps({
            "folder": str(source.folder.resolve()), "rows": source.rows,
            "dtypes": source.tensors.dtypes}, indent=2) + "\n", "utf-8")
        workdirs.store_config(config, partial)
        (partial / "config.py").write_text(_config_file(config), "utf-8")
        meta = {"next_step": STEP, "tokenizer_digest": source.tokenizer.digest,
                "config": files.to_dict(config)}
        mesh = partition.mesh_for_storage(source.model.embed_dim)
        variables = source.variables(mesh)
        largest = max(leaf.nbytes for leaf in jax.tree.leaves(variables))
        with contextlib.closing(Checkpointer(partial, CheckpointConfig(),
                                             concurrent_gb=int(largest / 1e9) + 1)) as checkpointer:
            checkpointer.save(STEP, variables, {"step": jnp.int32(STEP)}, meta)
            checkpointer.wait()
    return source


def keep(folder: Path, workdir: Path) -> None:
    """Copies the small files of a folder of the transformers library to `workdir/hf`."""
    to = workdir / workdirs.SOURCE
    to.mkdir(parents=True, exist_ok=True)
    for path in (path for pattern in (llama.CONFIG, *KEPT) for path in folder.glob(pattern)):
        if path.is_file():
            copy(path, to / path.name)


def _tokenizer(folder: Path) -> Tokenizer:
    if not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file():
        raise UserError(f"{folder} has a tokenizer.model and no tokenizer.json; "
                        "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of "
                        "transformers writes one")
    return tokenizers.load(folder)


def _config_file(config: Config) -> str:
    """The source of a config file of the model."""
    nested: dict = {}
    for key, value in files.changed(config).items():
        *groups, last = key.split(".")
        group: dict = nested
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value

    def lines(values: Mapping, indent: str) -> str:
        return "".join(
            f"{indent}{key!r}: {{\n{lines(value, indent + '    ')}{indent}}},\n"
            if isinstance(value, Mapping) else f"{indent}{key!r}: {value!r},\n"
            for key, value in values.items())

    return ('"""The converted model of this folder."""\n\nfrom ml_collections import ConfigDict\n'
            "\n\ndef get_config() -> ConfigDict:\n    return ConfigDict({\n"
            + lines(nested, " " * 8) + "    })\n")
