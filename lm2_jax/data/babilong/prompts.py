"""What is said around a context, for a model that was not tuned to the tasks."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from lm2_jax.data.babilong.wording import WORDING, Wording
from lm2_jax.errors import UserError, UserFileNotFoundError

PARTS = ("instruction", "examples", "post_prompt")
# The benchmark's order and tags.
TEMPLATE = ("{instruction}\n\n{examples}\n\n{post_prompt}\n\n<context>\n{context}\n</context>\n\n"
            "Question: {question}")


@dataclass(frozen=True)
class TaskPrompt:
    """The parts of a task's prompt; an empty one is left out."""

    instruction: str = ""
    examples: str = ""
    post_prompt: str = ""
    template: str = TEMPLATE

    def before(self) -> str:
        """The text before the context."""
        text = self.template.partition("{context}")[0]
        return text.format(**{part: getattr(self, part) for part in PARTS}).lstrip()

    def behind(self, question: str) -> str:
        """The text behind the context."""
        return self.template.partition("{context}")[2].format(question=question).rstrip()

    def with_parts(self, **used: bool) -> "TaskPrompt":
        """Without the parts that are False."""
        return replace(self, **{part: "" for part, kept in used.items() if not kept})


def ours() -> dict[str, TaskPrompt]:
    """The prompts of qa1 to qa20 in our own words."""
    return {task: _worded(wording) for task, wording in WORDING.items()}


def load(path: str | Path) -> dict[str, TaskPrompt]:
    """Prompts of a JSON file: {"qa1": {"instruction", "examples", "post_prompt"}, ...}.

    Raises:
      FileNotFoundError, ValueError: in one line, with the task and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise UserFileNotFoundError(f"no prompt file {path} (eval.prompts)")
    try:
        tasks = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(tasks, dict):
        raise UserError(f"{path} must hold an object with a key for each task, as qa1")
    for task, parts in tasks.items():
        if not (isinstance(parts, dict) and set(parts) == set(PARTS)
                and all(isinstance(text, str) for text in parts.values())):
            raise UserError(f"{path}: {task} must have texts under {', '.join(PARTS)}, and no "
                             "other keys")
    return {task: TaskPrompt(**parts) for task, parts in tasks.items()}


def _worded(wording: Wording) -> TaskPrompt:
    examples = (f"<example>\n{text}\nAnswer: {answer}\n</example>"
                for text, answer in wording.examples)
    return TaskPrompt(wording.instruction, "\n".join(examples), wording.form)
