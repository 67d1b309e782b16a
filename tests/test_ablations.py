"""configs/ablations.py: its variants load, and differ in what they say."""

import itertools

import pytest
from config_keys import refusal

from lm2_jax.config import files, source

NAMES = source.runs("ablations")


def tokens_a_step(config):
    """Tokens of a batch, averaged over the steps."""
    stages = [*config.data.curriculum, (config.train.num_steps,)]
    return sum((following[0] - first) * segments * rows * config.model.segment_length
               for (first, segments, rows), following in itertools.pairwise(stages)
               ) / config.train.num_steps


def test_every_run_loads_and_no_two_are_the_same():
    configs = {name: files.load_config(f"ablations:{name}") for name in NAMES}
    assert len({str(config) for config in configs.values()}) == len(NAMES) >= 20
    for name, config in configs.items():
        changed = files.differences(configs["base"], config)
        assert all(line.startswith(("model.", "data.", "train.")) for line in changed)
        assert len(changed) <= (8 if name.startswith("segment") else 5)
    assert configs["paper"].model.memory.write == "paper"
    assert configs["cost_0.3"].train.write_cost_from == 2400


@pytest.mark.parametrize("name", NAMES)
def test_every_run_has_as_many_tokens(name):
    base, config = (files.load_config(f"ablations:{one}") for one in ("base", name))
    assert abs(tokens_a_step(config) / tokens_a_step(base) - 1) <= 0.1
    assert config.train.num_steps == base.train.num_steps
    assert max(stage[1] for stage in config.data.curriculum) * config.model.segment_length <= 768
    T, T_base = config.model.segment_length, base.model.segment_length
    assert config.data.points_per_segment / T == base.data.points_per_segment / T_base


def test_an_unknown_run_names_those_there_are():
    assert "there is no run rooted; the runs are base, paper" in refusal({}, "ablations:rooted")


def test_the_names_of_runs_are_read_from_the_file(tmp_path):
    assert source.runs("rivals") == [
        "lm2", "rmt", "armt", "delta", "llama", "window", "full"]
    path = tmp_path / "own.py"
    for text, wanted in (("x = 1\n", "has no dictionary RUNS"), ("RUNS = {}\n", "has no diction"),
                         ("x = 1\nRUNS = y\n", "own.py:2: NameError")):
        path.write_text(text)
        with pytest.raises(ValueError, match=wanted):
            source.runs(path)
    with pytest.raises(ValueError, match="names one run; .* as --runs=lm2"):
        source.runs("rivals:lm2")
