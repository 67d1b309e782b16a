"""Processes that meet, miss one another, or lose one; here threads and sockets stand for them."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lm2_jax.runtime import processes
from lm2_jax.runtime.processes import ProcessInfo, find_process_info
from lm2_jax.runtime.rendezvous import Rendezvous, RendezvousError, split_address


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def meet():
    """Meetings of so many processes, in threads; `events` says what they were told."""
    events = []

    def make(count, present=None, timeout=20.0, of=None):
        address = f"127.0.0.1:{free_port()}"

        def one(index):
            return Rendezvous(address, (of or {}).get(index, count), index, timeout,
                           lost=lambda line: events.append((index, "lost", line)),
                           heard=lambda line: events.append((index, "heard", line)))

        with ThreadPoolExecutor(count) as pool:
            waiting = [pool.submit(one, i) for i in (range(count) if present is None else present)]
            return [task.exception() or task.result() for task in waiting]
    make.events = events
    return make


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_come_and_leave_together(meet, count):
    meetings = meet(count)
    assert all(isinstance(meeting, Rendezvous) for meeting in meetings)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(Rendezvous.leave, meetings))
    assert meet.events == []


def test_who_is_missing_is_named_to_all(meet):
    began = time.monotonic()
    errors = meet(5, present=(0, 1, 3), timeout=1.5)
    assert time.monotonic() - began < 5
    assert {type(error) for error in errors} == {RendezvousError}
    assert len(set(map(str, errors))) == 1
    assert str(errors[0]).startswith("processes 2, 4 of 5 did not connect to ")
    assert str(errors[0]).endswith(" within 1.5 s")


def test_a_first_process_that_is_missing_is_named(meet):
    error, = meet(2, present=(1,), timeout=1.0)
    assert "process 0 did not answer at 127.0.0.1:" in str(error)


def test_another_number_of_processes_is_refused_at_once(meet):
    began = time.monotonic()
    errors = meet(3, of={1: 4}, present=(0, 1))
    assert time.monotonic() - began < 10
    assert all("process 1 of 4 on" in str(error) and "knows of 3" in str(error)
               for error in errors)


def test_two_of_one_index_are_refused_at_once(meet):
    errors = meet(3, present=(0, 1, 1))
    assert all("has process 1 already" in str(error) for error in errors)


def test_strangers_at_the_port_do_no_harm():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        nothing = dict(lost=lambda line: None, heard=lambda line: None)
        first = pool.submit(Rendezvous, f"127.0.0.1:{port}", 2, 0, 20.0, **nothing)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"", b"[1]\n", b'{"process": 1}\n'):
            until(lambda text=text: said(port, text))
        second = pool.submit(Rendezvous, f"127.0.0.1:{port}", 2, 1, 20.0, **nothing)
        for meeting in (first.result(), second.result()):
            threading.Thread(target=meeting.leave).start()


def said(port, text):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(text)
        return True
    except OSError:
        return False


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("", 0)) as server:
        with pytest.raises(RendezvousError, match="cannot be used .*take another as coordinator"):
            Rendezvous(f"127.0.0.1:{server.getsockname()[1]}", 2, 0, 1.0, print, print)


@pytest.mark.parametrize("gone", [0, 2])
def test_all_others_learn_of_one_that_is_gone(meet, gone):
    meetings = meet(3)
    meetings[gone]._leaving = True  # a dead one tells nobody what it sees
    for peer in meetings[gone]._peers.values():  # as the kernel does when a process dies
        peer.socket.shutdown(socket.SHUT_RDWR)
    others = {0, 1, 2} - {gone}
    until(lambda: {index for index, kind, _ in meet.events if index != gone} == others)
    lines = {line for index, kind, line in meet.events if index != gone}
    assert len(lines) == 1 and f"process {gone} of 3 " in lines.pop()


def test_all_others_learn_why_one_leaves(meet):
    meetings = meet(3)
    meetings[1].leave("no such file: books")
    until(lambda: len(meet.events) == 2)
    assert {index for index, _, _ in meet.events} == {0, 2}
    assert all(kind == "lost" and line.startswith("process 1 of 3 (") and
               line.endswith(": no such file: books") for _, kind, line in meet.events)


def test_the_first_hears_what_another_tells(meet):
    meetings = meet(3)
    meetings[2].tell("stalls")
    until(lambda: meet.events == [(0, "heard", "stalls")])


def test_a_killed_process_is_noticed_at_once(tmp_path):
    """Real processes: the other one says who is gone, and ends with status 1."""
    script = tmp_path / "one.py"
    script.write_text(
        "import os, sys, time\n"
        "from lm2_jax.runtime.rendezvous import Rendezvous\n"
        "def lost(line):\n"
        "    print('lost:', line, flush=True)\n"
        "    os._exit(1)\n"
        "Rendezvous(sys.argv[1], 2, int(sys.argv[2]), 30.0, lost, print)\n"
        "print('met', flush=True)\n"
        "time.sleep(60)\n")
    address = f"127.0.0.1:{free_port()}"
    processes = [subprocess.Popen([sys.executable, script, address, str(index)], text=True,
                                  stdout=subprocess.PIPE) for index in range(2)]
    assert [process.stdout.readline() for process in processes] == ["met\n"] * 2
    began = time.monotonic()
    os.kill(processes[1].pid, signal.SIGKILL)
    out, _ = processes[0].communicate(timeout=10)
    assert processes[0].returncode == 1 and time.monotonic() - began < 5
    assert out.startswith("lost: process 1 of 2 (") and f"pid {processes[1].pid}" in out
    processes[1].communicate()


@pytest.mark.parametrize("text,parts", [
    ("node3:1234", ("node3", 1234)), ("[::1]:80", ("::1", 80)), ("10.0.0.1:65535",
                                                                ("10.0.0.1", 65535)),
    ("node3", None), (":80", None), ("node3:", None), ("node3:0", None), ("node3:x", None),
    ("node3:70000", None)])
def test_addresses(text, parts):
    if parts:
        assert split_address(text) == parts
        return
    with pytest.raises(ValueError, match="must be HOST:PORT"):
        split_address(text)


LM2 = {"LM2_COORDINATOR": "a:1", "LM2_NUM_PROCESSES": "4", "LM2_PROCESS_ID": "2"}
SLURM = {"SLURM_JOB_ID": "4096", "SLURM_STEP_NODELIST": "node[3-4]", "SLURM_NTASKS": "2",
         "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize("arguments,environment,place", [
    ((), {}, None),
    ((), LM2, ProcessInfo("a:1", 4, 2)),
    (("b:2", 3, 0), LM2, ProcessInfo("b:2", 3, 0)),
    (("b:2", None, None), LM2, ProcessInfo("b:2", 4, 2)),
    ((), LM2 | SLURM, ProcessInfo("a:1", 4, 2)),
    ((), {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    ((), {"SLURM_NTASKS": "8"}, None),  # a login shell of an allocation: no task of it
    ((), SLURM | {"LM2_DISTRIBUTED": "0"}, None),
    ((), {"TPU_WORKER_HOSTNAMES": "localhost"}, None)])
def test_the_place_of_a_process(arguments, environment, place):
    assert find_process_info(*arguments, environment=environment) == place


@pytest.mark.parametrize("arguments,environment,wanted", [
    (("a:1", None, None), {}, "--num-processes (or LM2_NUM_PROCESSES) is missing"),
    ((None, 2, 0), {}, "--coordinator (or LM2_COORDINATOR) is missing"),
    ((), LM2 | {"LM2_PROCESS_ID": ""}, "--process-id (or LM2_PROCESS_ID) is missing"),
    ((), LM2 | {"LM2_PROCESS_ID": "4"}, "--process-id is 4 of --num-processes 4"),
    ((), LM2 | {"LM2_PROCESS_ID": "two"}, "must be whole numbers"),
    ((), LM2 | {"LM2_COORDINATOR": "a"}, "must be HOST:PORT"),
    ((), {"LM2_DISTRIBUTED": "1"}, "looks like a cluster")])
def test_a_place_that_cannot_be_is_one_line(arguments, environment, wanted, monkeypatch):
    for name in list(os.environ):
        if name.startswith(("SLURM", "TPU", "LM2_C", "LM2_N", "LM2_P", "OMPI", "KUBERNETES")):
            monkeypatch.delenv(name)
    with pytest.raises(ValueError) as caught:
        find_process_info(*arguments, environment=environment)
    assert wanted in str(caught.value) and "\n" not in str(caught.value)


def test_slurm_is_recognised(monkeypatch):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    place = find_process_info()
    assert (place.num_processes, place.process_id, place.local_devices) == (2, 1, (0,))
    assert split_address(place.coordinator)[0] == "node3"


def test_one_process_needs_no_meeting():
    processes.initialize(None)
    assert processes.is_primary() and processes.primary_first(lambda: 3) == 3
    assert processes.broadcast_from_primary(7) == 7
    processes.barrier("nobody else")
    processes.shutdown()
    assert json.dumps(processes.name()).startswith('"process 0 of 1 (')


TPU_VM = {"agent-worker-number": "2", "tpu-env": "TYPE: 'V5LITE_POD'",
          "worker-network-endpoints": "a:x:127.0.0.1,a:y:10.0.0.2,a:z:10.0.0.3,a:w:10.0.0.4"}


@pytest.mark.parametrize("environment,place", [
    ({"TPU_WORKER_HOSTNAMES": "localhost,job-1.svc", "TPU_WORKER_ID": "1",
      "TPU_SKIP_MDS_QUERY": "1", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
      "MEGASCALE_COORDINATOR_ADDRESS": "localhost"}, ProcessInfo("localhost:8482", 4, 3)),
    ({"LM2_DISTRIBUTED": "1"}, ProcessInfo("127.0.0.1:8482", 4, 2))], ids=["GKE", "TPU VM"])
def test_a_tpu_pod_is_recognised(monkeypatch, environment, place):
    """With what GKE puts into a pod's environment, or what a TPU VM's metadata say."""
    cluster = "jax._src.clusters.cloud_tpu_cluster."
    monkeypatch.setattr(cluster + "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cluster + "get_metadata", lambda key: (TPU_VM[key], 200))
    for name in list(os.environ):
        if name.startswith(("SLURM", "TPU", "MEGASCALE", "LM2_", "OMPI", "KUBERNETES")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_process_info() == place
