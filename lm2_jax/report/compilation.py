"""The report of `lm2 compile`: the memory, FLOPs and collectives of compiled programs."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table as RichTable

from lm2_jax.report.collectives import Collectives, by_kind
from lm2_jax.report.table import Table
from lm2_jax.runtime.files import replacing

GIB = 2**30


@dataclass(frozen=True)
class Step:
    """One compiled program.

    Attributes:
      title: what the program does, for tables.
      matrix_flops: FLOPs of its matrix products, summed over all devices.
      seconds: duration of the compilation (or lowering).
      bytes: memory of one device by use, as `memory` returns it; empty if the program was only
        lowered or did not compile.
      fits: whether the program fits into the memory of a device; None if that is not known.
      collectives: `Collectives._asdict()` for each kind and size of collective.
      error: sizes in the compiler's message if it ran out of memory, else "".
    """

    title: str
    matrix_flops: int
    seconds: float = 0.0
    bytes: dict[str, int] = field(default_factory=dict)
    fits: bool | None = None
    collectives: list[dict] = field(default_factory=list)
    error: str = ""


@dataclass
class Report:
    """All programs of a config on one topology.

    Attributes:
      config: path or name of the config.
      topology: as "v5e:4x4".
      chip: kind of device, as JAX names it.
      memory: bytes of one device; None if unknown.
      mesh: size of each mesh axis.
      jax: version.
      parameters: number of the model's parameters.
      steps: the programs.
    """

    config: str
    topology: str
    chip: str
    memory: int | None
    mesh: dict[str, int]
    jax: str
    parameters: int
    steps: list[Step] = field(default_factory=list)


@dataclass(frozen=True)
class Variant:
    """The training step under one rematerialisation setting.

    Attributes:
      remat: `model.remat`.
      remat_segments: `train.remat_segments`.
      chosen: whether this is the setting of the config.
      step: the compiled training step.
    """

    remat: str
    remat_segments: bool
    chosen: bool
    step: Step


def memory(analysis) -> dict[str, int]:
    """Returns the bytes on one device by use, from `compiled.memory_analysis()`.

    "reused" is the size of the outputs that take the buffers of donated arguments; "peak" is the
    sum of all other uses, with these outputs counted once.
    """
    m = analysis
    sizes = dict(arguments=m.argument_size_in_bytes, outputs=m.output_size_in_bytes,
                 reused=m.alias_size_in_bytes, temporaries=m.temp_size_in_bytes,
                 program=m.generated_code_size_in_bytes)
    return sizes | {"peak": sum(sizes.values()) - 2 * sizes["reused"]}


def out_of_memory(message: str) -> str | None:
    """Returns the sizes in the compiler's out-of-memory message; None for any other message.

    They have the form "20.53G of 15.75G". An out-of-memory message without sizes is returned as
    "RESOURCE_EXHAUSTED".
    """
    size = r"\(?([\d.]+\w?)\)?"
    found = (re.search(f"Used {size} of {size} hbm", message)
             or re.search(f"temporaries {size} exceeds available HBM {size}", message))
    if found:
        return f"{found[1]} of {found[2]}"
    return "RESOURCE_EXHAUSTED" if "RESOURCE_EXHAUSTED" in message else None


def heading(report: Report) -> str:
    """Returns one line with the config, the topology, the parameters and the mesh."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in report.mesh.items())
    room = f", {report.memory / GIB:.0f} GiB each" if report.memory else ""
    return (f"{report.config} on {report.topology}: {report.parameters / 1e9:.3f} B parameters, "
            f"mesh {mesh}, {report.chip}{room}")


def step_table(report: Report, step: Step) -> RichTable:
    """Returns the figures of one program as a table for the terminal."""
    return Table([], [_rows(report, step)], text_columns=2).terminal(step.title)


def variants_table(variants: Sequence[Variant]) -> Table:
    """Returns a table with a row for each variant, the config's own marked with *."""
    def row(variant: Variant) -> list[str]:
        step = variant.step
        gathered = _totals(step).get("all-gather", {}).get("bytes_per_run", 0)
        return ["*" if variant.chosen else "", variant.remat, str(variant.remat_segments),
                _yes_no(step.fits), step.error or _size(step.bytes.get("peak")),
                f"{step.matrix_flops:.3e}", _size(gathered) if step.bytes else "-"]

    return Table(["", "remat", "remat_segments", "fits", "peak", "FLOPs", "all-gathers"],
                 [[row(variant) for variant in variants]], text_columns=4,
                 note="* marks the setting of the config (model.remat, train.remat_segments). "
                      "Bytes are per device and step, FLOPs those of the matrix products on all "
                      "devices, including recomputation.")


def _rows(report: Report, step: Step) -> list[tuple[str, str]]:
    rows = [(f"{name}, a device", _size(size)) for name, size in step.bytes.items()]
    if step.error:
        rows.append(("out of memory, a device", step.error))
    if report.memory:
        rows.append((f"fits {_size(report.memory)}", _yes_no(step.fits)))
    if not step.bytes and not step.error:
        rows.append(("lowered only", "no compiler for these devices is installed"))
    rows.append(("FLOPs of matrix products, all devices", f"{step.matrix_flops:.3e}"))
    for kind, total in _totals(step).items():
        rows.append((kind, f"{total['in_program']} in the program, {total['per_run']} a run, "
                           f"{_size(total['bytes_per_run'])} a device"))
    for row in step.collectives[:5]:
        rows.append((f"  {row['kind']} of {_size(row['bytes'])}", f"{row['per_run']} a run"))
    return rows + [("seconds to compile", f"{step.seconds:.0f}")]


def write(report: Report, path: Path) -> None:
    """Writes the report as JSON; for a .md path, also a table of all JSON reports beside it."""
    name = re.sub(r"\W", "_", report.topology) + ".json"
    target = path if path.suffix == ".json" else path.with_name(name)
    with replacing(target) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(report), indent=1) + "\n", "utf-8")
    if path.suffix == ".md":
        with replacing(path) as partial:
            partial.write_text(markdown(read_all(path.parent)), "utf-8")


def read_all(folder: Path) -> list[Report]:
    """Returns the reports of a folder, sorted by the number of devices."""
    reports = []
    for path in sorted(folder.glob("*.json")):
        values = json.loads(path.read_text("utf-8"))
        reports.append(Report(**values | {"steps": [Step(**step) for step in values["steps"]]}))
    return sorted(reports, key=lambda report: (_devices(report), report.topology))


def markdown(reports: Sequence[Report]) -> str:
    """Returns a page with a table of the programs and a table of their collectives."""
    programs = Table(
        ["topology", "mesh", "program", "arguments", "temporaries", "peak", "of", "fits", "FLOPs"],
        [[[*_where(report), step.title,
           *(_size(step.bytes.get(name)) for name in ("arguments", "temporaries", "peak")),
           _size(report.memory), _yes_no(step.fits) + (f" ({step.error})" if step.error else ""),
           f"{step.matrix_flops:.3e}"]
          for report in reports for step in report.steps]], text_columns=3)
    collectives = Table(
        ["topology", "mesh", "program", "collective", "in the program", "a run", "bytes a run"],
        [[[*_where(report), step.title, kind, str(total["in_program"]), str(total["per_run"]),
           _size(total["bytes_per_run"])] for report in reports for step in report.steps
          for kind, total in _totals(step).items()]], text_columns=4)
    compiled = sorted({f"{report.config}, {report.parameters / 1e9:.3f} B parameters, jax "
                       f"{report.jax}" for report in reports})
    notes = ("Bytes are per device; those of a collective are the size of its result. FLOPs are "
             "those of the matrix products on all devices together, recomputation included.")
    return "\n".join(["; ".join(compiled), "", programs.markdown(), collectives.markdown(), notes,
                      ""])


def _totals(step: Step) -> dict[str, dict[str, int]]:
    return by_kind([Collectives(**row) for row in step.collectives])


def _where(report: Report) -> tuple[str, str]:
    return report.topology, " x ".join(map(str, report.mesh.values()))


def _devices(report: Report) -> int:
    return math.prod(report.mesh.values())


def _yes_no(fits: bool | None) -> str:
    return {True: "yes", False: "NO", None: "-"}[fits]


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"
