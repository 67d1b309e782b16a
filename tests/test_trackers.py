"""Trackers get every metric, and none of them stops, slows down or crashes a run."""

import json
import sys
import threading
import time
import types

import pytest

from lm2_jax.config import Config, LogConfig
from lm2_jax.training import trackers
from lm2_jax.training.trackers import Trackers
from lm2_jax.training.writers import MetricsWriter

VALUES = {"loss": 1.5, "mfu": None, "grad_norm": float("nan"), "tokens": 7}


class Own:
    """A tracker as a user writes it; all of them are in `made`."""

    made: list = []

    def __init__(self, run_id, name, project, folder, config):
        self.run_id, self.given = run_id or "new", (run_id, name, project, config)
        self.lines, self.closed = [], False
        self.made.append(self)

    def write(self, step, values):
        self.lines.append((step, values))

    def close(self):
        self.closed = True


class Fails(Own):
    def write(self, step, values):
        raise ConnectionError("no route to host\nmore")


class Hangs(Own):
    go_on = threading.Event()

    def write(self, step, values):
        self.go_on.wait(10)


@pytest.fixture(autouse=True)
def none_made():
    Own.made.clear()


def config(*names):
    return Config(log=LogConfig(trackers=names, project="p"))


def started(workdir, *names):
    return Trackers(config(*(f"test_trackers:{name}" for name in names)), workdir)


def test_metrics_that_are_numbers_arrive_in_order(tmp_path):
    writer = MetricsWriter(tmp_path / "run", 0, started(tmp_path / "run", "Own"))
    for step in range(1, 6):
        writer.write(step, VALUES)
    writer.close()
    own, = Own.made
    assert own.closed and own.lines == [(n, {"loss": 1.5, "tokens": 7.0}) for n in range(1, 6)]
    run_id, name, project, keys = own.given
    assert (run_id, name, project) == (None, "run", "p") and keys["train.num_steps"] == 1000


def test_a_run_that_is_resumed_is_the_same_run_there(tmp_path):
    started(tmp_path, "Own").close()
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"test_trackers:Own": "new"}
    started(tmp_path, "Own").close()
    assert Own.made[1].given[0] == "new"
    (tmp_path / "trackers.json").write_text("{")
    started(tmp_path, "Own").close()
    assert Own.made[2].given[0] is None


@pytest.mark.parametrize("name,reason", [
    ("test_trackers:Fails", "ConnectionError: no route to host"),
    ("test_trackers:Nothing", "AttributeError: "), ("no_such_module:X", "No module named"),
    ("wandb", "pip install 'lm2_jax[wandb]'"), ("mlflow", "pip install 'lm2_jax[mlflow]'")])
def test_one_that_fails_is_left_out_and_the_others_go_on(name, reason, tmp_path, capsys,
                                                         monkeypatch):
    for service in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, service, None)
    found = Trackers(config(name, "test_trackers:Own"), tmp_path)
    for step in range(1, 4):
        found.write(step, VALUES)
    found.close()
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f"log.trackers: {name} is left out, the run goes on: ")
    assert reason in line and len(Own.made[-1].lines) == 3


def test_one_that_hangs_is_not_waited_for(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trackers, "MOST_WAITING", 5)
    monkeypatch.setattr(trackers, "SECONDS_TO_END", 0.2)
    found = started(tmp_path, "Hangs")
    began = time.monotonic()
    for step in range(1, 100):
        found.write(step, VALUES)
    assert time.monotonic() - began < 1
    found.close()
    assert time.monotonic() - began < 2
    assert capsys.readouterr().err.count("it does not keep up") == 1
    Hangs.go_on.set()


def test_what_wandb_is_called_with(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(id="w1", log=lambda values, step: calls.append((step, values)),
                                finish=lambda: calls.append("finish"))
    module = types.SimpleNamespace(init=lambda **given: calls.append(given) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    found = Trackers(config("wandb"), tmp_path)
    found.write(3, VALUES)
    found.close()
    begun, *rest = calls
    assert rest == [(3, {"loss": 1.5, "tokens": 7.0}), "finish"]
    assert begun["project"] == "p" and begun["id"] is None and begun["resume"] == "allow"
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "w1"}


def test_what_mlflow_is_called_with(tmp_path, monkeypatch):
    """A run that is resumed is updated, and neither created nor given its parameters again."""
    calls = []

    class Client:
        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            calls.append(("experiment", name))
            return "e1"

        def create_run(self, experiment, run_name):
            calls.append(("run", experiment, run_name))
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id="m1"))

        def log_batch(self, run_id, metrics=(), params=()):
            assert len(params) <= 100  # the most that a server takes
            calls.extend((run_id, *param) for param in params if param[0] == "train.num_steps")
            calls.extend((run_id, key, value, step) for key, value, _, step in metrics)

        def update_run(self, run_id, status):
            calls.append((status, run_id))

        def set_terminated(self, run_id):
            calls.append(("ended", run_id))

    entities = types.SimpleNamespace(Metric=lambda *values: values, Param=lambda *pair: pair)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=Client,
                                                                     entities=entities))
    for step in (3, 4):
        found = Trackers(config("mlflow"), tmp_path / "run")
        found.write(step, VALUES)
        found.close()
    assert calls == [
        ("experiment", "p"), ("run", "e1", "run"), ("m1", "train.num_steps", "1000"),
        ("m1", "loss", 1.5, 3), ("m1", "tokens", 7.0, 3), ("ended", "m1"),
        ("RUNNING", "m1"), ("m1", "loss", 1.5, 4), ("m1", "tokens", 7.0, 4), ("ended", "m1")]


@pytest.mark.parametrize("name", ["wnadb", "module:", ":Name", "module:1"])
def test_a_tracker_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="log.trackers is .*; it must be wandb, mlflow or MODULE"):
        LogConfig(trackers=(name,))


def test_mlflow_keeps_what_it_is_given(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for steps in ((1, 2), (3,)):
        found = Trackers(config("mlflow"), tmp_path)
        for step in steps:
            found.write(step, VALUES)
        found.close()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    run_id = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [
        (1, 1.5), (2, 1.5), (3, 1.5)]
    assert client.get_run(run_id).data.params["train.num_steps"] == "1000"
