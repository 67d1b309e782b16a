"""`lm2 train --init-from`: a new run that begins with the weights of another model."""

import json
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.errors import UserError
from lm2_jax.runtime import processes
from lm2_jax.runtime.files import replacing
from lm2_jax.types import Params

STACKS = ("memory_blocks", "blocks")  # scanned: their parameters have the blocks as first axis
Place = tuple[tuple[str, ...], int | None]  # a leaf of the tree, and the row of a stacked one


@dataclass(frozen=True)
class Differences:
    """Parameters of two models by name, those of each block apart.

    Attributes:
      missing: the new model has them alone; they begin as ever.
      unused: the old one has them alone.
      unlike: both have them, of other shapes: (name, old shape, new shape).
    """

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    unlike: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def lines(self) -> list[str]:
        """One for each kind, with every name."""
        unlike = [f"{name} {list(old)} -> {list(new)}" for name, old, new in self.unlike]
        return [f"{what}: {', '.join(names)}" for what, names in (
            ("missing there, so new", self.missing), ("of no use here", self.unused),
            ("of another shape (there -> here)", unlike)) if names]


def split_source(text: str) -> tuple[Path, int | None]:
    """WORKDIR or WORKDIR:STEP."""
    path, colon, step = text.rpartition(":")
    if colon and step.isdecimal() and not Path(text).exists():
        return Path(path), int(step)
    return Path(text), None


def tokenizer_of(source: str) -> Path | None:
    """The tokenizer.json of a run given as WORKDIR[:STEP]; None for ""."""
    return split_source(source)[0] / "tokenizer.json" if source else None


def compare(old: Params, new: Params) -> Differences:
    """Of two trees of variables (arrays or shapes)."""
    there, here = _places(old), _places(new)
    shapes = {name: (_shape(old, there[name]), _shape(new, here[name]))
              for name in here.keys() & there.keys()}
    return Differences(
        missing=tuple(name for name in here if name not in there),
        unused=tuple(name for name in there if name not in here),
        unlike=tuple((name, *shapes[name]) for name in here
                     if name in shapes and shapes[name][0] != shapes[name][1]))


def transplant(old: Params, new: Params) -> Params:
    """The variables `new`, with the values of `old` under every name that both have.

    A block keeps its number, whether or not it has a memory in either model.
    """
    there, there_flat = _places(old), traverse_util.flatten_dict(old)
    here, taken = _places(new), traverse_util.flatten_dict(new)
    rows: dict[tuple[str, ...], list] = {}
    for name, (path, row) in here.items():
        source = there.get(name)
        if row is None:
            taken[path] = there_flat[source[0]] if source else taken[path]
        else:
            value = there_flat[source[0]][source[1]] if source else taken[path][row]
            rows.setdefault(path, []).append(value)
    return traverse_util.unflatten_dict(
        taken | {path: jnp.stack(values) for path, values in rows.items()})


def weights_from(source: str, workdir: Path, params: Params, shardings: Params, mesh: Mesh
                 ) -> tuple[Params, list[str]]:
    """Variables of another run's checkpoint in the place of the new ones, and what differs.

    Args:
      params, shardings: the new model's, as it begins.

    Raises:
      ValueError: a parameter has another shape; names them all.
    """
    folder, step = split_source(source)
    _, old, step = workdirs.load_checkpoint(folder, step, mesh)
    differences = compare(old, params)
    lines = differences.lines()
    if differences.unlike:
        raise UserError(f"--init-from={source}: {lines[-1]}. Take a model of the same sizes")
    with jax.set_mesh(mesh):
        params = jax.jit(transplant, out_shardings=shardings, donate_argnums=1)(old, params)
    if processes.is_primary():
        with replacing(workdir / "init_from.json") as partial:
            partial.write_text(json.dumps({
                "workdir": str(folder), "step": step, "missing": differences.missing,
                "unused": differences.unused}, indent=2) + "\n", "utf-8")
    return params, [f"weights of {folder} at step {step}", *lines]


def _places(variables: Params) -> dict[str, Place]:
    """Where each parameter is, by a name such as "block 3/attention/q_proj/kernel"."""
    flat = traverse_util.flatten_dict(variables)
    before = max((leaf.shape[0] for path, leaf in flat.items() if path[1] == STACKS[0]), default=0)
    first, found = {STACKS[0]: 0, STACKS[1]: before}, {}
    for path, leaf in flat.items():
        if path[1] not in STACKS:
            found["/".join(path[1:])] = (path, None)
            continue
        for row in range(leaf.shape[0]):
            found["/".join((f"block {first[path[1]] + row}", *path[2:]))] = (path, row)
    return found


def _shape(variables: Params, place: Place) -> tuple[int, ...]:
    shape = traverse_util.flatten_dict(variables)[place[0]].shape
    return shape if place[1] is None else shape[1:]
