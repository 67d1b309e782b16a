"""Counts the operations that a start, a save and a resume cost in a bucket.

    python tests/tools/bucket_operations.py --out configs/results/buckets

The bucket is that of an emulator; the proxy in front of it counts. The state is that of
tests/states.py, a few arrays over eight devices of one process. It writes operations.json, of which
configs/results/build.py makes a table.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.config import CheckpointConfig
from lm2_jax.report import provenance
from lm2_jax.runtime import locks, paths
from lm2_jax.training.writers import JsonLines

jax.config.update("jax_num_cpu_devices", 8)
sys.path.append(str(Path(__file__).parents[1]))
import emulators  # noqa: E402
from states import MESHES, abstract, random_bits  # noqa: E402

KINDS = ("write", "list", "copy", "read", "stat", "delete")  # the first three are the dearer class


@dataclasses.dataclass(frozen=True)
class Counts:
    """The operations of one thing.

    Attributes:
      what: was done.
      store: "gs" or "s3".
      operations: {kind: number}.
    """

    what: str
    store: str
    operations: dict[str, int]


def measure(scheme: str, folder: Path) -> list[Counts]:
    """Does one thing after the other in a bucket."""
    found: list[Counts] = []
    with emulators.started(scheme, folder) as store:
        workdir = paths.of(store.path("run"))

        def count(what: str, action: Callable[[], object]) -> None:
            store.control("counts")
            action()
            counts = store.control("counts")
            found.append(Counts(what, scheme, {kind: counts.get(kind, 0) for kind in KINDS}))

        def start() -> None:
            locks.require_writable(workdir)
            with locks.locked(workdir, "lm2 train"):
                locks.check_shared(workdir)

        def save(step: int) -> None:
            checkpointer.save(step, *random_bits(step, MESHES[0]), {"next_step": step})
            checkpointer.wait()

        def write_lines() -> None:
            for step in range(1, 101):
                lines.write({"step": step, "loss": 1.0})
            lines.flush()

        count("a start: rights, lease, whether all hosts share it", start)
        checkpointer = Checkpointer(workdir, CheckpointConfig(keep=2))
        count("the first save", lambda: save(1))
        count("a save", lambda: save(2))
        count("a save, and the deletion of an old one", lambda: save(3))
        checkpointer.close()
        reading = Checkpointer(workdir)
        count("a resume: find and verify the newest save", reading.newest_valid_step)
        count("a resume: read it", lambda: reading.restore(
            3, *abstract(random_bits(0, MESHES[0]))))
        lines = JsonLines(workdir / "metrics.jsonl", 0)
        count("metrics of 100 steps, at most each 10 s and at a save", write_lines)
        count("metrics at the end of a run", lines.close)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = []
    for scheme in ("gs", "s3"):
        with tempfile.TemporaryDirectory() as temporary:
            found += measure(scheme, Path(temporary))
    about = {"command": f"python tests/tools/bucket_operations.py --out {args.out}",
             "commit": provenance.commit(), "jax": jax.__version__}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "operations.json").write_text(json.dumps(
        about | {"counts": [dataclasses.asdict(counts) for counts in found]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
