"""Prompts for models that were not trained on the tasks: the text before and after a context."""

import json
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import paths

PARTS = ("instruction", "examples", "post_prompt")
# BABILong's order and tags.
TEMPLATE = ("{instruction}\n\n{examples}\n\n{post_prompt}\n\n<context>\n{context}\n</context>\n\n"
            "Question: {question}")


@dataclass(frozen=True)
class TaskPrompt:
    """The parts of a task's prompt; "" leaves a part out.

    Attributes:
      instruction: what the task is.
      examples: facts with a question and its answer.
      post_prompt: the form of the answer.
      template: has the parts, {context} and {question} as fields.
    """

    instruction: str = ""
    examples: str = ""
    post_prompt: str = ""
    template: str = TEMPLATE

    def prefix(self) -> str:
        """Returns the text before the context."""
        text = self.template.partition("{context}")[0]
        return text.format(**{part: getattr(self, part) for part in PARTS}).lstrip()

    def suffix(self, question: str) -> str:
        """Returns the text after the context."""
        return self.template.partition("{context}")[2].format(question=question).rstrip()

    def with_parts(self, **used: bool) -> "TaskPrompt":
        """Returns the prompt without the parts whose keyword is False."""
        return replace(self, **{part: "" for part, kept in used.items() if not kept})


def default_prompts() -> dict[str, TaskPrompt]:
    """Returns this package's prompts of qa1 to qa20 (wording.json)."""
    return _load(resources.files(__package__) / "wording.json")


def load(path: str | Path) -> dict[str, TaskPrompt]:
    """Reads prompts from a JSON file in the format of wording.json.

    That is {"qa1": {"instruction": text, "examples": text, "post_prompt": text}, ...}.

    Raises:
      UserFileNotFoundError: there is no such file.
      UserError: the file has the wrong form; the message names the task.
    """
    path = paths.of(path)
    if not path.is_file():
        raise UserFileNotFoundError(f"no prompt file {path} (eval.prompts)")
    return _load(path)


def _load(path: Path | Traversable) -> dict[str, TaskPrompt]:
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(tasks, dict):
        raise UserError(f"{path} must hold an object with a key for each task, such as qa1")
    for task, parts in tasks.items():
        if not (isinstance(parts, dict) and set(parts) == set(PARTS)
                and all(isinstance(text, str) for text in parts.values())):
            raise UserError(f"{path}: {task} must have texts under {', '.join(PARTS)}, and no "
                            "other keys")
    return {task: TaskPrompt(**parts) for task, parts in tasks.items()}
