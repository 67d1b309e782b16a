"""How the processes of a run find each other, and learn that one is missing or has failed.

Most tests use threads of this process in place of processes.
"""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from lm2_jax.errors import UserError
from lm2_jax.runtime import clusters, processes
from lm2_jax.runtime.clusters import ProcessInfo, find_process_info
from lm2_jax.runtime.rendezvous import Rendezvous, RendezvousError, split_address

pytestmark = pytest.mark.processes


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def connect():
    """Connects `count` processes, as threads; `events` lists (process, kind, line)."""
    events = []

    def connect_all(count, present=None, timeout=20.0, of=None):
        address = f"127.0.0.1:{free_port()}"

        def one(index):
            return Rendezvous(address, (of or {}).get(index, count), index, timeout,
                              on_failure=lambda line: events.append((index, "failure", line)),
                              on_message=lambda line: events.append((index, "message", line)))

        with ThreadPoolExecutor(count) as pool:
            waiting = [pool.submit(one, i) for i in (range(count) if present is None else present)]
            return [task.exception() or task.result() for task in waiting]
    connect_all.events = events
    return connect_all


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_all_connect_and_close_together(connect, count):
    connected = connect(count)
    assert all(isinstance(one, Rendezvous) for one in connected)
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(Rendezvous.close, connected))
    assert connect.events == []


def test_missing_processes_are_named_on_all(connect):
    began = time.monotonic()
    errors = connect(5, present=(0, 1, 3), timeout=1.5)
    assert time.monotonic() - began < 5
    assert {type(error) for error in errors} == {RendezvousError}
    assert len(set(map(str, errors))) == 1
    assert str(errors[0]).startswith("processes 2, 4 of 5 did not connect to ")
    assert str(errors[0]).endswith(" within 1.5 s")


def test_a_missing_process_0_is_named(connect):
    error, = connect(2, present=(1,), timeout=1.0)
    assert "process 0 did not answer at 127.0.0.1:" in str(error)


def test_another_number_of_processes_is_refused_at_once(connect):
    began = time.monotonic()
    errors = connect(3, of={1: 4}, present=(0, 1))
    assert time.monotonic() - began < 10
    assert all("process 1 of 4 (" in str(error) and "process 0 was started with 3" in str(error)
               for error in errors)


def test_two_processes_of_one_id_are_refused_at_once(connect):
    errors = connect(3, present=(0, 1, 1))
    assert all("has connected already" in str(error) for error in errors)


def test_other_programs_at_the_port_are_ignored():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        nothing = dict(on_failure=lambda line: None, on_message=lambda line: None)
        first = pool.submit(Rendezvous, f"127.0.0.1:{port}", 2, 0, 20.0, **nothing)
        for text in (b"GET / HTTP/1.1\r\n\r\n", b"", b"[1]\n", b'{"process": 1}\n'):
            until(lambda text=text: sent(port, text))
        second = pool.submit(Rendezvous, f"127.0.0.1:{port}", 2, 1, 20.0, **nothing)
        for one in (first.result(), second.result()):
            threading.Thread(target=one.close).start()


def sent(port, text, kept=None):
    """Sends a text; the connection is closed, or added to `kept`."""
    try:
        connection = socket.create_connection(("127.0.0.1", port), timeout=1.0)
    except OSError:
        return False
    connection.sendall(text)
    if kept is None:
        connection.close()
    else:
        kept.append(connection)
    return True


def test_a_port_that_is_taken_is_one_line():
    with socket.create_server(("", 0)) as server:
        with pytest.raises(RendezvousError, match="cannot be used .*choose another one"):
            Rendezvous(f"127.0.0.1:{server.getsockname()[1]}", 2, 0, 1.0, print, print)


@pytest.mark.parametrize("dead", [0, 2])
def test_all_others_learn_of_one_that_died(connect, dead):
    connected = connect(3)
    connected[dead]._closing = True  # a dead one tells nobody what it sees
    for peer in connected[dead]._peers.values():  # as the kernel does when a process dies
        peer.socket.shutdown(socket.SHUT_RDWR)
    others = {0, 1, 2} - {dead}
    until(lambda: {index for index, kind, _ in connect.events if index != dead} == others)
    lines = {line for index, kind, line in connect.events if index != dead}
    assert len(lines) == 1 and f"process {dead} of 3 " in lines.pop()


def test_all_others_learn_why_one_failed(connect):
    connected = connect(3)
    connected[1].close("no such file: books")
    until(lambda: len(connect.events) == 2)
    assert {index for index, _, _ in connect.events} == {0, 2}
    assert all(kind == "failure" and line.startswith("process 1 of 3 (") and
               line.endswith(": no such file: books") for _, kind, line in connect.events)


def test_process_0_gets_the_messages_of_others(connect):
    connected = connect(3)
    connected[2].send_to_primary("stalls")
    until(lambda: connect.events == [(0, "message", "stalls")])


def test_lines_that_arrive_together_are_all_handled(connect):
    """In one read; with the one of `close`, of which the others must learn too."""
    connected = connect(2)
    lines = [f"line {i}" for i in range(3)]
    sent = "".join(json.dumps({"message": line}) + "\n" for line in lines)
    sent += json.dumps({"end": "failed"}) + "\n"
    connected[1]._closing = True
    connected[1]._peers[0].socket.sendall(sent.encode())
    until(lambda: len(connect.events) == 4)
    assert connect.events[:3] == [(0, "message", line) for line in lines]
    assert connect.events[3][2].endswith(": failed")


def test_lines_that_arrive_before_the_watch_starts_are_handled():
    port, events = free_port(), []
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(Rendezvous, f"127.0.0.1:{port}", 2, 0, 20.0, events.append,
                            events.append)
        hello = {"process": 1, "of": 2, "host": "a", "pid": 5}
        text = "".join(json.dumps(message) + "\n" for message in (
            hello, {"message": "one"}, {"message": "two"}, {"end": ""}))
        connections = []
        until(lambda: sent(port, text.encode(), connections))
        # The connection stays open: its end must not be what makes the last line seen.
        first.result()._watcher.join(10)
        assert events == ["one", "two"]
        connections[-1].close()


PLAIN = """
import sys, time
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]), initialization_timeout=2,
                           heartbeat_timeout_seconds=10)
print("connected", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_what_jax_reports_by_itself(tmp_path):
    """What `Rendezvous` adds. If this fails, a newer JAX may have made it unnecessary."""
    script = tmp_path / "plain.py"
    script.write_text(PLAIN)

    def start(address, index):
        return subprocess.Popen([sys.executable, script, address, str(index)], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=os.environ | {"JAX_PLATFORMS": "cpu"})

    alone = start(f"127.0.0.1:{free_port()}", 0)
    address = f"127.0.0.1:{free_port()}"
    pair = [start(address, index) for index in range(2)]
    assert [process.stdout.readline() for process in pair] == ["connected\n"] * 2
    began = time.monotonic()
    pair[1].kill()
    _, err = pair[0].communicate(timeout=50)
    # Killed: noticed only after the heartbeat timeout, by an abort with a stack trace.
    assert pair[0].returncode == -signal.SIGABRT and time.monotonic() - began > 5
    assert "stopped sending heartbeats" in err and "*** Check failure stack trace" in err
    pair[1].communicate()
    # Never connected: the one that waited aborts, and does not name the other.
    _, err = alone.communicate(timeout=50)
    assert alone.returncode == -signal.SIGABRT and "DEADLINE_EXCEEDED" in err
    assert "1 of 2" not in err and "task 1" not in err.lower()


def test_a_killed_process_is_noticed_at_once(tmp_path):
    """Real processes: the other one says who is gone, and ends with status 1."""
    script = tmp_path / "one.py"
    script.write_text(
        "import os, sys, time\n"
        "from lm2_jax.runtime.rendezvous import Rendezvous\n"
        "def on_failure(line):\n"
        "    print('failure:', line, flush=True)\n"
        "    os._exit(1)\n"
        "Rendezvous(sys.argv[1], 2, int(sys.argv[2]), 30.0, on_failure, print)\n"
        "print('connected', flush=True)\n"
        "time.sleep(60)\n")
    address = f"127.0.0.1:{free_port()}"
    processes = [subprocess.Popen([sys.executable, script, address, str(index)], text=True,
                                  stdout=subprocess.PIPE) for index in range(2)]
    assert [process.stdout.readline() for process in processes] == ["connected\n"] * 2
    began = time.monotonic()
    os.kill(processes[1].pid, signal.SIGKILL)
    out, _ = processes[0].communicate(timeout=10)
    assert processes[0].returncode == 1 and time.monotonic() - began < 5
    assert out.startswith("failure: process 1 of 2 (") and f"pid {processes[1].pid}" in out
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


@pytest.mark.parametrize("arguments,environment,info", [
    ((), {}, None),
    ((), LM2, ProcessInfo("a:1", 4, 2)),
    (("b:2", 3, 0), LM2, ProcessInfo("b:2", 3, 0)),
    (("b:2", None, None), LM2, ProcessInfo("b:2", 4, 2)),
    ((), LM2 | SLURM, ProcessInfo("a:1", 4, 2)),
    ((), {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
    ((), {"SLURM_NTASKS": "8"}, None),  # a login shell of an allocation: no task of it
    ((), SLURM | {"LM2_DISTRIBUTED": "0"}, None),
    ((), {"TPU_WORKER_HOSTNAMES": "localhost"}, None)])
def test_process_info(arguments, environment, info):
    assert find_process_info(*arguments, environment=environment) == info


@pytest.mark.parametrize("arguments,environment,wanted", [
    (("a:1", None, None), {}, "--num-processes (or LM2_NUM_PROCESSES) is missing"),
    ((None, 2, 0), {}, "--coordinator (or LM2_COORDINATOR) is missing"),
    ((), LM2 | {"LM2_PROCESS_ID": ""}, "--process-id (or LM2_PROCESS_ID) is missing"),
    ((), LM2 | {"LM2_PROCESS_ID": "4"}, "--process-id is 4 of --num-processes 4"),
    ((), LM2 | {"LM2_PROCESS_ID": "two"}, "must be whole numbers"),
    ((), LM2 | {"LM2_COORDINATOR": "a"}, "must be HOST:PORT"),
    ((), {"LM2_DISTRIBUTED": "1"}, "looks like a cluster")])
def test_impossible_process_info_is_one_line(arguments, environment, wanted, monkeypatch):
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


def test_one_process_needs_no_rendezvous():
    processes.initialize(None)
    assert processes.is_primary() and processes.primary_first(lambda: 3) == 3
    assert processes.broadcast_from_primary(7) == 7
    processes.barrier("nobody else")
    processes.shutdown()
    assert json.dumps(processes.name()).startswith('"process 0 of 1 (')


TPU_VM = {"agent-worker-number": "2", "tpu-env": "TYPE: 'V5LITE_POD'",
          "worker-network-endpoints": "a:x:127.0.0.1,a:y:10.0.0.2,a:z:10.0.0.3,a:w:10.0.0.4"}


@pytest.mark.parametrize("environment,info", [
    ({"TPU_WORKER_HOSTNAMES": "localhost,job-1.svc", "TPU_WORKER_ID": "1",
      "TPU_SKIP_MDS_QUERY": "1", "MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
      "MEGASCALE_COORDINATOR_ADDRESS": "localhost"}, ProcessInfo("localhost:8482", 4, 3)),
    ({"LM2_DISTRIBUTED": "1"}, ProcessInfo("127.0.0.1:8482", 4, 2))], ids=["GKE", "TPU VM"])
def test_a_tpu_pod_is_recognised(monkeypatch, environment, info):
    """With what GKE puts into a pod's environment, or what a TPU VM's metadata say."""
    cluster = "jax._src.clusters.cloud_tpu_cluster."
    monkeypatch.setattr(cluster + "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cluster + "get_metadata", lambda key: (TPU_VM[key], 200))
    for name in list(os.environ):
        if name.startswith(("SLURM", "TPU", "MEGASCALE", "LM2_", "OMPI", "KUBERNETES")):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert find_process_info() == info


def test_slices_of_tpu_vms_are_recognised(monkeypatch):
    """Queued resources of several slices say so in the metadata of each host."""
    several = TPU_VM | {"tpu-env": "MEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '1'\n"
                                   "MEGASCALE_COORDINATOR_ADDRESS: '127.0.0.1:8080'\n"}
    cluster = "jax._src.clusters.cloud_tpu_cluster."
    monkeypatch.setattr(cluster + "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cluster + "get_metadata", lambda key: (several[key], 200))
    for name in list(os.environ):
        if name.startswith(("SLURM", "TPU", "MEGASCALE", "LM2_", "OMPI", "KUBERNETES")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LM2_DISTRIBUTED", "1")
    assert find_process_info() == ProcessInfo("127.0.0.1:8482", 8, 6)


MEGASCALE = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1",
             "MEGASCALE_COORDINATOR_ADDRESS": "host"}


@pytest.mark.parametrize("name,value", [("NUM_SLICES", "two"), ("SLICE_ID", "2"), ("SLICE_ID", ""),
                                        ("COORDINATOR_ADDRESS", "")])
def test_an_environment_of_slices_that_is_not_whole_is_refused(name, value):
    environment = MEGASCALE | {f"MEGASCALE_{name}": value}
    with pytest.raises(UserError, match=f"MEGASCALE_{name} (is )?'{value}'") as caught:
        find_process_info(environment=environment)
    assert "\n" not in str(caught.value) and "LM2_DISTRIBUTED=0" in str(caught.value)
    assert find_process_info(environment=environment | {"LM2_DISTRIBUTED": "0"}) is None
    # One slice says nothing about the number of its hosts.
    assert find_process_info(environment={"MEGASCALE_NUM_SLICES": "1"}) is None


@pytest.mark.parametrize("text", ["abc", "-1", "0", "nan", "inf", "3 s"])
def test_a_timeout_that_is_no_number_is_named(text):
    with pytest.raises(UserError, match=f"LM2_CONNECT_TIMEOUT is '{text}'; it must be a positive"):
        clusters.timeouts({"LM2_CONNECT_TIMEOUT": text})
    assert clusters.timeouts({"LM2_CONNECT_TIMEOUT": "2.5", "LM2_HEARTBEAT_TIMEOUT": ""}) == {
        "connect_timeout": 2.5}


def test_one_process_in_the_environment_of_four_tasks_names_the_way_out(monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    info = dataclasses.replace(find_process_info(), coordinator=f"127.0.0.1:{free_port()}")
    with pytest.raises(RendezvousError, match="processes 1, 2, 3 of 4 did not connect .*"
                                              "LM2_DISTRIBUTED=0 for a run of one process"):
        processes.initialize(info, connect_timeout=0.3)


def test_a_preemption_service_that_is_off_is_named():
    try:
        jax.config.update("jax_enable_preemption_service", False)
        with pytest.raises(UserError, match="JAX_ENABLE_PREEMPTION_SERVICE"):
            processes.initialize(ProcessInfo("127.0.0.1:1", 2, 0), connect_timeout=1)
    finally:
        jax.config.update("jax_enable_preemption_service", True)


def test_a_jax_without_its_private_parts_is_one_clear_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax._src.clusters", None)
    with pytest.raises(UserError, match="give --coordinator"):
        find_process_info(environment={"LM2_DISTRIBUTED": "1"})
    monkeypatch.setitem(sys.modules, "jax._src.distributed", None)
    with pytest.raises(RuntimeError, match="has no jax._src.distributed"):
        processes._coordination_client()
