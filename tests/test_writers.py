"""Metrics files across crashes, throughput, and progress into a file and on a terminal."""

import io
import json
import re
import struct

import jax
import pytest
from disks import file_size_limit
from tensorboardX.proto.event_pb2 import Event

from lm2_jax.config import MemoryConfig, ModelConfig
from lm2_jax.runtime import progress
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar
from lm2_jax.training import clock
from lm2_jax.training.clock import Clock
from lm2_jax.training.writers import JsonLines, MetricsWriter, read_lines


def written(path, steps, last_step=0, loss=1.0):
    lines = JsonLines(path, last_step)
    for step in steps:
        lines.write({"step": step, "loss": loss})
    lines.close()
    return [(line["step"], line["loss"]) for line in read_lines(path)]


def test_lines_are_there_as_soon_as_they_are_written(tmp_path):
    lines = JsonLines(tmp_path / "eval" / "metrics.jsonl", 0)
    lines.write({"step": 1, "loss": 0.1 + 0.2})
    assert read_lines(tmp_path / "eval" / "metrics.jsonl") == [{"step": 1, "loss": 0.1 + 0.2}]
    lines.close()


@pytest.mark.parametrize("last_step", range(7))
def test_lines_of_later_steps_are_dropped(tmp_path, last_step):
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 6), loss=1.0)
    again = written(path, range(last_step + 1, 9), last_step=last_step, loss=2.0)
    kept = [(step, 1.0) for step in range(1, min(last_step, 5) + 1)]
    assert again == kept + [(step, 2.0) for step in range(last_step + 1, 9)]


def test_a_cut_line_is_dropped_wherever_it_was_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 4))
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        count = whole[:cut].count(b"\n")
        assert [line["step"] for line in read_lines(path)] == list(range(1, count + 1))
        assert [step for step, _ in written(path, [9], last_step=3)] == [*range(1, count + 1), 9]


DAMAGED = [b"\0" * 40, b"[1, 2]", b'{"loss": 1.0}', b'{"step": "1"}', b"\xff\xfe", b"{",
           b'{"step": null}']


@pytest.mark.parametrize("line", DAMAGED, ids=repr)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_damaged_line_is_reported_and_set_aside(tmp_path, line, at, capsys):
    path = tmp_path / "metrics.jsonl"
    written(path, range(1, 4))
    lines = path.read_bytes().splitlines()
    damaged = b"\n".join([*lines[:at], line, *lines[at:], b""])
    path.write_bytes(damaged)
    assert [values["step"] for values in read_lines(path)] == [1, 2, 3]
    assert [step for step, _ in written(path, [4], last_step=3)] == [1, 2, 3, 4]
    assert capsys.readouterr().err.startswith(f"{path}: line {at + 1} cannot be read; ")
    assert (tmp_path / "metrics.jsonl.damaged").read_bytes() == damaged
    path.write_bytes(damaged)  # a second time; what was set aside stays
    written(path, [4], last_step=3)
    assert (tmp_path / "metrics.jsonl.damaged.2").read_bytes() == damaged


def test_no_file_has_no_lines(tmp_path):
    assert read_lines(tmp_path / "metrics.jsonl") == []


def events(folder):
    """The events of each file, oldest first; a record is length, checksum, data, checksum."""
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        data, events = path.read_bytes(), []
        while data:
            length, = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12:12 + length]))
            data = data[16 + length:]
        yield events


def test_metrics_go_to_both_files_and_unknown_values_to_none(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 2.5, "mfu": None})
    writer.write(2, {"loss": 1.5, "mfu": 0.25})
    writer.close()
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 1, "loss": 2.5, "mfu": None}, {"step": 2, "loss": 1.5, "mfu": 0.25}]
    (first,) = events(tmp_path / "tensorboard")
    assert [(event.step, value.tag, value.simple_value) for event in first
            for value in event.summary.value] == [
        (1, "loss", 2.5), (2, "loss", 1.5), (2, "mfu", 0.25)]


def test_lines_wait_for_a_full_disk_and_events_end(tmp_path, capsys):
    writer = MetricsWriter(tmp_path, 0)
    values = {f"loss_{n}": 1.0 for n in range(1000)}
    writer.write(1, {"loss": 0.5})
    with file_size_limit(30_000):
        for step in (2, 3, 4):
            writer.write(step, values)
        assert "TensorBoard events of this run end here: File too large" in capsys.readouterr().err
        assert len(read_lines(tmp_path / "metrics.jsonl")) == 2
    writer.write(5, {"loss": 0.25})
    writer.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5}, *({"step": step} | values for step in (2, 3, 4)),
        {"step": 5, "loss": 0.25}]
    lines = JsonLines(tmp_path / "metrics.jsonl", 0)
    with file_size_limit(10):
        lines.write({"step": 1, "loss": 1}, {"step": 2, "loss": 1})
        lines.flush()
        lines.close()
    path = tmp_path / "metrics.jsonl"
    assert capsys.readouterr().err == (
        f"{path} cannot be written: File too large; its lines are kept in memory until it can\n"
        f"{path} lacks its last 2 lines\n")


def test_events_of_later_steps_are_purged(tmp_path):
    for last_step in (0, 3):
        writer = MetricsWriter(tmp_path, last_step)
        writer.write(last_step + 1, {"loss": 1.0})
        writer.close()
    *_, last = events(tmp_path / "tensorboard")
    starts = [event.step for event in last if event.HasField("session_log")]
    assert starts == [4]  # from this step on, what older files hold no longer counts


@pytest.fixture
def seconds(monkeypatch):
    """A clock that stands still until it is told."""
    now = [100.0]
    for module in (clock, progress):
        monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def wait(time):
        now[0] += time

    return wait


MODEL = ModelConfig(vocab_size=100, memory=MemoryConfig(num_layers=2))


def test_clock_leaves_out_pauses_and_old_steps(seconds):
    clock = Clock(MODEL, jax.devices(), window=3)
    assert clock.tick(500) == {"tokens_per_second": None, "mfu": None}
    seconds(2.0)
    assert clock.tick(500)["tokens_per_second"] == 250
    clock.restart()
    seconds(1000.0)
    assert clock.tick(500)["tokens_per_second"] == 250
    for rate in (100, 200, 300, 400):
        seconds(1.0)
        known = clock.tick(rate)["tokens_per_second"]
    assert known == 300


def test_mfu_is_the_rate_of_flops_over_the_peak_of_all_devices(seconds):
    class Device:
        device_kind = "NVIDIA H100 80GB HBM3"

    clock = Clock(MODEL, [Device()] * 4)
    clock.tick(1)
    seconds(0.5)
    values = clock.tick(1_000_000)
    assert values["mfu"] == pytest.approx(
        2_000_000 * clock_flops(MODEL) / (4 * 989e12), rel=1e-12)


def clock_flops(c):
    """By counting: twice the weights that a token meets, and its attention; backward twice that."""
    D, F, T, M = c.embed_dim, c.mlp_dim, c.segment_length, c.memory.num_slots
    block = 4 * D * D + 3 * D * F + 2 * D * T / 2
    slots = 4 * D * D * M / T  # k, v, input and forget gate, once a slot and segment
    memory = 5 * D * D + slots + 4 * D * M
    return 3 * 2 * (c.num_layers * block + c.memory.num_layers * memory + D * c.vocab_size)


def test_progress_into_a_file_is_a_line_now_and_then(seconds):
    file = io.StringIO()
    bar = Bar("train", 100, done=20, console=Console(file=file))
    for step in range(21, 101):
        seconds(1.0)
        bar.update(step, f"loss {step}")
    bar.close()
    lines = file.getvalue().splitlines()
    assert lines[0] == "train 35/100  loss 35  65 s left"
    assert lines[-1] == "train 100/100  loss 100  0 s left"
    assert len(lines) == 6


def test_the_time_left_follows_from_the_rate_of_the_last_minute(seconds):
    """A hundred steps of a second, then two hundred of three, as where rows grow longer."""
    file = io.StringIO()
    bar = Bar("train", 300, console=Console(file=file))
    for step in range(1, 201):
        seconds(1.0 if step <= 100 else 3.0)
        bar.update(step, "")
    bar.close()
    assert file.getvalue().splitlines()[-1].split("  ")[-1] == "300 s left"


def test_the_last_line_is_printed_once(seconds):
    file = io.StringIO()
    bar = Bar("eval", 90, done=30, console=Console(file=file), unit="tokens")
    seconds(4.0)
    for done, right in ((60, "0.5 of 2"), (90, "0.5 of 2"), (90, "0.7 of 3")):
        bar.update(done, f"qa1 4k carried: {right}")
    bar.close()
    assert file.getvalue() == "eval 90/90 tokens  qa1 4k carried: 0.7 of 3  0 s left\n"


def test_progress_on_a_terminal_is_a_bar_with_the_time_left():
    """Of what this process did: 30 tokens were read by another before."""
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None,
                      get_time=lambda: now[0])
    bar = Bar("eval", 100, done=30, console=console, unit="tokens")
    for _ in range(3):
        now[0] += 5.0
        bar.update(int(30 + 2 * now[0]), "qa1 4k carried: 0.667 of 3")
    bar.close()
    shown = re.sub("[━╸╺]+", "|", console.file.getvalue().split("\x1b[2K")[-1].splitlines()[0])
    assert " ".join(shown.split()) == (
        "eval | 60/100 tokens qa1 4k carried: 0.667 of 3 0:00:20")  # 40 tokens, 2 a second
