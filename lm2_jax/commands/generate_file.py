"""`lm2 generate --jsonl`: a file of prompts in, the same lines with their texts out."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lm2_jax.checkpoint.workdir import Run
from lm2_jax.commands import arguments
from lm2_jax.data.text import json_file
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.generate import prompts, saved
from lm2_jax.generate.api import generate
from lm2_jax.generate.states import ReadState
from lm2_jax.generate.text import ChatTemplate, require_chat_template
from lm2_jax.runtime.console import SafeStream
from lm2_jax.runtime.progress import Bar
from lm2_jax.types import Tokens


def run(trained: Run, args: argparse.Namespace, options: dict[str, Any]) -> None:
    """Generates a text for each line of `args.jsonl`; each batch is written when it is done.

    Raises:
      UserError: a line is not a request; it names the line.
    """
    requests = Requests(trained, args)
    rows = [(row, *requests.parse(where, row)) for where, row in _rows(args.jsonl)]
    size = args.batch_size
    bar = Bar("generating", len(rows), console=arguments.notes(), unit="texts")
    with contextlib.closing(bar), _writing(args.out) as write:
        for first in range(0, len(rows), size):
            batch = rows[first:first + size]
            found = generate(trained, [tokens for _, tokens, _ in batch],
                             state=[state for *_, state in batch if state] or None,
                             batch_size=min(size, len(rows)), **options)
            for (row, *_), answer in zip(batch, found, strict=True):
                write(json.dumps({**row, "text": answer.text, "reason": answer.reason},
                                 ensure_ascii=False) + "\n")
            bar.update(first + len(batch), "")


class Requests:
    """Turns lines into prompts; the chat template and the states are read once."""

    def __init__(self, trained: Run, args: argparse.Namespace):
        self._run, self._path, self._document = trained, args.state, args.document
        self._states = saved.load(args.state, trained) if args.state else {}
        self._workdir = args.workdir
        self._template: ChatTemplate | None = None

    def parse(self, where: str, row: Any) -> tuple[Tokens, ReadState | None]:
        """Returns the tokens of a request, and what was read before them."""
        if not isinstance(row, dict) or ("prompt" in row) == ("messages" in row):
            raise UserError(f'{where}: expected an object with either "prompt" or "messages"')
        for key in row.keys() & {"prompt", "question", "document"}:
            if not isinstance(row[key], str):
                raise UserError(f"{where}: {key} is not a string")
        name = row.get("document", self._document)
        if name and not self._path:
            raise UserError(f"{where}: {name} is a text of --state, which is not given")
        state = saved.choose(self._states, name, self._path) if self._path else None
        if "prompt" in row:
            return prompts.of_prompt(self._run, row["prompt"], row.get("question", ""),
                                     first=state is None), state
        messages = row["messages"]
        if not isinstance(messages, list) or not all(
                isinstance(m, dict) and isinstance(m.get("role"), str) for m in messages):
            raise UserError(f'{where}: messages must be a list of objects with "role" and '
                            '"content"')
        self._template = self._template or require_chat_template(self._workdir)
        return prompts.array(self._run.tokenizer.encode(self._template.render(messages))), state


def _rows(path: str) -> list[tuple[str, Any]]:
    if not Path(path).is_file():
        raise UserFileNotFoundError(f"no file {path} (--jsonl)")
    rows = list(json_file.values(Path(path)))
    if not rows:
        raise UserError(f"{path} has no lines")
    return rows


@contextlib.contextmanager
def _writing(path: str | None) -> Iterator[Any]:
    """Writes lines to a file, or to the standard output, each at once."""
    with open(path, "w", encoding="utf-8") if path else contextlib.nullcontext(
            SafeStream("stdout")) as out:
        def write(line: str) -> None:
            out.write(line)
            out.flush()

        yield write
