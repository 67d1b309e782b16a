"""States in files: what a model has read, kept for later questions.

A file of the safetensors format holds the states of one or more texts: of each the arrays, by
their paths, and the tokens of the running segment. The metadata has the digests of the model and
of the tokenizer, and of each text its name, SHA-256 and number of tokens.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialized

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.generation.reading import Reading, with_places
from lm2_jax.generation.states import ReadState, Source, describe, require_same
from lm2_jax.model.state import init_state
from lm2_jax.runtime import files, paths
from lm2_jax.runtime.files import replacing
from lm2_jax.types import State, Window

FORMAT = "lm2_jax state 1"


def save(path: str | os.PathLike, states: Sequence[ReadState]) -> None:
    """Writes states of one model to a file, which appears as a whole.

    Raises:
      UserError: if two states have the same name, by which they are found again.
    """
    names, run = [state.name for state in states], states[0].run
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: two texts are called {twice[0]}; states are found by the names "
                        "of their texts")
    arrays = {}
    for i, state in enumerate(states):
        state.require(run)
        reading = state.reading.take([0])
        arrays[f"{i}/tail"] = reading.tails[0]
        for name, leaf in _leaves(_without_empty_places(reading.state)):
            arrays[f"{i}/{name}"] = np.array(leaf, order="C")  # safetensors takes no other
    meta = {"format": FORMAT, "model": run.digest, "tokenizer": run.tokenizer.digest,
            "made_by": describe(run), "states": json.dumps([
                {"segments": state.reading.segments[0], "tokens": state.tokens,
                 "sources": [dataclasses.asdict(source) for source in state.sources]}
                for state in states])}
    with replacing(path) as partial:
        partial.write_bytes(serialized(arrays, meta))  # save_file lets no other user read it


def load(path: str | os.PathLike, run: Run) -> dict[str, ReadState]:
    """Reads all states of a file, by the names of their texts.

    Raises:
      UserFileNotFoundError: if there is no such file.
      UserError: if it is no such file, is damaged, or was made with another model or tokenizer.
    """
    if not paths.of(path).is_file():
        raise UserFileNotFoundError(f"no state at {path}; lm2 read --save={path} writes one")
    try:
        with (files.reading(paths.of(path)) as local,
              safe_open(local, framework="np") as file):
            meta = file.metadata() or {}
            if meta.get("format") != FORMAT:
                raise UserError(f"{path} holds no state of this version (lm2 read --save writes "
                                "one)")
            require_same(run, str(path), meta["model"], meta["tokenizer"], meta["made_by"])
            states = [_state(file, i, facts, run)
                      for i, facts in enumerate(json.loads(meta["states"]))]
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read as a state: {error}") from None
    return {state.name: state for state in states}


def read_state(path: str | os.PathLike, run: Run, name: str = "") -> ReadState:
    """Reads the state of one text from a file that `ReadState.save` or `lm2 read` has written.

    Args:
      run: the model that has read the text, from `lm2.load`.
      name: of the text; "" = the only one.

    Raises:
      UserError: if the file is missing, damaged or of another model or tokenizer, or if it has no
        such text.

    Example:

        run = lm2.load("runs/quickstart")
        book = lm2.read_state("book.safetensors", run)
        lm2.generate(run, "Where is John?", state=book)[0].text
    """
    return choose(load(path, run), name, path)


def choose(states: dict[str, ReadState], name: str, path: str | os.PathLike) -> ReadState:
    """Returns the state of this name, or the only one for ""; a UserError lists the others."""
    if not name and len(states) == 1:
        return next(iter(states.values()))
    if name not in states:
        wanted = f"no text {name}" if name else f"{len(states)} texts, so one must be named"
        raise UserError(f"{path} has {wanted} (--document): {', '.join(states)}")
    return states[name]


def _state(file: safe_open, i: int, facts: dict, run: Run) -> ReadState:
    config = run.config.model
    stored = {name: file.get_tensor(name) for name in file.keys()  # noqa: SIM118
              if name.startswith(f"{i}/")}
    tail = stored.pop(f"{i}/tail")
    places = stored[f"{i}/window/valid_BW"].shape[1] if config.attention_window else None
    expected = jax.eval_shape(functools.partial(init_state, config, 1, places))
    wanted = {f"{i}/{name}": (leaf.shape, leaf.dtype) for name, leaf in _leaves(expected)}
    if {name: (array.shape, array.dtype) for name, array in stored.items()} != wanted:
        raise TypeError("its arrays are not those of the model")
    state = jax.tree.unflatten(jax.tree.structure(expected),
                               [jnp.asarray(stored[name]) for name in wanted])
    state = with_places(config, 1, state, config.attention_window)
    return ReadState(run, Reading(state, (tail,), (facts["segments"],), 1),
                     tuple(Source(**source) for source in facts["sources"]))


def _leaves(state: State) -> list[tuple[str, jax.Array]]:
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _without_empty_places(state: State) -> State:
    """Leaves out the places of the window that hold no token; the newest token is the last."""
    if state.window is None:
        return state
    w = state.window
    first = w.valid_BW.shape[1] - int(w.valid_BW.sum())
    return State(state.memory, Window(w.key_QBWKH[:, :, first:], w.value_QBWKH[:, :, first:],
                                      w.valid_BW[:, first:]))
