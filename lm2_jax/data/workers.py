"""Batches from worker processes: grain's workers, and clear errors where one of them dies."""

import errno
import multiprocessing
import os
import re
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, Protocol

import cloudpickle
import grain
from absl import flags

from lm2_jax.errors import UserError
from lm2_jax.runtime import processes
from lm2_jax.runtime.preemption import Preempted

SHARED_MEMORY = "/dev/shm"


class Source(Protocol):
    """Elements by number, as grain reads them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def iterate(source: Source, make_dataset: Callable[[Source], grain.IterDataset],
            num_workers: int) -> Iterator[Any]:
    """Yields the elements of a dataset, in order, made by worker processes.

    The workers survive SIGTERM, which a scheduler may send to every process of a run: this process
    decides when the run ends, and may need further batches until then. They end with the iterator,
    or with this process, however it ends.

    Args:
      source: of the dataset; it must be picklable.
      make_dataset: makes the dataset from a source that reads as `source` does.
      num_workers: at least 1.

    Raises:
      UserError: if a worker dies, or if this is a worker that imports the main script.
    """
    processes.refuse_in_worker()
    if not flags.FLAGS.is_parsed():  # grain reads absl flags, which only absl's main parses
        flags.FLAGS.mark_as_parsed()
    with tempfile.TemporaryDirectory(prefix="lm2_jax_") as folder:
        iterator = None
        try:
            dataset = make_dataset(SourceFile(source, Path(folder) / "source")).mp_prefetch(
                grain.MultiprocessingOptions(num_workers=num_workers), worker_init_fn=_init_worker)
            iterator = iter(dataset)
            _without_sigterm(lambda: _start(iterator))
            while True:
                try:
                    element = next(iterator)
                except StopIteration:
                    return
                yield element
        except (RuntimeError, OSError) as error:
            if message := _explained(error, num_workers):
                raise UserError(message) from error
            raise
        except Preempted:
            # The run saves first: closing waits for the workers, which may hang.
            if iterator is not None:
                threading.Thread(target=iterator.close, daemon=True).start()
                iterator = None
            raise
        finally:
            if iterator is not None:
                iterator.close()


class SourceFile:
    """A source in a file, which each worker reads for itself.

    Python sends a new process its arguments through a pipe. If the process dies before it has read
    them all, the sender waits for ever (it holds the reading end too), unless they fit into the
    pipe's buffer.
    """

    def __init__(self, source: Source, path: Path):
        self._source: Source | None = source
        self._path, self._length = path, len(source)
        path.write_bytes(cloudpickle.dumps(source))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        if self._source is None:
            self._source = cloudpickle.loads(self._path.read_bytes())
        return self._source[index]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_source": None}


def _start(iterator: grain.DatasetIterator) -> None:
    """Starts all workers now, by threads that this one starts."""
    iterator.get_state()  # makes the iterators over the workers, if there are several
    iterator.start_prefetch()


def _init_worker(index: int, count: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    def end_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _without_sigterm(start: Callable[[], None]) -> None:
    """Calls `start`; SIGTERM is blocked in the processes that it starts, from their birth on."""
    def run() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # inherited, also by exec
        try:
            start()
        except BaseException as error:
            errors.append(error)

    errors: list[BaseException] = []
    resource_tracker.ensure_running()  # starting it would unblock the signal again
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _explained(error: RuntimeError | OSError, num_workers: int) -> str | None:
    """The message for the death of a worker; None for other errors."""
    workers = f"data.num_workers={num_workers}"
    space = (f"{SHARED_MEMORY}, through which the workers of {workers} hand over batches, is too "
             "small; enlarge it (docker run --shm-size=8g) or set data.num_workers=0")
    if isinstance(error, OSError):
        return space if error.errno == errno.ENOSPC else None
    found = re.search(r"terminated unexpectedly with exit code (-?\d+)", str(error))
    if not found:
        return None
    code = int(found[1])
    if code == -signal.SIGBUS:
        return space
    if code < 0:
        reason = f"was ended by {signal.Signals(-code).name}"
        reason += " (perhaps for want of memory)" * (code == -signal.SIGKILL)
    else:
        reason = (f"ended with status {code}; its own error is printed above. Workers import the "
                  "main script again: what it runs must be under `if __name__ == \"__main__\":`")
    return f"a data worker process ({workers}) {reason}"
