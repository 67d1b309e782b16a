"""The loop around the training step: what it calls, and when."""

import contextlib

import numpy as np
import pytest

from lm2_jax.runtime.preemption import Preempted
from lm2_jax.training import loop


class Calls(loop.Hooks):
    """Records what the loop calls; `phases` also has what the time goes to."""

    def __init__(self, ends=(), leaves_at=None, breaks_off_at=None, due=()):
        self.log, self.phases, self.ends, self.leaves_at = [], [], ends, leaves_at
        self.breaks_off_at, self.due = breaks_off_at, due

    @contextlib.contextmanager
    def phase(self, name):
        self.phases.append(name)
        yield
        self.phases.append(f"/{name}")

    def on_step_start(self, step):
        self.phases.append(step)

    def should_stop(self, step, state):
        assert state == step
        return step == self.leaves_at

    def metrics(self, step, values):
        self.log.append(("metrics", step))

    def should_end_stage(self, step, state):
        assert state == step
        self.log.append(("check", step))
        return step in self.ends

    def save_is_due(self, step):
        return step in self.due

    def save(self, step, state):
        self.log.append(("save", step))

    def evaluate(self, step, state):
        self.log.append(("evaluate", step))
        return step == self.breaks_off_at


class Rows:
    """A batch of so many rows."""

    def __init__(self, count):
        self.tokens_BL = np.zeros((count, 1))


def run_loop(bad=None, ends=(), leaves_at=None, breaks_off_at=None, due=(), rows=lambda step: 2,
             **options):
    """A loop over steps that do nothing; `bad` is (step, metrics that are not finite), `ends`
    the steps where a stage ends, `due` those where it is time to save. Returns what it called and
    what it ended with."""
    def step(state, _):
        good = {"loss": np.float32(1), "grad_norm": np.float32(1), "param_norm": np.float32(1),
                "row_loss": np.ones(4, np.float32)}
        return state + 1, good | (bad[1] if bad and state + 1 == bad[0] else {})

    options = dict(first_step=0, num_steps=10, save_every=4, evaluate_every=0,
                   check_every=3) | options
    hooks = Calls(ends, leaves_at, breaks_off_at, due)
    batches = (Rows(rows(n)) for n in range(options["first_step"] + 1, 99))
    try:
        state, done = loop.run(step, options["first_step"], batches, hooks=hooks, **options)
    except loop.NonFiniteError as error:
        return hooks, str(error)
    assert state == done == min([options["num_steps"], *ends, leaves_at or 99,
                                 breaks_off_at or 99])
    return hooks, None


@pytest.mark.parametrize("options", [{}, dict(first_step=4), dict(evaluate_every=3),
                                     dict(evaluate_every=4), dict(evaluate_every=5),
                                     dict(save_every=1), dict(first_step=9),
                                     dict(first_step=6, evaluate_every=3)], ids=str)
def test_the_loop_reports_saves_and_evaluates(options):
    log = run_loop(**options)[0].log
    first, every = options.get("first_step", 0), options.get("save_every", 4)
    steps = range(first + 1, 11)
    wanted = {"metrics": list(steps), "save": [n for n in steps if n % every == 0 or n == 10],
              # Also where it begins: the hook knows what it has evaluated.
              "evaluate": [n for n in range(max(first, 1), 10)
                           if n % options.get("evaluate_every", 11) == 0],
              "check": [n for n in steps if n % 3 == 0]}
    for name, at in wanted.items():
        assert [step for kind, step in log if kind == name] == at
    for kind, step in log:
        # What a step says is on record before it is saved; a save is the last of its step.
        if kind != "metrics" and step > first:
            assert log.index(("metrics", step)) < log.index((kind, step))
            assert ("metrics", step + 1) not in log[:log.index((kind, step))]
        if ("save", step) in log:
            assert log.index((kind, step)) <= log.index(("save", step))


@pytest.mark.parametrize("end", [6, 8])
def test_the_loop_stops_where_a_stage_ends_after_what_is_due_there(end):
    log = run_loop(ends=(end,), check_every=2, evaluate_every=3)[0].log
    assert [step for kind, step in log if kind == "metrics"] == list(range(1, end + 1))
    assert [entry for entry in log if entry[1] == end] == [
        ("metrics", end), ("check", end), {6: ("evaluate", 6), 8: ("save", 8)}[end]]


NAN, INF = np.float32(np.nan), np.float32(np.inf)


@pytest.mark.parametrize("bad,rows", [
    ({"loss": NAN, "row_loss": np.array([1, NAN, 1, INF])}, "1, 3"),
    ({"grad_norm": INF}, "0, 1, 2, 3"),
    ({"param_norm": NAN}, "0, 1, 2, 3"),
])
@pytest.mark.parametrize("at", [1, 3, 4, 10])
def test_the_loop_stops_at_what_is_not_finite_and_does_not_save_it(bad, rows, at):
    hooks, message = run_loop((at, bad))
    log = hooks.log
    assert message.startswith(f"step {at}: ") and "\n" not in message
    assert message.endswith(f"(batch {at - 1}, rows {rows})")
    assert [step for kind, step in log if kind == "metrics"] == list(range(1, at))
    assert [step for kind, step in log if kind == "save"] == [n for n in (4, 8) if n < at]


@pytest.mark.parametrize("at", [3, 4, 6, 10])
def test_a_run_that_is_asked_to_leave_saves_at_once(at):
    """A stage that ends there ends, as its place is saved too; an evaluation waits."""
    log = run_loop(leaves_at=at, evaluate_every=3)[0].log
    due = [("metrics", at), *([("check", at)] if at % 3 == 0 else []), ("save", at)]
    assert log[-len(due):] == due
    assert [step for kind, step in log if kind == "metrics"] == list(range(1, at + 1))
    assert [step for kind, step in log if kind == "evaluate"] == [n for n in (3, 6, 9) if n < at]


def test_an_evaluation_that_is_broken_off_is_the_last_thing_and_the_state_is_saved():
    log = run_loop(breaks_off_at=6, evaluate_every=3)[0].log
    assert log[-3:] == [("check", 6), ("evaluate", 6), ("save", 6)]
    # The run goes on with it; then there is nothing new to save.
    log = run_loop(first_step=6, breaks_off_at=6, evaluate_every=3)[0].log
    assert log == [("evaluate", 6)]


def test_the_time_of_a_step_goes_to_data_then_compilation_or_the_step():
    """A batch of another shape is compiled for once."""
    hooks, _ = run_loop(rows=lambda step: 2 if step < 3 else 1, num_steps=4, check_every=0)
    first, again = ["data", "/data"], ["step", "/step"]
    assert hooks.phases == [
        *first, 1, "compile", "/compile", *again, *first, 2, *again, *again,
        *first, 3, "compile", "/compile", *again, *first, 4, *again, *again]


@pytest.mark.parametrize("at", [1, 4, 5])
def test_sigterm_while_a_batch_is_awaited_saves_the_step_before_once(at):
    """`at`: the step whose batch never comes. Step 4 was saved already, step 0 needs no save."""
    def step(state, _):
        return state + 1, {"loss": np.float32(1), "grad_norm": np.float32(1),
                           "param_norm": np.float32(1), "row_loss": np.ones(4, np.float32)}

    received = []

    def batches():
        yield from (Rows(2) for _ in range(at - 1))
        received.append("SIGTERM")
        raise Preempted

    hooks = Calls()
    hooks.should_stop = lambda step, state: bool(received)
    state, done = loop.run(step, 0, batches(), first_step=0, num_steps=10, save_every=3,
                           evaluate_every=0, check_every=0, hooks=hooks)
    assert state == done == at - 1
    assert hooks.log == {1: [], 4: [("metrics", 1), ("metrics", 2), ("metrics", 3), ("save", 3)],
                         5: [("metrics", 1), ("metrics", 2), ("metrics", 3), ("save", 3),
                             ("metrics", 4), ("save", 4)]}[at]


def test_a_save_by_time_comes_beside_those_by_steps():
    log = run_loop(due=(3, 4, 9))[0].log
    assert [step for what, step in log if what == "save"] == [3, 4, 8, 9, 10]
    assert log.index(("metrics", 3)) < log.index(("save", 3)) < log.index(("metrics", 4))
