"""launch/local.sh: starts, prefixes, hands signals on, and leaves nothing behind."""

import re
import signal
import subprocess
import time

import pytest
from launchers import LAUNCH, Machine, commands, wait_for

# They end by themselves too, should local.sh be broken.
LOOP = "for ((n = 0; n < 900; n++)); do sleep 0.02; done"
WAITS = f'trap "echo {{0}}; exit 0" TERM; echo ready $$; {LOOP}'
DEAF = f'trap "" TERM; echo ready $$; {LOOP}'


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def local(*arguments):
    return ["bash", LAUNCH / "local.sh", *arguments]


def gone(pid):
    """Whether a process has ended (one that nobody has waited for yet has ended too)."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()[:1] in ("", "Z")


def ready(process, count):
    """The process ids of children that have said that they are ready, by index."""
    said = [re.fullmatch(r"\[(\d)\] ready (\d+)\n", process.stdout.readline())
            for _ in range(count)]
    return {int(line[1]): int(line[2]) for line in said}


def test_each_process_knows_its_place(machine, tmp_path):
    folder = tmp_path / "a folder"
    folder.mkdir()
    child = folder / "the child"
    child.write_text('#!/bin/bash\necho "$LM2_COORDINATOR $LM2_NUM_PROCESSES $LM2_PROCESS_ID '
                     '$JAX_PLATFORMS $JAX_NUM_CPU_DEVICES $1"\nprintf "no line end" >&2\n')
    child.chmod(0o755)
    status, out, err = machine.run(*local("-n", "3", "-d", "4", "--", child, "two  words $HOME"))
    assert status == 0
    lines = sorted(out.splitlines())
    port = re.match(r"\[0\] 127\.0\.0\.1:(\d+) ", lines[0])[1]
    assert 20000 <= int(port) < 30000
    assert lines == [f"[{i}] 127.0.0.1:{port} 3 {i} cpu 4 two  words $HOME" for i in range(3)]
    assert sorted(err.splitlines()) == [f"[{i}] no line end" for i in range(3)]


def test_the_dry_run_is_what_is_run(machine, tmp_path):
    arguments = ["-n", "2", "-p", "4567", "--", "touch", tmp_path / "a b"]
    status, out, err = machine.run(*local("--dry-run", *arguments))
    assert status == 0 and not err and not (tmp_path / "a b").exists()
    assert commands(out) == [
        ["env", "LM2_COORDINATOR=127.0.0.1:4567", "LM2_NUM_PROCESSES=2", f"LM2_PROCESS_ID={index}",
         "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=1", "touch", str(tmp_path / "a b")]
        for index in range(2)]
    assert machine.run(*local(*arguments)) == (0, "", "") and (tmp_path / "a b").exists()


@pytest.mark.parametrize("number,name", [(signal.SIGTERM, "TERM"), (signal.SIGINT, "INT")])
def test_signals_reach_every_process(number, name, machine):
    waits = WAITS.format("bye").replace("TERM", name)
    process = machine.start(*local("-n", "3", "--", "bash", "-c", waits))
    pids = ready(process, 3)
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 0 and not err
    assert sorted(out.splitlines()) == [f"[{index}] bye" for index in range(3)]
    assert all(map(gone, pids.values()))


def test_the_first_failure_is_the_status_and_the_others_end_by_themselves(machine):
    child = 'case $LM2_PROCESS_ID in 0) sleep 0.9; exit 7;; 1) sleep 0.3; exit 5;; esac'
    began = time.monotonic()
    status, out, err = machine.run(*local("-n", "3", "-g", "9", "--", "bash", "-c", child))
    assert status == 5 and not out and time.monotonic() - began < 9
    assert err.splitlines() == ["local.sh: process 1 ended with status 5"]


def test_those_that_stay_after_a_failure_are_ended_and_nobody_else(machine):
    """One ends at SIGTERM, one only at SIGKILL; a stranger with the same command line lives on."""
    stranger = subprocess.Popen(["bash", "-c", DEAF], stdout=subprocess.PIPE, text=True)
    try:
        stranger.stdout.readline()
        child = (f"case $LM2_PROCESS_ID in 0) {WAITS.format('bye')};; 1) {DEAF};; "
                 "2) echo ready $$; sleep 0.3; exit 9;; esac")
        process = machine.start(*local("-n", "3", "-g", "1", "--", "bash", "-c", child))
        pids = ready(process, 3)
        out, err = process.communicate(timeout=15)
        assert process.returncode == 9 and out.splitlines() == ["[0] bye"]
        said = [line for line in err.splitlines() if line.startswith("local.sh: ")]
        assert said == ["local.sh: process 2 ended with status 9",
                        "local.sh: 1 s later process 0 1 still runs; SIGTERM",
                        "local.sh: 1 s later process 1 still runs; SIGKILL"]
        assert all(map(gone, pids.values())) and stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        stranger.stdout.close()


def test_what_a_child_leaves_behind_does_not_hold_it_up(machine, tmp_path):
    """A grandchild that keeps the output open; it belongs to the child, so it is not killed."""
    began = time.monotonic()
    note = tmp_path / "pid"
    status, out, _ = machine.run(*local(
        "-n", "1", "--", "bash", "-c", f'sleep 18 & echo $! > "{note}"; echo done'))
    assert status == 0 and out == "[0] done\n" and time.monotonic() - began < 15
    pid = int(note.read_text())
    assert not gone(pid)
    subprocess.run(["kill", str(pid)], check=True)
    wait_for(lambda: gone(pid))
