"""`lm2 train --init-from`: a new run starts from the weights of another model."""

import functools
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.sharding import Mesh

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.config import ModelConfig
from lm2_jax.errors import UserError
from lm2_jax.model import memory as memories
from lm2_jax.runtime import paths, processes
from lm2_jax.runtime.files import write_text
from lm2_jax.types import Params

STACKS = ("memory_blocks", "blocks")  # scanned: the first axis of their parameters is the block
# The path of a leaf, and for a stacked one the index along its first axis.
Location = tuple[tuple[str, ...], int | None]


@dataclass(frozen=True)
class Differences:
    """How the parameters of two models differ; each block has its own names.

    Attributes:
      missing: names that only the new model has; these parameters keep their initialisation.
      unused: names that only the source has.
      mismatched: names that both have with different shapes: (name, source shape, new shape).
    """

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    def lines(self) -> list[str]:
        """A line for each kind of difference that occurs, with all names.

        Names that differ in nothing but the block are one, as blocks 0-2/mlp/up_proj/kernel.
        """
        mismatched = [f"{name} {list(old)} -> {list(new)}" for name, old, new in self.mismatched]
        return [f"{what}: {', '.join(_folded(names))}" for what, names in (
            ("not in the source, so initialised", self.missing),
            ("in the source but not used", self.unused),
            ("shapes differ (source -> new)", mismatched)) if names]


def _folded(names: Iterable[str]) -> list[str]:
    blocks: dict[str, list[int]] = {}
    for name in names:
        found = re.match(r"block (\d+)(/.*)", name)
        blocks.setdefault(found[2] if found else name, []).extend([int(found[1])] if found else [])
    return [(f"block{'s' * (len(indices) > 1)} {_ranges(indices)}" if indices else "") + rest
            for rest, indices in blocks.items()]


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as 0-3,5."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def split_source(text: str) -> tuple[Path, int | None]:
    """Parses WORKDIR or WORKDIR:STEP."""
    path, colon, step = text.rpartition(":")
    if colon and step.isdecimal() and not paths.of(text).exists():
        return paths.of(path), int(step)
    return paths.of(text), None


def tokenizer_of(source: str) -> Path | None:
    """The tokenizer.json of a run given as WORKDIR[:STEP]; None for ""."""
    return split_source(source)[0] / "tokenizer.json" if source else None


def compare(old: Params, new: Params) -> Differences:
    """Compares two trees of variables (arrays or jax.ShapeDtypeStruct)."""
    sources, targets = _locations(old), _locations(new)
    shapes = {name: (_shape(old, sources[name]), _shape(new, targets[name]))
              for name in targets.keys() & sources.keys()}
    return Differences(
        missing=tuple(name for name in targets if name not in sources),
        unused=tuple(name for name in sources if name not in targets),
        mismatched=tuple((name, *shapes[name]) for name in targets
                         if name in shapes and shapes[name][0] != shapes[name][1]))


def transplant(old: Params, new: Params, zero: str = "") -> Params:
    """Returns `new` with the values of `old` under every name that both have.

    A block keeps its index, whether or not it has a memory in either model.

    Args:
      zero: end of the names of parameters that become 0 if `old` does not have them.
    """
    sources, old_leaves = _locations(old), traverse_util.flatten_dict(old)
    leaves = traverse_util.flatten_dict(new)
    rows: dict[tuple[str, ...], list] = {}  # of stacked leaves
    for name, (path, row) in _locations(new).items():
        source = sources.get(name)
        if row is None:
            leaves[path] = old_leaves[source[0]] if source else leaves[path]
            continue
        value = old_leaves[source[0]][source[1]] if source else leaves[path][row]
        if not source and zero and name.endswith(zero):
            value = jnp.zeros_like(value)
        rows.setdefault(path, []).append(value)
    return traverse_util.unflatten_dict(
        leaves | {path: jnp.stack(values) for path, values in rows.items()})


def weights_from(source: str, workdir: Path, params: Params, shardings: Params, mesh: Mesh,
                 silent: ModelConfig | None = None) -> tuple[Params, list[str]]:
    """Replaces new variables by those of another run's checkpoint, and records it in
    `workdir/init_from.json`.

    Args:
      source: WORKDIR or WORKDIR:STEP.
      params, shardings: of the new model; `params` are donated.
      silent: of the new model, whose new memories then add 0 at first; None = as initialised.

    Returns:
      The variables, and lines for the user.

    Raises:
      UserError: if shapes differ; it names all such parameters.
    """
    folder, step = split_source(source)
    _, old, step = workdirs.load_checkpoint(folder, step, mesh)
    return begin_with(old, {"workdir": str(folder), "step": step}, workdir, params, shardings, mesh,
                      silent)


def begin_with(old: Params, origin: dict, workdir: Path, params: Params, shardings: Params,
               mesh: Mesh, silent: ModelConfig | None = None) -> tuple[Params, list[str]]:
    """Does what `weights_from` does, with variables that are given.

    Args:
      old: the variables of the source, in the layout of the mesh.
      origin: {"workdir": where they are from, "step": number or None}.
    """
    differences = compare(old, params)
    lines = differences.lines()
    if differences.mismatched:
        raise UserError(f"{origin['workdir']}: {lines[-1]}. Use a model of the same sizes")
    kind = memories.kind_of(silent) if silent else None
    output = f"memory/{kind.output}/kernel" if kind and kind.output else ""
    begin = functools.partial(transplant, zero=output)
    with jax.set_mesh(mesh):
        params = jax.jit(begin, out_shardings=shardings, donate_argnums=1)(old, params)
    if processes.is_primary():
        write_text(workdir / "init_from.json", json.dumps({
            **origin, "missing": differences.missing, "unused": differences.unused}, indent=2)
            + "\n")
    step = "" if origin["step"] is None else f" at step {origin['step']}"
    return params, [f"starting from the weights of {origin['workdir']}{step}", *lines,
                    *[f"{output} is 0 where it is new, so that the memory adds nothing at first"]
                    * (output != "" and differences.missing != ())]


def _locations(variables: Params) -> dict[str, Location]:
    """Maps names such as "block 3/attention/q_proj/kernel" to the location of the parameter."""
    flat = traverse_util.flatten_dict(variables)
    with_memory = max((leaf.shape[0] for path, leaf in flat.items() if path[1] == STACKS[0]),
                      default=0)
    first_block = {STACKS[0]: 0, STACKS[1]: with_memory}
    locations: dict[str, Location] = {}
    for path, leaf in flat.items():
        if path[1] not in STACKS:
            locations["/".join(path[1:])] = (path, None)
            continue
        for row in range(leaf.shape[0]):
            locations["/".join((f"block {first_block[path[1]] + row}", *path[2:]))] = (path, row)
    return locations


def _shape(variables: Params, location: Location) -> tuple[int, ...]:
    path, row = location
    shape = traverse_util.flatten_dict(variables)[path].shape
    return shape if row is None else shape[1:]
