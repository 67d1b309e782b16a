"""Counts the operations that a save, a start, a resume and an evaluation cost in a bucket.

    python tests/tools/bucket_operations.py --out configs/results/buckets

The run is that of configs/tiny.py, in a bucket of an emulator; the proxy in front of it counts.
Written are operations.json and operations.md.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import jax

from lm2_jax.report import provenance
from lm2_jax.report.table import Table

sys.path.append(str(Path(__file__).parents[1]))
import emulators  # noqa: E402
import runs  # noqa: E402

KINDS = ("write", "list", "copy", "read", "stat", "delete")  # the first three are the dearer class
SHORT = ("--config.train.eval_every_steps=0", "--config.eval.lengths=96",
         "--config.eval.memory=carried", "--config.checkpoint.keep=2")


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
    """Runs tiny.py in a bucket: what differs between two runs is counted by their difference."""
    found: dict[str, dict[str, int]] = {}
    with emulators.started(scheme, folder) as store:

        def run(command: str, name: str, *overrides: str) -> dict[str, int]:
            store.control("counts")
            ended = runs.lm2(command, store.path(name), *SHORT, *overrides)
            if ended.returncode:
                raise RuntimeError(ended.stderr)
            return store.control("counts")

        def train(name: str, steps: int, every: int) -> dict[str, int]:
            return run("train", name, f"--config.train.num_steps={steps}",
                       f"--config.checkpoint.every_steps={every}")

        one, two, three, five = (train(str(saves), 12 * saves, 12) for saves in (1, 2, 3, 5))
        found["a run of 12 steps with 1 save and an evaluation"] = one
        found["12 more steps and a save"] = difference(two, one)
        found["12 more steps, a save and the deletion of an old one"] = {
            kind: round((five.get(kind, 0) - three.get(kind, 0)) / 2) for kind in KINDS}
        found["36 more steps"] = difference(train("steps", 48, 48), one)
        found["a resume with nothing left to train, and its evaluation"] = train("5", 60, 12)
        found["an evaluation of a finished run"] = run("eval", "5")
    return [Counts(what, scheme, {kind: max(0, counts.get(kind, 0)) for kind in KINDS})
            for what, counts in found.items()]


def difference(more: dict[str, int], less: dict[str, int]) -> dict[str, int]:
    return {kind: more.get(kind, 0) - less.get(kind, 0) for kind in KINDS}


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
             "config": "tiny, one process", "commit": provenance.commit(), "jax": jax.__version__}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "operations.json").write_text(json.dumps(
        about | {"counts": [dataclasses.asdict(counts) for counts in found]}, indent=1) + "\n")
    table = Table(["what", "store", *KINDS], [
        [[counts.what, counts.store, *(str(counts.operations[kind]) for kind in KINDS)]
         for counts in found if counts.store == scheme] for scheme in ("gs", "s3")])
    (args.out / "operations.md").write_text(table.markdown())
    print(table.markdown())


if __name__ == "__main__":
    main()
