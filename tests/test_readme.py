"""What the README says is what the repository does."""

import re
from pathlib import Path

import jax
import numpy as np

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
