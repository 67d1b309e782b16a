"""What the README says is what the repository does."""

import re
from pathlib import Path

import jax
import numpy as np
import pytest

import lm2_jax
from lm2_jax.config import shipped
from lm2_jax.config.files import load_config

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_it_takes_three_minutes_to_read():
    assert len(README.splitlines()) <= 140


def test_python_example_runs(monkeypatch):
    *lines, load, ask = blocks("python")[0].strip().split("\n")
    assert load.startswith("run = lm2.load(") and "lm2.generate(run, " in ask  # a run is not here
    monkeypatch.setattr(lm2_jax, "load_config", lambda name: load_config(name, {
        "model.num_layers": "1", "model.memory.num_layers": "1"}))  # it compiles sooner
    names = {}
    exec("\n".join(lines), names)
    out, cfg = names["out"], names["cfg"]
    assert out.logits.shape == (2, names["data"][2].tokens_BL.shape[1], cfg.vocab_size)
    assert np.isfinite(out.logits).all() and np.isfinite(names["metrics"]["loss"])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(names["grads"]))


def test_ci_runs_the_test_command_of_the_readme():
    command = next(block.strip() for block in blocks("bash") if "pytest" in block)
    quiet = command.replace("pip install", "pip install --quiet")
    assert quiet in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_everything_that_it_names_exists():
    links = {*re.findall(r"\]\(([^)#:]+)\)", README), *re.findall(r"configs/\w+\.py", README)}
    assert len(links) >= 5
    assert [name for name in links if not (ROOT / name).exists()] == []
    names = {name for name, _ in shipped.shipped()}
    commands = re.findall(r"--config=(\w+)", README)
    assert len(commands) >= 4 and set(commands) <= names


@pytest.mark.parametrize("page", [
    "README.md", "configs/README.md", "configs/results/README.md", "lm2_jax/analysis/README.md",
    *(f"configs/{name}.py" for name, _ in shipped.shipped())])
def test_its_commands_have_configs_that_load(page):
    """Also those of the other pages, and of the configs themselves."""
    text = re.sub(r"\\+\n\s*", " ", (ROOT / page).read_text(encoding="utf-8"))
    commands = re.findall(r"^.*\blm2 \w+ .*--config=([\w:./-]+)(.*)", text, re.M)
    assert commands
    for name, rest in commands:
        if name.startswith("runs/"):  # written by a run
            continue
        load_config(name, dict(re.findall(r"--config\.([\w.]+)=([^\s`\"]+)", rest)))
