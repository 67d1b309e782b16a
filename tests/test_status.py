"""`lm2 status`: what it says of a run, from the files that the run writes."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from states import saved

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.cli import main
from lm2_jax.config import Config, TrainConfig
from lm2_jax.report import status
from lm2_jax.runtime import goodput, locks, phases
from lm2_jax.runtime.phases import PHASES

SUNDAY = 1795996740.0  # 2026-11-29 23:59 UTC


def line(number, at, loss=1.0, /, **seconds):
    return {"step": number, "loss": loss, "tokens_per_second": 50.0, "time": at,
            **{f"seconds_{name}": value for name, value in
               (dict.fromkeys(PHASES, 0.0) | seconds).items()}}


LINES = [line(1, SUNDAY, 3.0, start=10.0, compile=20.0), line(2, SUNDAY + 2, start=10.0,
                                                              compile=20.0, step=2.0),
         line(3, SUNDAY + 120, 2.5, start=10.0, compile=20.0, step=2.0, restart=8.0, down=110.0),
         line(4, SUNDAY + 123, 2.0, start=10.0, compile=20.0, step=4.0, save=1.0, restart=8.0,
              down=110.0)]


@pytest.fixture
def workdir(tmp_path):
    """A run of ten steps, of which four are done, the last two after a restart."""
    workdirs.store_config(Config(train=TrainConfig(num_steps=10)), tmp_path)
    write(tmp_path / "metrics.jsonl", *LINES, {"step": 4, "held_out_loss": 1.5})
    write(tmp_path / "starts.jsonl",
          *({"step": step, "time": at, "hosts": ["a", "b"], "processes": 4, "devices": 8,
             "device": "TPU v5e"} for step, at in ((0, SUNDAY - 30), (2, SUNDAY + 112))))
    return tmp_path


def write(path, *lines):
    path.write_text("".join(json.dumps(values) + "\n" for values in lines))


def test_what_is_said_of_a_run(workdir):
    found = status.read(workdir)
    assert (found.step, found.num_steps, found.loss, found.held_out_loss) == (4, 10, 2.0, 1.5)
    # One step with its save since the last start: steps before it may have had other devices.
    assert found.seconds_per_step == 3.0 and found.seconds_left == 18.0
    assert (found.hosts, found.processes, found.devices) == (("a", "b"), 4, 8)
    assert (found.since, found.starts, found.last_step_at) == (SUNDAY + 112, 2, SUNDAY + 123)
    assert found.saved_step is None and found.used_by == ""
    assert found.goodput == pytest.approx(4 / 153)
    assert json.loads(json.dumps(found.to_dict()))["seconds"]["down"] == 110.0


def test_a_note_after_the_last_step_counts(workdir):
    after = LINES[-1]["time"] + 7
    note = {"step": 4, "time": after, "seconds": phases.of_line(LINES[-1]) | {"eval": 7.0}}
    (workdir / "time.json").write_text(json.dumps(note))
    found = status.read(workdir)
    assert found.seconds["eval"] == 7.0 and found.goodput == pytest.approx(4 / 160)
    assert sum(week["eval"] for week in found.weeks.values()) == pytest.approx(7.0)


def test_the_command_prints_each_fact(workdir, capsys):
    saved(workdir, [2, 4]).close()
    with locks.locked(workdir, "lm2 train"):
        assert main(["status", str(workdir), "--weeks"]) == 0
    out = capsys.readouterr().out
    for text in ("in use by lm2 train on ", "4 of 10 (40.0 %)", "2.0000, held out 1.5000",
                 "50 tokens/s, 3 s a step", "18 s", "step 4, ", "2: a, b", "8 x TPU v5e, 4 process",
                 "start 2", "2026-W48", "2026-W49", "lost"):
        assert text in out, text
    assert main(["status", "--json", str(workdir), str(workdir)]) == 0
    one, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert one == other and one["saved_step"] == 4 and abs(one["saved_at"] - time.time()) < 60


def test_a_run_that_has_only_begun(tmp_path, capsys):
    workdirs.store_config(Config(), tmp_path)
    assert main(["status", str(tmp_path), "--weeks"]) == 0
    assert "0 of 1,000 (0.0 %)" in capsys.readouterr().out
    assert main(["status", str(tmp_path / "other")]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["status", str(tmp_path), "--watch=-1"]) == 2
    assert "--watch is -1; it must be a number of seconds above 0" in capsys.readouterr().err


def test_a_run_of_an_earlier_version(workdir):
    """Its lines have no time, and there is no list of its starts."""
    write(workdir / "metrics.jsonl", *({key: value for key, value in line.items() if key != "time"}
                                       for line in LINES))
    (workdir / "starts.jsonl").unlink()
    found = status.read(workdir)
    assert found.step == 4 and found.seconds_left is None and found.weeks == {}
    assert status.table(found).markdown()


@pytest.mark.parametrize("seconds,text", [(None, "-"), (12.4, "12 s"), (180, "3 min"),
                                          (7500, "2 h 5 min"), (273600, "3 d 4 h")])
def test_durations(seconds, text):
    assert status.duration(seconds) == text


# By the week.

def test_the_time_of_a_restart_is_spread_over_the_weeks():
    """Two minutes around Sunday midnight, half of them in each week."""
    weeks = goodput.by_week(LINES)
    assert list(weeks) == ["2026-W48", "2026-W49"]
    assert weeks["2026-W48"]["start"] == 10.0 and weeks["2026-W48"]["step"] == 2.0
    assert weeks["2026-W48"]["down"] == pytest.approx(110 * 58 / 118)
    assert weeks["2026-W49"]["step"] == 2.0 and weeks["2026-W49"]["save"] == 1.0


@given(st.lists(st.tuples(st.floats(0, 3e6), st.sampled_from(PHASES)), min_size=1, max_size=12))
def test_every_second_is_in_one_week(spent):
    seconds, at, lines = dict.fromkeys(PHASES, 0.0), SUNDAY, []
    for step, (value, phase) in enumerate(spent):
        seconds, at = seconds | {phase: seconds[phase] + value}, at + value
        lines.append(line(step, at, **seconds))
    weeks = goodput.by_week(lines)
    for name in PHASES:
        assert sum(week[name] for week in weeks.values()) == pytest.approx(seconds[name], abs=1e-3)
    assert all(sum(week.values()) <= goodput.WEEK + 1e-3 for week in weeks.values())
    assert list(weeks) == sorted(weeks)
