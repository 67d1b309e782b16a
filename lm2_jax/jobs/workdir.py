"""A workdir: its config, its tokenizer, its checkpoints."""

import json
import shlex
from pathlib import Path

import jax
from jax.sharding import Mesh

from lm2_jax import config_file, partition
from lm2_jax.checkpoint import Checkpointer, choose_step
from lm2_jax.config import Config, with_vocab_size
from lm2_jax.data import corpus
from lm2_jax.data.tokenizer import Tokenizer
from lm2_jax.eval.results import replacing
from lm2_jax.model.lm import LanguageModel
from lm2_jax.train import state as train_state
from lm2_jax.types import Params

# What may differ when a run goes on: it does not change what the next batch or step would be
# (but for num_steps, over which the learning rate falls).
MAY_CHANGE = ("eval.", "checkpoint.", "mesh.", "data.num_threads", "data.num_workers",
              "train.num_steps", "train.eval_every_steps", "train.tensorboard",
              "train.remat_segments", "train.segment_unroll", "model.remat", "model.scan_unroll",
              "model.attention_implementation")


def prepare(config: Config, workdir: Path) -> tuple[Tokenizer, Config]:
    """Checks a workdir: its tokenizer, and the config with the vocabulary filled in.

    Raises:
      ValueError: if it holds a run of another config; one line names what differs.
    """
    stored = stored_config(workdir) if (workdir / "config.json").exists() else None
    if stored:
        same_vocab = with_vocab_size(config, stored.model.vocab_size)
        refuse(config_file.differences(stored, same_vocab, ignore=MAY_CHANGE), workdir)
    else:  # a tokenizer that is there was left by a run that failed before it began
        (workdir / "tokenizer.json").unlink(missing_ok=True)
    tokens = corpus.load_tokenizer(config, workdir)
    return tokens, with_vocab_size(config, tokens.vocab_size)


def store_config(config: Config, workdir: Path) -> None:
    """From here on the workdir is bound to the config."""
    with replacing(workdir / "config.json") as partial:
        partial.write_text(json.dumps(config_file.to_dict(config), indent=2) + "\n", "utf-8")


def stored_config(workdir: str | Path) -> Config:
    """The config that a workdir's run was made with."""
    path = Path(workdir) / "config.json"
    if not path.exists():
        raise FileNotFoundError(f"{workdir} holds no run (no config.json); train first: lm2 "
                                f"train --config=... --workdir={shlex.quote(str(workdir))}")
    try:
        return config_file.from_dict(json.loads(path.read_text("utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is not a config of this version: {error}") from error


def refuse(differences: list[str], workdir: str | Path) -> None:
    """Raises a ValueError that names the differences, if there are any."""
    if differences:
        raise ValueError(f"{workdir} holds a run of another config (there -> here): "
                         + "; ".join(differences)
                         + ". Take another --workdir, or the config of that run")


def load_checkpoint(workdir: str | Path, step: int | None = None, mesh: Mesh | None = None
                    ) -> tuple[Config, Params, int]:
    """The config, the variables and the step of a checkpoint.

    Args:
      step: None = the newest.
      mesh: that the variables are laid out over; None = a copy on every device.
    """
    config = stored_config(workdir)
    checkpointer = Checkpointer(workdir)
    step = choose_step(checkpointer.steps(), step, workdir)
    mesh = partition.make_mesh({"data": -1}) if mesh is None else mesh
    abstract = train_state.abstract_params(LanguageModel(config.model), mesh)
    params = checkpointer.restore_params(step, abstract)
    checkpointer.close()
    return config, params, step


def restore_training(checkpointer: Checkpointer, step: int, state: train_state.TrainState,
                     meta: dict) -> tuple[train_state.TrainState, dict]:
    """The whole training state of a step and its position in the curriculum, if data and
    tokenizer are still the same."""
    stored = checkpointer.meta(step)
    missing = {*meta, "next_step", "curriculum"} - stored.keys()
    if missing:
        raise ValueError(f"{checkpointer.directory} was written by another version of lm2_jax (it "
                         f"lacks {', '.join(sorted(missing))}); go on with that version, or take "
                         "another --workdir")
    for key, what in (("tokenizer_digest", "tokenizer"), ("source_digest", "data")):
        if stored[key] != meta[key]:
            raise ValueError(f"{checkpointer.directory} was made with other {what} ({key} "
                             f"{stored[key][:16]}, here {meta[key][:16]}); restore it, or take "
                             "another --workdir")
    params, rest = checkpointer.restore(step, state.params, training_part(state))
    return state.replace(params=params, **rest), stored["curriculum"]


def training_part(state: train_state.TrainState) -> dict[str, jax.Array]:
    """What a checkpoint holds beside the parameters."""
    return {"step": state.step, "opt_state": state.opt_state, "rng": state.rng}
