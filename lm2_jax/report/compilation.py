"""The report of `lm2 compile`: the memory, FLOPs and collectives of compiled programs."""

import dataclasses
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table as RichTable

from lm2_jax.report import pipeline
from lm2_jax.report.collectives import Collectives, by_kind
from lm2_jax.report.roofline import Bound
from lm2_jax.report.table import Table, percent
from lm2_jax.runtime.files import write_text

GIB = 2**30


@dataclass(frozen=True)
class Step:
    """One compiled program.

    Attributes:
      title: what the program does, for tables.
      matrix_flops: FLOPs of its matrix products, summed over all devices, as traced.
      recomputed: those of them that only rematerialisation adds; 0 if it is not a training step.
      model_flops: FLOPs that the model needs (`clock.flops_per_token`), on all devices; 0 if it is
        not a training step.
      seconds: duration of the compilation (or lowering).
      bytes: memory of one device by use, as `memory` returns it; empty if the program was only
        lowered or did not compile.
      fits: whether the program fits into the memory of a device; None if that is not known.
      flops: of the matrix products that one device computes, as compiled.
      moved: bytes that one device reads from and writes to its main memory.
      received: bytes that one device receives from others.
      bound: seconds of `roofline.Bound` by name; empty if the peaks of the chip are not known.
      instructions: of the compiled program.
      collectives: `Collectives._asdict()` for each kind and size of collective.
      crossing: a line for each collective that crosses the border of two slices.
      error: sizes in the compiler's message if it ran out of memory, else "".
      pipeline: `dataclasses.asdict` of a `pipeline.Pipeline`; empty without stages.
      digest: of the program as it went to the compiler (`programs.digest`); "" if not known.
    """

    title: str
    matrix_flops: int
    recomputed: int = 0
    model_flops: float = 0.0
    seconds: float = 0.0
    bytes: dict[str, int] = field(default_factory=dict)
    fits: bool | None = None
    flops: int = 0
    moved: int = 0
    received: int = 0
    bound: dict[str, float] = field(default_factory=dict)
    instructions: int = 0
    collectives: list[dict] = field(default_factory=list)
    crossing: list[str] = field(default_factory=list)
    error: str = ""
    pipeline: dict = field(default_factory=dict)
    digest: str = ""

    @property
    def roofline(self) -> Bound | None:
        """The bound on the time of the step; None if it is not known."""
        return Bound(**self.bound) if self.bound else None

    def mfu(self, devices: int, overlap: bool = True) -> float | None:
        """Model FLOPs utilisation at the bound, from 0 to 1; None if it is not known.

        Args:
          devices: of the mesh.
          overlap: whether arithmetic, memory traffic and collectives overlap completely, or not at
            all.
        """
        bound = self.roofline
        if bound is None or not self.model_flops or not self.flops:
            return None
        seconds = bound.seconds if overlap else bound.no_overlap
        return self.model_flops / devices / self.flops * bound.arithmetic / seconds


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
      effort: of the compiler for fast programs, from -1 to 1; 0 is its default.
      date: of the report.
    """

    config: str
    topology: str
    chip: str
    memory: int | None
    mesh: dict[str, int]
    jax: str
    parameters: int
    steps: list[Step] = field(default_factory=list)
    effort: float = 0.0
    date: str = ""


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


def _rows(report: Report, step: Step) -> list[tuple[str, str]]:
    rows = [(f"{name}, a device", size(count)) for name, count in step.bytes.items()]
    if step.error:
        rows.append(("out of memory, a device", step.error))
    if report.memory:
        rows.append((f"fits {size(report.memory)}", yes_no(step.fits)))
    if not step.bytes and not step.error:
        rows.append(("lowered only", "no compiler for these devices is installed"))
    rows.append(("FLOPs of matrix products, all devices", f"{step.matrix_flops:.3e}"))
    if step.recomputed:
        rows.append(("  of which recomputed",
                     percent(step.recomputed / step.matrix_flops) + " %"))
    if step.flops:
        rows.append(("FLOPs of matrix products, a device", f"{step.flops:.3e}"))
        rows.append(("bytes to and from memory, a device", size(step.moved)))
        rows.append(("bytes received, a device", size(step.received)))
    bound, mfu = step.roofline, step.mfu(devices(report))
    if bound:
        rows.append(("roofline bound", f"{1e3 * bound.seconds:,.1f} ms, by {bound.limit}"))
        rows += [(f"  {name}", f"{1e3 * seconds:,.1f} ms") for name, seconds in step.bound.items()]
    if mfu is not None:
        rows.append(("MFU at the bound", percent(mfu) + " %"))
    for kind, total in totals(step).items():
        rows.append((kind, f"{total['in_program']} in the program, {total['per_run']} a run, "
                           f"{size(total['bytes_per_run'])} a device"))
    for row in step.collectives[:5]:
        rows.append((f"  {row['kind']} of {size(row['bytes'])}", f"{row['per_run']} a run"))
    return rows + [("seconds to compile", f"{step.seconds:.0f}")]


def write(report: Report, path: Path) -> None:
    """Writes the report as JSON; for a .md path, also a table of all JSON reports beside it."""
    write_text(_json_of(report, path), json.dumps(dataclasses.asdict(report), indent=1) + "\n")
    if path.suffix == ".md":
        write_text(path, markdown(read_all(path.parent)))


def known(report: Report, path: Path) -> dict[str, Step]:
    """Returns the programs that an earlier report of this topology has in the file that `write`
    would write, by digest."""
    target = _json_of(report, path)
    if not target.exists():
        return {}
    return {step.digest: step for step in from_dict(json.loads(target.read_text("utf-8"))).steps
            if step.digest}


def _json_of(report: Report, path: Path) -> Path:
    name = re.sub(r"\W", "_", report.topology) + ".json"
    return path if path.suffix == ".json" else path.with_name(name)


def read_all(folder: Path) -> list[Report]:
    """Returns the reports of a folder, sorted by the number of devices."""
    reports = [from_dict(json.loads(path.read_text("utf-8")))
               for path in sorted(folder.glob("*.json"))]
    return sorted(reports, key=lambda report: (devices(report), report.topology))


def from_dict(values: dict) -> Report:
    """Returns the report from which `dataclasses.asdict` made these values."""
    return Report(**values | {"steps": [Step(**step) for step in values["steps"]]})


def markdown(reports: Sequence[Report]) -> str:
    """Returns a page with a table of the programs and a table of their collectives."""
    programs = Table(
        ["topology", "mesh", "program", "arguments", "temporaries", "peak", "of", "fits", "FLOPs"],
        [[[*_where(report), step.title,
           *(size(step.bytes.get(name)) for name in ("arguments", "temporaries", "peak")),
           size(report.memory), yes_no(step.fits) + (f" ({step.error})" if step.error else ""),
           f"{step.matrix_flops:.3e}"]
          for report in reports for step in report.steps]], text_columns=3)
    collectives = Table(
        ["topology", "mesh", "program", "collective", "in the program", "a run", "bytes a run"],
        [[[*_where(report), step.title, kind, str(total["in_program"]), str(total["per_run"]),
           size(total["bytes_per_run"])] for report in reports for step in report.steps
          for kind, total in totals(step).items()]], text_columns=4)
    bounds = Table(
        ["topology", "mesh", "program", "FLOPs", "recomputed", "memory traffic", "received",
         "arithmetic", "memory", "interconnect", "limit", "MFU"],
        [[[*_where(report), step.title, f"{step.flops:.3e}",
           percent(step.recomputed / step.matrix_flops) + " %" if step.recomputed else "-",
           size(step.moved), size(step.received),
           *(f"{1e3 * step.bound[name]:,.1f} ms" for name in ("arithmetic", "memory",
                                                              "interconnect")),
           bound.limit, percent(step.mfu(devices(report)))] for report in reports
          for step in report.steps if (bound := step.roofline)]], text_columns=3)
    compiled = sorted({f"{report.config}, {report.parameters / 1e9:.3f} B parameters, jax "
                       f"{report.jax}"
                       + (f", {report.date}" if report.date else "")
                       + (", compiled with the least effort" if report.effort < 0 else "")
                       for report in reports})
    notes = ("Bytes are per device; those of a collective are the size of its result. FLOPs are "
             "those of the matrix products on all devices together, recomputation included; in the "
             "table of roofline bounds they are those of one device. The bound of a program is "
             "the largest of its three times, by the published peaks of the chip; MFU is the FLOPs "
             "that the model needs over what the chip could compute in that time, in per cent.")
    parts = [table.markdown() for table in (programs, bounds, collectives) if table.sections[0]]
    pipelines = [f"{report.topology}: {line}\n" for report in reports for step in report.steps
                 if step.pipeline for line in pipeline.lines(pipeline.Pipeline(**step.pipeline))]
    return "\n".join(["; ".join(compiled), "", *parts, notes, "", *pipelines])


def totals(step: Step) -> dict[str, dict[str, int]]:
    """The step's collectives by kind; see `collectives.by_kind`."""
    return by_kind([Collectives(**row) for row in step.collectives])


def _where(report: Report) -> tuple[str, str]:
    return report.topology, " x ".join(map(str, report.mesh.values()))


def devices(report: Report) -> int:
    """The number of devices of the mesh."""
    return math.prod(report.mesh.values())


def yes_no(fits: bool | None) -> str:
    """Whether a program fits, as a word; "-" if that is not known."""
    return {True: "yes", False: "NO", None: "-"}[fits]


def size(count: int | None) -> str:
    """A number of bytes as "1.50 GiB"; "-" of None."""
    if count is None:
        return "-"
    for unit, scale in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= scale:
            return f"{count / scale:.2f} {unit}"
    return f"{count} B"
