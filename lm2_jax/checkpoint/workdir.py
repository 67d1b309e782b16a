"""A workdir: its config, its tokenizer, its checkpoints."""

import hashlib
import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from lm2_jax import partition
from lm2_jax.checkpoint.checkpointer import META, PARAMS, Checkpointer
from lm2_jax.config import Config, files, with_vocab_size
from lm2_jax.data import tokenizer as tokenizers
from lm2_jax.data.babilong import corpus
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.model.lm import LanguageModel
from lm2_jax.model.params import abstract_params, weights_digest
from lm2_jax.runtime import paths, processes
from lm2_jax.runtime.files import write_text
from lm2_jax.types import Params

# Keys that may change when a run is resumed: the next batch and step do not depend on them, except
# for num_steps, over which the learning rate decays.
MAY_CHANGE = ("eval.", "checkpoint.", "mesh.", "log.", "data.num_workers",
              "train.num_steps", "train.eval_every_steps", "train.held_out_batches",
              "train.stall_seconds", "train.remat_segments",
              "train.rows_per_device", "train.loss_chunk_tokens", "model.remat",
              "model.attention_implementation", "model.schedule")
SOURCE = "hf"  # small files of the transformers model that a run began from
CONVERTED = f"{SOURCE}/tensors.json"  # in a workdir that holds such a model as it was
OLD_CONFIG = "config.before.jsonl"  # the configs before accepted changes, oldest first
# Keys whose change would give the parameters or the optimizer's state another meaning.
NEVER_CHANGES = ("model.", "data.tokenizer", "train.trainable")


def prepare(config: Config, workdir: Path, accept: bool = False, tokenizer: Path | None = None
            ) -> tuple[Tokenizer, Config, list[str]]:
    """Loads or creates the tokenizer of a workdir and compares the config with the stored one.

    Args:
      accept: resume although keys differ; those in `NEVER_CHANGES` still must not.
      tokenizer: the tokenizer.json of another workdir, from which a new run takes tokenizer and
        vocabulary size.

    Returns:
      The tokenizer, the config with the vocabulary size filled in, and a line for each difference
      that was accepted.

    Raises:
      UserError: if the workdir holds a run of another config; it names the keys that differ.
    """
    differences: list[str] = []
    if (workdir / CONVERTED).exists():
        raise UserError(f"{workdir} holds a converted model, which is not a run; begin one with "
                        f"lm2 train --init-from={shlex.quote(str(workdir))} --workdir=...")
    if (workdir / "config.json").exists():
        stored = stored_config(workdir)
        config = with_vocab_size(config, stored.model.vocab_size)
        differences = files.differences(stored, config, ignore=MAY_CHANGE)
        if never := [line for line in differences if line.startswith(NEVER_CHANGES)]:
            refuse(never if accept else differences, workdir)
        refuse([] if accept else differences, workdir,
               "; with --accept-changes the run is resumed all the same, and says what is lost")
    elif processes.is_primary():  # the files of a run that failed before its config was stored
        (workdir / "tokenizer.json").unlink(missing_ok=True)
        if tokenizer:
            tokenizers.load(tokenizer).save(workdir / "tokenizer.json")
    if tokenizer and not config.model.vocab_size:
        config = with_vocab_size(config, stored_config(tokenizer.parent).model.vocab_size)
    tokens = corpus.load_tokenizer(config, workdir)
    config = with_vocab_size(config, tokens.vocab_size, corpus.vocab_multiple(config.data))
    return tokens, config, differences


def store_config(config: Config, workdir: Path, keep_old: bool = False) -> None:
    """Binds the workdir to the config.

    Args:
      keep_old: append the config stored before to `OLD_CONFIG`.
    """
    path = workdir / "config.json"
    if keep_old:
        old = workdir / OLD_CONFIG
        before = old.read_text("utf-8") if old.exists() else ""
        write_text(old, before + json.dumps(json.loads(path.read_text("utf-8"))) + "\n")
    write_text(path, json.dumps(files.to_dict(config), indent=2) + "\n")


def stored_config(workdir: str | Path) -> Config:
    """Reads the config of the run in a workdir.

    Raises:
      UserFileNotFoundError: if there is no run.
      UserError: if the config cannot be read by this version.
    """
    path = paths.of(workdir) / "config.json"
    if not path.exists():
        raise UserFileNotFoundError(f"{workdir} holds no run (no config.json); train first: lm2 "
                                    f"train --config=... --workdir={shlex.quote(str(workdir))}")
    try:
        return files.from_stored(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise UserError(f"{path} is not a config of this version: {error}") from error


def refuse(differences: list[str], workdir: str | Path, advice: str = "") -> None:
    """Raises a UserError that names the differences, if there are any."""
    if differences:
        raise UserError(f"{workdir} holds a run of another config (there -> here): "
                        + "; ".join(differences)
                        + f". Use another --workdir, or the config of that run{advice}")


def open_checkpoint(workdir: str | Path, step: int | None = None
                    ) -> tuple[Config, Checkpointer, int]:
    """Returns the config, the checkpoints and the step of a checkpoint whose files are verified.

    Args:
      step: None = the newest one that is valid; damaged ones are named on stderr.

    Raises:
      UserFileNotFoundError: if there is no checkpoint.
      UserError: if it is damaged.
    """
    workdir = paths.of(workdir)
    config, checkpointer = stored_config(workdir), Checkpointer(workdir)
    # One process verifies the files for all.
    step = processes.broadcast_from_primary(
        checkpointer.select_step(step, parts=(PARAMS, META)) if processes.is_primary() else 0)
    return config, checkpointer, step


def load_checkpoint(workdir: str | Path, step: int | None = None, mesh: Mesh | None = None
                    ) -> tuple[Config, Params, int]:
    """Loads the config, the variables and the step of a checkpoint.

    Args:
      step: None = the newest one that is valid; damaged ones are named on stderr.
      mesh: devices over which the variables are sharded; None = a copy on every device.

    Raises:
      UserFileNotFoundError: if there is no checkpoint.
      UserError: if it is damaged or does not fit the config.
    """
    config, checkpointer, step = open_checkpoint(workdir, step)
    mesh = partition.make_mesh({"data": -1}) if mesh is None else mesh
    params = checkpointer.restore_params(step, abstract_params(LanguageModel(config.model), mesh))
    return config, params, step


@dataclass(frozen=True)
class Run:
    """A trained model.

    Attributes:
      config: that the run was made with; `config.model` is the model's.
      variables: of the model, float32 arrays.
      tokenizer: of the run.
      step: of the checkpoint.
      workdir: that it was loaded from; None if it was made otherwise.
    """

    config: Config
    variables: Params
    tokenizer: Tokenizer
    step: int
    workdir: Path | None = None

    @property
    def model(self) -> LanguageModel:
        return LanguageModel(self.config.model)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the model: its weights, and the keys of its config that its outputs
        depend on."""
        model = {key: value for key, value in files.changed(self.config).items()
                 if key.startswith("model.") and key not in MAY_CHANGE}
        facts = json.dumps([model, weights_digest(self.variables)], sort_keys=True)
        return hashlib.sha256(facts.encode()).hexdigest()


def load(workdir: str | Path, step: int | None = None, mesh: Mesh | None = None) -> Run:
    """Loads a run's model and tokenizer.

    Args:
      step: of the checkpoint; None = the newest valid one.
      mesh: that the variables are laid out over; None = a copy on every device.

    Raises:
      UserError: if the workdir holds no run or no valid checkpoint.

    Example:

        run = lm2.load("runs/quickstart")
        state = lm2.init_state(run.config.model, batch_size=1)
        tokens = jax.numpy.array([run.tokenizer.encode("Where is John?")])
        out = lm2.apply_segments(run.model, run.variables, tokens, state)
    """
    workdir = paths.of(workdir)
    config, variables, step = load_checkpoint(workdir, step, mesh)
    return Run(config, variables, corpus.load_tokenizer(config, workdir), step, workdir)


def restore_training(checkpointer: Checkpointer, step: int, abstract_state: Any,
                     meta: dict, accept: bool = False) -> tuple[Any, dict]:
    """Restores the training state of a step and its position in the curriculum.

    Args:
      abstract_state: a `TrainState` of jax.ShapeDtypeStruct with shardings. No other state is
        allocated, and nothing is initialised.
      meta: the digests of the tokenizer and the data of this run.
      accept: whether the data may differ from those of the checkpoint.

    Raises:
      UserError: if tokenizer or data differ, or if the state does not fit.
    """
    stored = checkpointer.meta(step)
    missing = {*meta, "next_step", "curriculum"} - stored.keys()
    if missing:
        raise UserError(f"{checkpointer.directory} was written by another version of lm2_jax (it "
                        f"lacks {', '.join(sorted(missing))}); use that version, or another "
                        "--workdir")
    for key, what in (("tokenizer_digest", "tokenizer"), ("source_digest", "data")):
        if stored[key] != meta[key] and not (accept and what == "data"):
            raise UserError(f"{checkpointer.directory} was made with other {what} ({key} "
                            f"{stored[key][:16]}, here {meta[key][:16]}); restore it, or use "
                            "another --workdir")
    params, rest = checkpointer.restore(step, abstract_state.params, training_part(abstract_state))
    return abstract_state.replace(params=params, **rest), stored["curriculum"]


def training_part(state: Any) -> dict[str, jax.Array]:
    """The part of a training state that a checkpoint stores beside the parameters."""
    return {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
