"""Evaluations in the middle of a run."""

import json
from types import SimpleNamespace

from lm2_jax.runtime.console import Console
from lm2_jax.training.hooks import PeriodicEvaluation


class Evaluator:
    def __init__(self):
        self.runs = 0

    def run(self, params, modes, num_samples, *, between):
        self.runs += 1
        yield SimpleNamespace(task="qa1", length="1k", n=num_samples, exact_match=0.5,
                              constant_answer=0.2), []


def evaluate(path, step, first_step, settings):
    evaluator = Evaluator()
    evaluation = PeriodicEvaluation(evaluator, path, first_step, 3, settings, Console(quiet=True))
    if evaluation.is_due(step):
        evaluation.run(step, {}, lambda: None)
    evaluation.close()
    return evaluator.runs


def test_a_step_is_evaluated_once_unless_the_settings_change(tmp_path):
    path = tmp_path / "history.jsonl"
    assert evaluate(path, 20, 0, "a") == 1
    assert evaluate(path, 20, 20, "a") == 0
    assert evaluate(path, 20, 20, "b") == 1
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["settings"]) for line in lines] == [(20, "a"), (20, "b")]


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "history.jsonl"
    assert evaluate(path, 40, 0, "a") == 1
    assert evaluate(path, 40, 20, "a") == 1
    assert len(path.read_text().splitlines()) == 1
