"""Metrics as they come: JSON lines and TensorBoard events, each step once."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter

from lm2_jax.eval.results import replacing


class JsonLines:
    """Appends one JSON object a line; lines of steps after `last_step` are dropped first.

    After a crash the steps since the last checkpoint are trained again, so their lines, and
    one that was cut short, go.
    """

    def __init__(self, path: str | Path, last_step: int):
        path = Path(path)
        kept = [line for line in read_lines(path) if line["step"] <= last_step]
        with replacing(path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self._file = open(path, "a", encoding="utf-8", buffering=1)

    def write(self, values: dict) -> None:
        self._file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        self._file.close()


def read_lines(path: str | Path) -> list[dict]:
    """The objects of a JSON-lines file; none if there is no file, a cut last line left out."""
    path = Path(path)
    if not path.exists():
        return []
    whole = [line for line in path.read_text("utf-8").split("\n")[:-1] if line]
    return [json.loads(line) for line in whole]


class MetricsWriter:
    """A run's metrics: `workdir/metrics.jsonl`, and TensorBoard events beside it."""

    def __init__(self, workdir: str | Path, last_step: int, tensorboard: bool):
        self._lines = JsonLines(Path(workdir) / "metrics.jsonl", last_step)
        self._board = None
        if tensorboard:
            self._board = SummaryWriter(str(Path(workdir) / "tensorboard"),
                                        purge_step=last_step + 1, write_to_disk=True)

    def write(self, step: int, values: dict[str, float | None]) -> None:
        """One step; a value that is None (unknown) is null in the file, absent in the events."""
        self._lines.write({"step": step, **values})
        if self._board:
            for name, value in values.items():
                if value is not None:
                    self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._lines.close()
        if self._board:
            self._board.close()
