"""`lm2 generate --jsonl`: a file of prompts in, the same lines with their texts out."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import Any

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.commands import arguments
from lm2_jax.data.text import json_file
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.generation import prompts, saved
from lm2_jax.generation.api import generate
from lm2_jax.generation.states import ReadState
from lm2_jax.generation.text import ChatTemplate, require_chat_template
from lm2_jax.runtime import files, paths
from lm2_jax.runtime.console import SafeStream
from lm2_jax.runtime.progress import Bar
from lm2_jax.types import Tokens


def run(trained: Run, args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Generates a text for each line of `args.jsonl`; each batch is written when it is done.

    Raises:
      UserError: a line is not a request; it names the line.
    """
    requests = Requests(trained, args)
    rows, size = _rows(args.jsonl), args.batch_size
    for where, row in rows:
        requests.check(where, row)
    bar = Bar("generating", len(rows), console=arguments.notes(), unit="texts")
    with contextlib.closing(bar), _writing(args.out) as write:
        for first in range(0, len(rows), size):
            batch = [row for _, row in rows[first:first + size]]
            found = generate(trained, [requests.tokens(row) for row in batch],
                             state=[requests.state(row) for row in batch],
                             batch_size=min(size, len(rows)), **options)
            for row, answer in zip(batch, found, strict=True):
                write(json.dumps({**row, "text": answer.text, "reason": answer.reason},
                                 ensure_ascii=False) + "\n")
            bar.update(first + len(batch), "")


class Requests:
    """Turns lines into prompts; the chat template and the states are read once."""

    def __init__(self, trained: Run, args: argparse.Namespace):
        self._run, self._args = trained, args
        self._states = saved.load(args.state, trained) if args.state else {}
        self._template: ChatTemplate | None = None

    def check(self, where: str, row: Any) -> None:
        """Raises a UserError unless the line is a request; it names the place."""
        if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
            raise UserError(f'{where}: expected an object with either "prompt" or "messages"')
        for key in row.keys() & {"prompt", "question", "document"}:
            if not isinstance(row[key], str):
                raise UserError(f"{where}: {key} is not a string")
        if "messages" in row:
            if not isinstance(row["messages"], list) or not all(
                    isinstance(m, dict) and isinstance(m.get("role"), str)
                    for m in row["messages"]):
                raise UserError(f'{where}: messages must be a list of objects with "role" and '
                                '"content"')
            self._template = self._template or require_chat_template(self._args.workdir)
        self.state(row)

    def state(self, row: dict) -> ReadState | None:
        """What was read before a request; None without --state."""
        name = row.get("document", self._args.document)
        if self._args.state:
            return saved.choose(self._states, name, self._args.state)
        if name:
            raise UserError(f"{name} is a text of --state, which is not given")
        return None

    def tokens(self, row: dict) -> Tokens:
        """The tokens of a request."""
        if self._template and "messages" in row:
            text = self._template.render(row["messages"])
            return prompts.array(self._run.tokenizer.encode(text))
        return prompts.of_prompt(self._run, row["prompt"], row.get("question", ""),
                                 first=not self._args.state)


def _rows(path: str) -> list[tuple[str, Any]]:
    if not paths.of(path).is_file():
        raise UserFileNotFoundError(f"no file {path} (--jsonl)")
    rows = list(json_file.values(paths.of(path)))
    if not rows:
        raise UserError(f"{path} has no lines")
    return rows


@contextlib.contextmanager
def _writing(path: str | None) -> Iterator[Any]:
    """Writes lines to a file, or to the standard output, each at once; to a bucket at the end."""
    with files.written(path) if path else contextlib.nullcontext(SafeStream("stdout")) as out:
        def write(line: str) -> None:
            out.write(line)
            out.flush()

        yield write
