"""Where the processes of a run meet before JAX joins them, and learn that one of them is gone.

JAX itself ends a process that waits in vain without saying for whom, and takes its heartbeat's
time to notice that another has died. Here every process but the first holds a TCP connection to
the first one, at the port that JAX takes over afterwards: who is missing has not connected, and
the kernel closes the connection of a process as it dies.
"""

import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable

from lm2_jax.errors import UserError

RETRY_SECONDS = 0.2


class RendezvousError(UserError):
    """The processes did not come together; one line says why."""


class Rendezvous:
    """The connections of this process, after everyone came.

    Args:
      address: HOST:PORT of the first process.
      num_processes, process_id: of the run, and this one's index.
      timeout: seconds to wait for the others.
      lost: called in a thread, once, with a line about a process that ended before `leave`.
      heard: called on the first process with each line that another `tell`s.

    Raises:
      RendezvousError: after the time, naming the processes that are missing; or at once, if two
        have the same index, or another number of processes.
    """

    def __init__(self, address: str, num_processes: int, process_id: int, timeout: float,
                 lost: Callable[[str], None], heard: Callable[[str], None]):
        self._lost, self._heard = lost, heard
        self._peers: dict[int, _Peer] = {}
        self._leaving, self._gone, self._said = False, threading.Event(), threading.Lock()
        host, port = split_address(address)
        if process_id == 0:
            self._await_all(port, num_processes, timeout)
        else:
            self._join(host, port, num_processes, process_id, timeout)
        threading.Thread(target=self._watch, daemon=True, name="meeting").start()

    def tell(self, line: str) -> None:
        """Has the first process hear a line; does nothing there itself."""
        if 0 in self._peers:
            self._peers[0].send({"line": line})

    def leave(self, reason: str = "") -> None:
        """Ends the watch. With a reason the others are lost, and told why."""
        self._leaving = True
        for peer in self._peers.values():
            peer.send({"leaves": reason})
        if not reason and 0 not in self._peers:
            self._gone.wait(timeout=10.0)  # until the others have left too

    def _await_all(self, port: int, num_processes: int, timeout: float) -> None:
        until = time.monotonic() + timeout
        dual = socket.has_dualstack_ipv6()
        try:
            server = socket.create_server(
                ("", port), family=socket.AF_INET6 if dual else socket.AF_INET,
                backlog=max(128, num_processes), dualstack_ipv6=dual)
        except OSError as error:
            raise RendezvousError(f"port {port} cannot be used on {socket.gethostname()} "
                               f"({error.strerror}); take another as coordinator") from error
        with server:
            while len(self._peers) < num_processes - 1:
                server.settimeout(max(until - time.monotonic(), 0.001))
                try:
                    connection = server.accept()[0]
                except TimeoutError:
                    missing = [i for i in range(1, num_processes) if i not in self._peers]
                    self._refuse(f"{_named(missing)} of {num_processes} did not connect to "
                                 f"{socket.gethostname()}:{port} within {timeout:g} s")
                peer = _Peer(connection)
                try:
                    connection.settimeout(10.0)
                    peer.introduce(peer.receive())
                except (OSError, ValueError, KeyError, TypeError):
                    connection.close()  # not one of ours
                    continue
                if peer.num_processes != num_processes or peer.index in self._peers:
                    wrong = f"process {peer.index} of {peer.num_processes} on {peer.host}"
                    other = self._peers.get(peer.index)
                    self._peers[-1] = peer  # is told as well
                    self._refuse(f"{wrong} came, where " + (
                        f"{other.host} has process {peer.index} already" if other
                        and peer.num_processes == num_processes
                        else f"the first process knows of {num_processes}"))
                self._peers[peer.index] = peer
        for peer in self._peers.values():
            peer.send({"go": socket.gethostname()})

    def _refuse(self, line: str) -> None:
        for peer in self._peers.values():
            peer.send({"error": line})
            peer.socket.close()
        raise RendezvousError(line)

    def _join(self, host: str, port: int, num_processes: int, process_id: int, timeout: float
              ) -> None:
        until = time.monotonic() + timeout
        nobody = f"process 0 did not answer at {host}:{port} within {timeout:g} s"
        while True:
            peer = None
            try:
                peer = _Peer(socket.create_connection((host, port), timeout=max(
                    until - time.monotonic(), 0.001)))
                peer.send({"process": process_id, "of": num_processes,
                           "host": socket.gethostname(), "pid": os.getpid()})
                peer.socket.settimeout(max(until - time.monotonic(), 0.001) + 5.0)
                answer = peer.receive()
                break
            except socket.gaierror as error:
                reason = f"no host {host} ({error.strerror}) for process 0"
            except (OSError, ValueError):
                reason = nobody
            if peer:
                peer.socket.close()
            if time.monotonic() >= until:
                raise RendezvousError(reason)
            time.sleep(RETRY_SECONDS)
        if "error" in answer:
            peer.socket.close()
            raise RendezvousError(answer["error"])
        peer.index, peer.host, peer.num_processes = 0, answer["go"], num_processes
        self._peers[0] = peer

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            for peer in self._peers.values():
                peer.socket.settimeout(None)
                selector.register(peer.socket, selectors.EVENT_READ, peer)
            while selector.get_map():
                for key, _ in selector.select():
                    peer = key.data
                    try:
                        message = peer.receive()
                    except (OSError, ValueError):
                        message = {"leaves": "ended without a word"}
                    if "line" in message:
                        self._heard(message["line"])
                    elif "lost" in message:
                        self._say(message["lost"])
                    else:
                        selector.unregister(peer.socket)
                        peer.socket.close()
                        if message.get("leaves"):
                            self._say(f"{peer}: {message['leaves']}")
        self._gone.set()

    def _say(self, line: str) -> None:
        with self._said:
            if self._leaving:
                return
            self._leaving = True
        for peer in self._peers.values():
            peer.send({"lost": line})
        self._lost(line)


class _Peer:
    """Another process, spoken with in JSON lines."""

    def __init__(self, connection: socket.socket):
        self.socket, self._bytes = connection, b""
        self.index, self.num_processes, self.host = -1, 0, "?"
        self._sending = threading.Lock()

    def __str__(self) -> str:
        return f"process {self.index} of {self.num_processes} ({self.host})"

    def introduce(self, message: dict) -> None:
        self.index, self.num_processes = int(message["process"]), int(message["of"])
        self.host = f"{message['host']}, pid {message['pid']}"

    def send(self, message: dict) -> None:
        """Says it, if the other is still there."""
        try:
            with self._sending:
                self.socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            pass  # its end is noticed where it is waited for

    def receive(self) -> dict:
        """The next message.

        Raises:
          OSError, ValueError: the connection ended, or does not speak this language.
        """
        while b"\n" not in self._bytes:
            more = self.socket.recv(4096)
            if not more:
                raise ConnectionResetError("closed")
            self._bytes += more
            if len(self._bytes) > 1 << 16:
                raise UserError("no line")
        line, self._bytes = self._bytes.split(b"\n", 1)
        return dict(json.loads(line))


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT as its parts."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(f"the coordinator is {address!r}; it must be HOST:PORT")
    return host.strip("[]"), int(port)


def _named(indices: Iterable[int]) -> str:
    indices = list(indices)
    return ("process " if len(indices) == 1 else "processes ") + ", ".join(map(str, indices))
