"""`lm2 bench roofline`: variants of a config's training step, compared by their roofline bounds."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

from lm2_jax import partition
from lm2_jax.config import Config, files
from lm2_jax.config.model import REMAT_POLICIES
from lm2_jax.errors import UserError
from lm2_jax.report import compilation, formulas, programs, records
from lm2_jax.report.compilation import size
from lm2_jax.report.table import Table, percent
from lm2_jax.runtime import paths
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.files import replacing


@dataclasses.dataclass(frozen=True)
class Variant:
    """A change of the config.

    Attributes:
      name: for the table.
      config: values by key, as {"model.remat": "dots"}.
      topologies: to compile for; empty for those of the command.
    """

    name: str
    config: dict[str, object] = dataclasses.field(default_factory=dict)
    topologies: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Row:
    """A variant on a topology.

    Attributes:
      digest: of the program that was compiled. A row whose program is the same is not compiled
        again.
      date: of the compilation.
      report: with the one program.
      formulas: `formulas.Costs` of a device by name.
    """

    variant: Variant
    digest: str
    date: str
    report: compilation.Report
    formulas: dict[str, float]

    @property
    def step(self) -> compilation.Step:
        return self.report.steps[0]

    @property
    def mfu(self) -> float | None:
        """At the bound, from 0 to 1."""
        return self.step.mfu(compilation.devices(self.report))


def remat_variants() -> list[Variant]:
    """Every combination of `model.remat` and `train.remat_segments`."""
    return [Variant(f"remat={remat}, remat_segments={segments}",
                    {"model.remat": remat, "train.remat_segments": segments})
            for remat, segments in itertools.product(REMAT_POLICIES, (False, True))]


def read_variants(path: str | Path) -> list[Variant]:
    """Reads variants from a JSON file: a list of {"name": .., "config": {..}, "topologies": [..]}.

    Raises:
      UserError: the file has another form.
    """
    try:
        found = [Variant(**one) for one in json.loads(paths.of(path).read_text("utf-8"))]
    except (ValueError, TypeError) as error:
        raise UserError(f'{path} is not a list of {{"name": .., "config": {{"KEY": VALUE}}, '
                        f'"topologies": [..]}} in JSON: {error}') from None
    if not found or len({one.name for one in found}) < len(found):
        raise UserError(f"{path} must have one variant at least, and each name once")
    return found


def run(path: str, overrides: dict[str, str], variants: Sequence[Variant],
        wanted: Sequence[str], out: str | Path, quick: bool = False,
        console: Console | None = None) -> list[Row]:
    """Compiles the training step of every variant for every topology; prints and writes the table.

    Both files are written after each compilation and roofline.json is read at the start, so that an
    interrupted command goes on where it was.

    Args:
      path: or name of the config.
      overrides: of all variants, as `files.load_config` takes them.
      wanted: topologies of the variants that name none, as "v5e:4x4".
      out: folder of roofline.json and roofline.md.
      quick: whether to compile with the least effort, which takes about a seventh of the time.
        FLOPs and collectives stay as they are; memory traffic can be a quarter more.

    Raises:
      UserError: if the config of a variant, or a topology, is not usable.
    """
    console, out = console or Console(), paths.of(out)
    if quick:
        programs.compile_quickly()
    known = {(row.digest, row.report.topology): row for row in read_rows(out / "roofline.json")}
    rows = []
    for topology in dict.fromkeys(itertools.chain(wanted, *(one.topologies for one in variants))):
        for variant in variants:
            if topology not in (variant.topologies or wanted):
                continue
            values = {key: _text(value) for key, value in variant.config.items()}
            config = files.load_config(path, overrides | values)
            rows.append(_row(config, path, variant, topology, known, console))
            new = {(row.digest, row.report.topology) for row in rows}
            _write(out, path, rows, [row for key, row in known.items() if key not in new])
    _write(out, path, rows)
    console.print(table(rows).terminal(heading(path, rows)))
    for name in ("roofline.json", "roofline.md"):
        console.print(str(out / name))
    return rows


def _row(config: Config, path: str, variant: Variant, topology: str,
         known: dict[tuple[str, str], Row], console: Console) -> Row:
    report, found, mesh = programs.begin(config, path, topology)
    with partition.use(mesh):
        traced, step = programs.training(config, mesh)
        digest = programs.digest(traced, found)
        if row := known.get((digest, topology)):
            console.print(f"{topology}, {variant.name}: known")
            return dataclasses.replace(row, variant=variant)
        step = programs.compiled(traced, step, found, mesh)
        costs = formulas.training_step(config, mesh, *(
            programs.heaviest_stage(config, mesh)[i] for i in (1, 0, 2)))
    console.print(f"{topology}, {variant.name}: compiled in {step.seconds:.0f} s")
    report.steps.append(step)
    date = records.today()
    return Row(variant, digest, date, report, dataclasses.asdict(costs))


def _text(value: object) -> str:
    """A value of a JSON file as it stands on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _write(out: Path, path: str, rows: Sequence[Row], later: Sequence[Row] = ()) -> None:
    """Writes roofline.json and roofline.md.

    Args:
      later: rows of an earlier run that are not in this table yet.
    """
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "roofline.json") as partial:
        partial.write_text(json.dumps([dataclasses.asdict(row) for row in (*rows, *later)],
                                      indent=1) + "\n", "utf-8")
    with replacing(out / "roofline.md") as partial:
        partial.write_text("\n".join([heading(path, rows), "", table(rows).markdown(),
                                      against_formulas(rows).markdown()]), "utf-8")


def read_rows(path: Path) -> list[Row]:
    """Reads a roofline.json; [] if there is none."""
    if not path.exists():
        return []
    return [Row(**row | {"variant": Variant(**row["variant"]),
                         "report": compilation.from_dict(row["report"])})
            for row in json.loads(path.read_text("utf-8"))]


def heading(path: str, rows: Sequence[Row]) -> str:
    """One line with the config, the step, the version of jax and the dates."""
    dates = sorted({row.date for row in rows})
    versions = sorted({row.report.jax for row in rows})
    effort = "with the least effort " if any(row.report.effort < 0 for row in rows) else ""
    return (f"{path}, training step, compiled {effort}and not run; jax {', '.join(versions)}; "
            f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}")


def table(rows: Sequence[Row]) -> Table:
    """A section for each topology; the best row of each size of model is marked with *."""
    sections = [[_cells(row, row in best(rows)) for row in group] for _, group in
                itertools.groupby(rows, key=lambda row: row.report.topology)]
    return Table(
        ["", "topology", "variant", "mesh", "micro\nbatches", "fits", "peak",
         "recomputed\n%", "arithmetic\nms", "memory\nms", "interconnect\nms", "limit",
         "MFU %,\noverlap", "MFU %,\nno overlap"], sections, text_columns=4,
        note="Roofline bounds of one device, by the published peaks of the chip: the time of its "
             "matrix products (recomputation included), of its memory traffic, and of what it "
             "receives from others. MFU is the FLOPs that the model needs over what the chip could "
             "compute in the longest of the three (complete overlap), and in their sum (no "
             "overlap). recomputed: the share of the FLOPs that rematerialisation adds. * is the "
             "variant that fits and has the highest MFU, of the models with as many parameters.")


def best(rows: Sequence[Row]) -> list[Row]:
    """The row that fits with the highest MFU, for each topology and number of parameters."""
    found: dict[tuple[str, int], Row] = {}
    for row in rows:
        key = row.report.topology, row.report.parameters
        if row.step.fits and row.mfu is not None and (
                key not in found or row.mfu > (found[key].mfu or 0)):
            found[key] = row
    return list(found.values())


def _cells(row: Row, is_best: bool) -> list[str]:
    step, report = row.step, row.report
    bound, parts = step.roofline, step.title.rpartition(" in ")[2].partition(" ")[0]
    times = [f"{1e3 * seconds:,.0f}" for seconds in step.bound.values()] or ["-"] * 3
    return ["*" if is_best else "", report.topology, row.variant.name,
            " x ".join(map(str, report.mesh.values())), parts, compilation.yes_no(step.fits),
            step.error or size(step.bytes.get("peak")),
            percent(step.recomputed / step.matrix_flops), *times,
            bound.limit if bound else "-", percent(row.mfu),
            percent(step.mfu(compilation.devices(report), overlap=False))]


def against_formulas(rows: Sequence[Row]) -> Table:
    """What the compiler found over what the formulas say, for each row that was compiled."""
    def ratio(found: float, formula: float) -> str:
        return f"{found / formula:.2f}" if formula else "-"

    def cells(row: Row) -> list[str]:
        step, costs = row.step, row.formulas
        needed = (step.matrix_flops - step.recomputed) / compilation.devices(row.report)
        return [row.report.topology, row.variant.name, ratio(needed, costs["flops"]),
                size(round(costs["peak"])), ratio(step.bytes["peak"], costs["peak"]),
                size(round(costs["moved"])), ratio(step.moved, costs["moved"]),
                size(round(costs["received"])), ratio(step.received, costs["received"])]

    found = [row for row in rows if row.step.bytes]
    return Table(["topology", "variant", "FLOPs,\nratio", "peak", "ratio", "memory\ntraffic",
                  "ratio", "received", "ratio"], [[cells(row) for row in found]], text_columns=2,
                 note="By formula (lm2_jax/report/formulas.py), and the ratio of what was compiled "
                      "to it. FLOPs are without recomputation. The formula of the memory traffic "
                      "leaves out the affinities of attention and memory, as kernels do that keep "
                      "them on the chip.")
