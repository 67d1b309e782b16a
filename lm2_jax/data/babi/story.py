"""The types of a bAbI story."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question about the facts before it.

    Attributes:
      text: "Where is Mary?".
      answer: as in the bAbI files; a list as "apple,milk".
      support: 0-based indices into Story.facts of the facts that give the answer.
      num_facts: number of facts of the story that precede the question.
    """

    text: str
    answer: str
    support: tuple[int, ...]
    num_facts: int


@dataclass(frozen=True)
class Story:
    """The facts of a story of a task ("qa1"), and its questions in the order of num_facts."""

    task: str
    facts: tuple[str, ...]
    questions: tuple[Question, ...]
