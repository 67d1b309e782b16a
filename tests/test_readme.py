"""What the README says is what the repository does."""

import re
import shlex
from pathlib import Path

import jax
import numpy as np

from lm2_jax.cli import main
from lm2_jax.eval import results
from lm2_jax.eval.metrics import wilson
from lm2_jax.report import figures

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_example_runs():
    *lines, last = blocks("python")[0].strip().split("\n")
    assert last.startswith("config, variables, step = lm2.load_checkpoint(")
    names = {}
    exec("\n".join(lines), names)
    out, cfg = names["out"], names["cfg"]
    assert out.logits.shape == (2, 100, cfg.vocab_size)
    assert np.isfinite(out.logits).all()
    assert jax.tree.leaves(out.state)[0].shape == (3, 2, 8, 128)


def test_ci_runs_the_test_command_of_the_readme():
    command = next(block.strip() for block in blocks("bash") if "pytest" in block)
    quiet = command.replace("pip install", "pip install --quiet")
    assert quiet in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_config_that_is_named_exists():
    named = set(re.findall(r"configs/\w+\.py", README))
    assert len(named) >= 4
    assert all((ROOT / name).is_file() for name in named)


def test_its_results_are_those_of_the_files():
    """Every accuracy of a committed result, and its two controls, stand in one line of a table."""
    for name in ("quickstart", "babilong_real"):
        grid = results.cells(results.read_results(ROOT / "configs" / "results" / name))
        for cell in grid:
            low, high = wilson(cell.carried.exact_match * cell.carried.n, cell.carried.n)
            wanted = (f"{cell.any.segments:.1f}".removesuffix(".0") if cell.any.segments < 100
                      else f"{cell.any.segments:.0f}")
            wanted += (f" | {cell.carried.exact_match:.3f} ({low:.3f}-{high:.3f}) | "
                       f"{cell.reset.exact_match:.3f} | {cell.any.constant_answer:.3f} | "
                       f"{cell.any.n} |")
            assert wanted in README, wanted


def test_its_comparison_is_that_of_the_files():
    """The mean of the seeds of each model, the lowest and the highest."""
    folder = ROOT / "configs" / "results" / "rivals"
    columns = []
    for name in ("lm2", "rmt", "armt", "llama", "full", "rag"):
        seeds = [results.cells(results.read_results(run))
                 for run in sorted(folder.glob(f"{name}_seed?"))]
        assert len(seeds) >= 2 and {len(cells) for cells in seeds} == {6}
        columns.append(list(zip(*seeds, strict=True)))
    for row in zip(*columns, strict=True):
        assert len({cell.any.length for seeds in row for cell in seeds}) == 1
        rates = [[100 * cell.carried.exact_match for cell in seeds] for seeds in row]
        wanted = [f"{np.mean(r):.1f} ({min(r):.1f}-{max(r):.1f})" for r in rates]
        wanted.append(f"{100 * row[0][0].any.constant_answer:.1f}")
        line = " | ".join(wanted).replace("100.0", "100")
        assert f" | {line} |" in README, line


def test_its_qa2_is_that_of_the_files():
    folder = ROOT / "configs" / "results" / "rivals_qa2"
    names = [name for name in ("lm2", "rmt", "armt", "llama", "full", "rag")
             if (folder / f"{name}_seed0").exists()]
    assert len(names) >= 5
    for row in zip(*(results.cells(results.read_results(folder / f"{name}_seed0"))
                     for name in names), strict=True):
        wanted = [100 * cell.carried.exact_match for cell in row]
        wanted.append(100 * row[0].any.constant_answer)
        line = " | ".join(f"{value:.1f}" for value in wanted)
        assert f" | {line} |" in README, line


def test_its_report_command_makes_the_report_that_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    command, = (block for block in blocks("bash") if "results/rivals" in block)
    _, _, pattern, *options = shlex.split(command.replace("\\\n", ""))
    before, names, after = re.split("[{}]", pattern)
    folders = [str(path) for name in names.split(",")
               for path in sorted(Path().glob(before + name + after))]
    out, = (option for option in options if option.startswith("--out="))
    options[options.index(out)] = f"--out={tmp_path}"
    assert main(["report", *folders, *options]) == 0
    written = (tmp_path / "report.md").read_text("utf-8")
    assert written == Path(out.removeprefix("--out="), "report.md").read_text("utf-8")
