"""Where the time went, who stands still, and traces."""

import os
import signal
import time

import jax.numpy as jnp
import pytest

from lm2_jax.runtime import phases
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.phases import COMPILE, DATA, EVAL, PHASES, RESTART, SAVE, START, STEP, Phases
from lm2_jax.runtime.preemption import Preempted, Preemption
from lm2_jax.runtime.watchdog import Watchdog
from lm2_jax.training import profile


@pytest.fixture
def clock(monkeypatch):
    """Seconds that go by only when they are told to."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: 1e9)

    def passes(seconds):
        now[0] += seconds
    return passes


def whole(**seconds):
    return dict.fromkeys(PHASES, 0.0) | seconds


def test_every_second_belongs_to_one_phase(clock):
    found = Phases(began=90.0)
    found.enter(STEP)
    with found.within(EVAL):
        clock(2)
        with found.within(COMPILE):
            clock(5)
        clock(1)
    clock(4)
    assert found.seconds() == whole(start=10.0, eval=3.0, compile=5.0, step=4.0)
    clock(1)
    with pytest.raises(RuntimeError), found.within(SAVE):
        clock(3)
        raise RuntimeError
    assert found.seconds() == whole(start=10.0, eval=3.0, compile=5.0, step=5.0, save=3.0)
    assert found.now == STEP and phases.goodput(found.seconds()) == 5 / 26


def test_a_later_run_goes_on_counting_and_loses_its_start(clock):
    found = Phases(before=whole(step=50.0, restart=1.0))
    clock(7)
    found.enter(STEP)
    clock(3)
    assert found.seconds() == whole(step=53.0, restart=8.0)
    assert found.metrics() == {"time": 1e9, "goodput": round(53 / 61, 4)} | {
        f"seconds_{name}": value for name, value in whole(step=53.0, restart=8.0).items()}


def test_the_time_of_two_starts_that_failed_is_lost_and_not_forgotten(clock, tmp_path):
    """Each is killed before its first step, and has cut the lines after the checkpoint."""
    lines = [line(4, step=40.0), line(6, step=60.0)]
    for seconds in (20.0, 25.0):
        before = phases.of_earlier_runs(lines, phases.read(tmp_path / "time.json"), 4)
        found = Phases(before)
        assert found.seconds() == whole(step=40.0, restart=seconds)
        clock(5)
        phases.write(tmp_path / "time.json", 4, found)
        lines = lines[:1]


def line(number, /, **seconds):
    return {"step": number} | {f"seconds_{name}": s for name, s in whole(**seconds).items()}


LINES = [line(1, start=2.0, step=1.0), line(2, start=2.0, step=2.0),
         line(3, start=2.0, step=3.0, save=1.0), line(4, start=2.0, step=4.0, save=1.0)]


@pytest.mark.parametrize("lines,noted,first,wanted", [
    ([], None, 0, None),
    (LINES, None, 4, whole(start=2.0, step=4.0, save=1.0)),
    # Step 4 is done again: its second, and the save after step 2, are lost with it.
    (LINES, None, 2, whole(start=2.0, step=2.0, restart=3.0)),
    (LINES, {"step": 2, "seconds": whole(start=2.0, step=2.0, save=1.0)}, 2,
     whole(start=2.0, step=2.0, save=1.0, restart=2.0)),
    # What came after the last step was noted.
    (LINES, {"step": 4, "seconds": whole(start=2.0, step=4.0, save=1.5, eval=9.0)}, 4,
     whole(start=2.0, step=4.0, save=1.5, eval=9.0)),
    (LINES, {"step": 2, "seconds": whole(step=99.0)}, 4, whole(start=2.0, step=4.0, save=1.0)),
    (LINES, None, 0, whole(restart=7.0)),  # killed before anything was saved
    ([{"step": 1}, {"step": 2}], None, 2, whole())])  # of a version that did not count
def test_what_earlier_runs_took(lines, noted, first, wanted):
    assert phases.of_earlier_runs(lines, noted, first) == wanted


@pytest.mark.parametrize("began,down", [(None, 0.0), (150.0, 20.0), (90.0, 0.0)])
def test_the_time_without_a_run_is_counted(began, down):
    """From the last sign of it, here the note after the last step, and never less than none."""
    lines = [line(1, step=1.0) | {"time": 100.0}, line(2, step=2.0) | {"time": 120.0}]
    noted = {"step": 2, "time": 130.0, "seconds": whole(step=2.0, eval=10.0)}
    found = phases.of_earlier_runs(lines, noted, 2, began)
    assert found == whole(step=2.0, eval=10.0, down=down)
    assert phases.goodput(found) == 2.0 / (12.0 + down)
    # Step 2 is trained again: its second is lost, and so is the time since.
    assert phases.of_earlier_runs(lines, None, 1, began) == whole(
        step=1.0, restart=1.0, down=max(0.0, (began or 0.0) - 120.0))


def test_a_note_is_read_again(tmp_path, clock):
    assert phases.read(tmp_path / "time.json") is None
    found = Phases()
    clock(1.25)
    phases.write(tmp_path / "time.json", 7, found)
    assert phases.read(tmp_path / "time.json") == {
        "step": 7, "time": 1e9, "seconds": whole(start=1.25)}
    (tmp_path / "time.json").write_text("{")
    assert phases.read(tmp_path / "time.json") is None


@pytest.mark.parametrize("text", [
    "", "\0" * 30, "{", "[]", "{}", '{"step": 1}', '{"step": "1", "seconds": {}}',
    '{"step": 1, "seconds": {"step": "x"}}', '{"step": 1, "seconds": {"other": 1.0}}',
    '{"step": 1, "seconds": [1]}', '{"step": 1, "seconds": {"step": NaN}}',
    '{"step": 1, "seconds": {"step": Infinity}}', '{"step": 1, "seconds": {"step": -1.0}}'])
def test_a_damaged_time_file_is_reported(tmp_path, text, capsys):
    path = tmp_path / "time.json"
    path.write_text(text)
    assert phases.read(path) is None
    assert capsys.readouterr().err.startswith(f"{path} cannot be read; ")


def test_files_of_earlier_versions_are_read(tmp_path):
    path = tmp_path / "time.json"
    path.write_text('{"step": 2, "seconds": {"step": 1.0, "lost": 2.0}}')
    assert phases.read(path) == {"step": 2, "seconds": {"step": 1.0, "restart": 2.0}}
    old = {"step": 2, "seconds_step": 1.0, "seconds_lost": 2.0}
    assert phases.of_earlier_runs([old], None, 2) == whole(step=1.0, restart=2.0)
    odd = {"step": 2, "seconds_step": "1", "seconds_eval": None, "seconds_save": 3.0}
    assert phases.of_earlier_runs([odd], None, 2) == whole(save=3.0)


def test_the_summary_names_what_took_time():
    text = phases.summary(whole(step=60.0, compile=30.0, restart=10.0))
    assert text == "100 s: compile 30.0%, step 60.0%, restart 10.0% (goodput 60.0%)"
    assert f" {START} " not in text and DATA not in text


def test_the_watchdog_names_host_and_phase(capfd):
    found, said = Phases(), []
    watchdog = Watchdog(found, 0.2, "process 1 of 2 (b)", said.append)
    watchdog.step = 16
    for _ in range(10):  # short phases are none of its business
        found.enter(STEP)
        time.sleep(0.05)
    assert said == []
    found.enter(DATA)
    time.sleep(0.7)
    watchdog.close()
    assert 2 <= len(said) <= 3  # after 0.2 s, then after 0.4 s, hardly after 0.8 s
    assert said[0].startswith("watchdog: process 1 of 2 (b) has been in phase 'data' for 0 s")
    assert said[0].endswith("after step 16")
    assert capfd.readouterr().err.count("most recent call first") >= 1  # where it stands
    found.enter(RESTART)
    time.sleep(0.3)
    assert len(said) <= 3


def test_sigterm_asks_to_leave_and_ends_nothing():
    before = signal.getsignal(signal.SIGTERM)
    with Preemption() as preemption:
        assert not preemption.reached()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
        assert preemption.reached() and preemption.reached()
        with pytest.raises(Preempted):
            preemption.check()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("asked", [0, 3])
def test_sigterm_to_one_of_several_is_heard_whenever_it_comes(monkeypatch, asked):
    """The service says yes once, to the number after those it was asked for: so before the first
    question of a resumed run too, whose steps are far beyond."""
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("jax.experimental.multihost_utils.reached_preemption_sync_point",
                        lambda number: number == asked + 1)
    preemption = Preemption()
    assert [preemption.reached() for _ in range(6)] == [False] * asked + [True] * (6 - asked)


@pytest.mark.parametrize("text,steps", [("3:5", (3, 5)), ("2:2", (2, 2)), ("5:3", None),
                                        ("0:2", None), ("3", None), ("a:b", None), ("-1:2", None)])
def test_steps_to_trace(text, steps):
    if steps:
        assert profile.parse(text) == steps
        return
    with pytest.raises(ValueError, match="--profile is .* must be START:END"):
        profile.parse(text)


@pytest.mark.parametrize("last", [3, 9])  # 9: the run ends before
def test_a_trace_is_written(tmp_path, last):
    traced = profile.Profile(tmp_path, (2, last), Console(quiet=True))
    for step in range(1, 6):
        traced.on_step_start(step)
        traced.ended(step, jnp.ones(3) + step)
        assert bool(list(tmp_path.rglob("*.xplane.pb"))) == (step >= last)
    traced.close()
    assert list(tmp_path.rglob("*.xplane.pb"))
