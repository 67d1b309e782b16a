"""How answers are scored: strict match, BABILong's own metric, baseline and interval."""

import math
import re
from collections import Counter
from collections.abc import Sequence

from lm2_jax.data.babi.simulator.recall import VALUES
from lm2_jax.errors import UserError

_PLACES = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
_YES_NO = ("no", "yes")

# Every answer of a task, lower-case; a list of objects in qa8 is scored by its parts.
LABELS = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4", "qa11", "qa12", "qa13"), _PLACES),
    **dict.fromkeys(("qa6", "qa9", "qa17", "qa18"), _YES_NO),
    "qa5": ("bill", "fred", "jeff", "mary", "apple", "football", "milk"),
    "qa7": ("none", "one", "two", "three"),
    "qa8": ("apple", "football", "milk", "nothing"),
    "qa10": ("maybe", *_YES_NO),
    "qa14": ("bedroom", "cinema", "kitchen", "office", "park", "school"),
    "qa15": ("cat", "mouse", "sheep", "wolf"),
    "qa16": ("gray", "green", "white", "yellow"),
    "qa19": ("e,e", "e,n", "e,s", "n,e", "n,n", "n,w", "s,e", "s,s", "s,w", "w,n", "w,s", "w,w"),
    "qa20": ("bedroom", "garden", "kitchen", "bored", "hungry", "thirsty", "tired"),
    "kv": VALUES,
}

_CUT = re.compile(r"\.|<context>|<example>")


def exact_match(target: str, output: str) -> bool:
    """Whether the output is the target, outer white space aside."""
    return target.strip() == output.strip()


def babilong_correct(task: str, target: str, output: str, question: str) -> bool:
    """Whether an output is right by BABILong's own metric.

    The output counts up to its first full stop, "<context>" or "<example>". The labels of the
    task are looked for anywhere in it, inside longer words too, and those that the question
    names are dropped; what is left must be the answer, or the whole list of answers, and no
    more. So "not in the garden" is right for "garden", "I do not know" is right for "no", and
    "none" (qa7), which contains "one", is never right.

    Args:
      task: "qa1" to "qa20", or "kv".

    Raises:
      ValueError: for an unknown task.
    """
    if task not in LABELS:
        raise UserError(f"task {task!r} is unknown, use qa1 to qa20 or kv")
    target, asked = target.lower(), question.lower()
    said = _CUT.split(output.lower(), maxsplit=1)[0]
    found = {label for label in LABELS[task] if label in said and label not in asked}
    # A list of objects is long; the two moves of qa19, such as "n,w", are one label.
    answers = target.split(",") if len(target) > 3 else [target]
    return len(found) == len(answers) and found.issuperset(answers)


def scorable(task: str, target: str, question: str) -> bool:
    """Whether any output at all is right by BABILong's metric.

    An output that names the answer names the labels inside it too, and the answer by itself
    names no others: it is right, or nothing is, as for "none" in qa7.
    """
    return babilong_correct(task, target, target, question)


def constant_answer(targets: Sequence[str]) -> tuple[str, float]:
    """The best constant answer and its rate of exact matches.

    Returns:
      The most frequent target (of equals, the first of the alphabet) and its rate.

    Raises:
      ValueError: if there are no targets.
    """
    if not targets:
        raise UserError("constant_answer needs at least one target, got none")
    answer, count = min(Counter(targets).items(), key=lambda item: (-item[1], item[0]))
    return answer, count / len(targets)


def wilson(hits: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a rate; z = 1.96 for 95 %.

    Raises:
      ValueError: unless n >= 1 and 0 <= hits <= n.
    """
    if n < 1 or not 0 <= hits <= n:
        raise UserError(f"wilson needs n >= 1 and 0 <= hits <= n, got hits={hits}, n={n}")
    rate, spread = hits / n, z * z / n
    middle = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (rate * (1 - rate) + spread / 4)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
