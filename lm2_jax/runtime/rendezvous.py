"""Connects the processes of a run before JAX joins them, and reports at once which one failed.

`jax.distributed` alone does not report this (jax 0.10.2; `test_what_jax_reports_by_itself`):

- A process never connects: after the timeout all others abort; the missing one is not named.
- A process is killed: the others learn of it after the heartbeat timeout (100 s by default). If it
  was process 0 they abort at once, without naming it.
- A process raises: the others do not learn why.

Here every process but process 0 keeps a TCP connection to process 0, at the port that JAX's
coordinator uses afterwards. A process that has not connected is missing, and the kernel closes the
connection of a process that dies.
"""

import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable

from lm2_jax.errors import UserError

RETRY_SECONDS = 0.2
HANDSHAKE_SECONDS = 10.0
MAX_LINE_BYTES = 1 << 16


class RendezvousError(UserError):
    """The processes could not all connect; the message names those that are missing or wrong."""


class Rendezvous:
    """The connections of this process. The constructor returns once all processes have connected.

    Args:
      address: HOST:PORT of process 0.
      num_processes: of the run.
      process_id: of this process.
      timeout: seconds to wait for the other processes.
      on_failure: called once, in a thread, with a line that names a process which ended before
        `close`.
      on_message: called on process 0, in a thread, with each line of `send_to_primary`.

    Raises:
      RendezvousError: after `timeout`, naming the missing processes; or at once, if two processes
        have the same id or disagree on the number of processes.
    """

    def __init__(self, address: str, num_processes: int, process_id: int, timeout: float,
                 on_failure: Callable[[str], None], on_message: Callable[[str], None]):
        self._on_failure, self._on_message = on_failure, on_message
        self._peers: dict[int, _Peer] = {}
        self._closing, self._lock = False, threading.Lock()
        host, port = split_address(address)
        if process_id == 0:
            self._accept_all(port, num_processes, timeout)
        else:
            self._connect(host, port, num_processes, process_id, timeout)
        self._watcher = threading.Thread(target=self._watch, daemon=True, name="rendezvous")
        self._watcher.start()

    def send_to_primary(self, line: str) -> None:
        """Passes a line to `on_message` of process 0; does nothing on process 0 itself."""
        if 0 in self._peers:
            self._peers[0].send(message=line)

    def close(self, reason: str = "") -> None:
        """Stops watching. With a reason, the other processes fail with it."""
        self._closing = True
        for peer in self._peers.values():
            peer.send(end=reason)
        if not reason and 0 not in self._peers:
            self._watcher.join(timeout=10.0)  # the others would take an early exit for a failure

    def _accept_all(self, port: int, num_processes: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        dual = socket.has_dualstack_ipv6()
        try:
            server = socket.create_server(
                ("", port), family=socket.AF_INET6 if dual else socket.AF_INET,
                backlog=max(128, num_processes), dualstack_ipv6=dual)
        except OSError as error:
            raise RendezvousError(f"port {port} cannot be used on {socket.gethostname()} "
                                  f"({error.strerror}); choose another one for the coordinator"
                                  ) from error
        with server:
            while len(self._peers) < num_processes - 1:
                server.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    peer = _Peer(server.accept()[0])
                except TimeoutError:
                    missing = [str(i) for i in range(1, num_processes) if i not in self._peers]
                    self._refuse(f"process{'es' * (len(missing) > 1)} {', '.join(missing)} of "
                                 f"{num_processes} did not connect to {socket.gethostname()}:{port}"
                                 f" within {timeout:g} s")
                try:
                    peer.socket.settimeout(HANDSHAKE_SECONDS)
                    peer.introduce(peer.receive())
                except (OSError, ValueError, KeyError, TypeError):
                    peer.socket.close()  # not a process of this package
                    continue
                self._check(peer, num_processes)
                self._peers[peer.process_id] = peer
        for peer in self._peers.values():
            peer.send(ready=socket.gethostname())

    def _check(self, peer: "_Peer", num_processes: int) -> None:
        problem = ""
        if peer.num_processes != num_processes:
            problem = f"process 0 was started with {num_processes} processes"
        elif peer.process_id in self._peers:
            problem = f"{self._peers[peer.process_id]} has connected already"
        if problem:
            self._peers[-1] = peer  # it gets the error too
            self._refuse(f"{peer} connected, but {problem}")

    def _refuse(self, line: str) -> None:
        for peer in self._peers.values():
            peer.send(error=line)
            peer.socket.close()
        raise RendezvousError(line)

    def _connect(self, host: str, port: int, num_processes: int, process_id: int, timeout: float
                 ) -> None:
        deadline = time.monotonic() + timeout
        while True:
            peer = None
            try:
                left = max(deadline - time.monotonic(), 0.001)
                peer = _Peer(socket.create_connection((host, port), timeout=left))
                peer.send(process=process_id, of=num_processes, host=socket.gethostname(),
                          pid=os.getpid())
                peer.socket.settimeout(left + 5.0)  # process 0 may have started later
                answer = peer.receive()
                break
            except socket.gaierror as error:
                problem = f"the host of process 0, {host}, is unknown ({error.strerror})"
            except (OSError, ValueError):
                problem = f"process 0 did not answer at {host}:{port} within {timeout:g} s"
            if peer:
                peer.socket.close()
            if time.monotonic() >= deadline:
                raise RendezvousError(problem)
            time.sleep(RETRY_SECONDS)
        if "error" in answer:
            peer.socket.close()
            raise RendezvousError(answer["error"])
        peer.process_id, peer.host, peer.num_processes = 0, answer["ready"], num_processes
        self._peers[0] = peer

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self._peers.values():
                peer.socket.settimeout(None)
                selector.register(peer.socket, selectors.EVENT_READ, peer)
            while peers := [key.data for key in selector.get_map().values()]:
                # Several lines may arrive in one read: those left over make no socket readable.
                ready = [peer for peer in peers if peer.has_line()] or [
                    key.data for key, _ in selector.select()]
                for peer in ready:
                    if not self._handle(peer):
                        selector.unregister(peer.socket)
                        peer.socket.close()

    def _handle(self, peer: "_Peer") -> bool:
        """Handles the next message of a peer. Returns False if it was the last one."""
        try:
            message = peer.receive()
        except (OSError, ValueError):
            message = {"end": "ended unexpectedly"}
        if "message" in message:
            self._on_message(message["message"])
        elif "failure" in message:
            self._fail(message["failure"])
        else:
            if message.get("end"):
                self._fail(f"{peer}: {message['end']}")
            return False
        return True

    def _fail(self, line: str) -> None:
        with self._lock:
            if self._closing:
                return
            self._closing = True
        for peer in self._peers.values():
            peer.send(failure=line)
        self._on_failure(line)


class _Peer:
    """A connection to another process; messages are lines of JSON."""

    def __init__(self, connection: socket.socket):
        self.socket, self._bytes = connection, b""
        self.process_id, self.num_processes, self.host = -1, 0, "?"
        self._lock = threading.Lock()

    def __str__(self) -> str:
        return f"process {self.process_id} of {self.num_processes} ({self.host})"

    def introduce(self, message: dict) -> None:
        self.process_id, self.num_processes = int(message["process"]), int(message["of"])
        self.host = f"{message['host']}, pid {message['pid']}"

    def send(self, **message) -> None:
        """Sends a message; an error is ignored, since the reader reports a broken connection."""
        try:
            with self._lock:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass

    def has_line(self) -> bool:
        """Whether `receive` returns without reading from the socket."""
        return b"\n" in self._bytes

    def receive(self) -> dict:
        """Returns the next message.

        Raises:
          OSError: if the connection ended.
          ValueError: if it is not a message.
        """
        while not self.has_line():
            more = self.socket.recv(4096)
            if not more:
                raise ConnectionResetError("closed")
            self._bytes += more
            if len(self._bytes) > MAX_LINE_BYTES:
                raise ValueError("the line is too long")
        line, self._bytes = self._bytes.split(b"\n", 1)
        return dict(json.loads(line))


def split_address(address: str) -> tuple[str, int]:
    """Splits HOST:PORT into host and port.

    Raises:
      UserError: if it is not of that form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"the coordinator is {address!r}; it must be HOST:PORT")
    return host.strip("[]"), int(port)
