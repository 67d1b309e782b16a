"""A symbolic solver of the bAbI tasks, which matches sentences by patterns.

It was written from the published files and does not use `lm2_jax`, so that it can check the
simulator. A row of `TASKS` has the world of a task and the forms of its sentences.
"""

import re
from collections.abc import Sequence
from functools import cache

from solver_people import People
from solver_relations import Animals, Grid, Plane, Sizes

_MOVED = r"(?:moved to|went to|went back to|journeyed to|travelled to)"
_TOOK = r"(?:took|got|grabbed|picked up)"
_LEFT = r"(?:left|dropped|discarded|put down)"
_GAVE = r"(?:gave|handed|passed)"
_NEXT = r"(?:Then|Afterwards|After that|Following that)"
_PERSON = r"(?P<person>[A-Z][a-z]+)"
_GIVER = r"(?P<giver>[A-Z][a-z]+)"
_TAKER = r"(?P<taker>[A-Z][a-z]+)"
_LOWER = r"(?P<person>[a-z]+)"
_THING = r"the (?P<thing>[a-z]+)"
_PLACE = r"the (?P<place>[a-z]+)"
_POINT = r"(?P<way>north|south|east|west)"
_SIDE = r"(?P<side>to the left of|to the right of|above|below)"
_PAIR = r"(?P<first>[A-Z][a-z]+) and (?P<second>[A-Z][a-z]+)"
_TIME = r"(?P<time>yesterday|this morning|this afternoon|this evening)"
_KINDS = r"(?i:mice|wolves|cats|sheep)"
_MOOD = r"(?P<mood>tired|hungry|thirsty|bored)"

# "method/variant": the method of the world that is called with the groups of the pattern.
_FORMS = {
    "move": rf"{_PERSON} {_MOVED} {_PLACE}\.",
    "move_both": rf"{_PAIR} {_MOVED} {_PLACE}\.",
    "move_again": rf"{_NEXT} (?P<pronoun>he|she|they) {_MOVED} {_PLACE}\.",
    "move_at/last": rf"{_PERSON} {_MOVED} {_PLACE} {_TIME}\.",
    "move_at/first": rf"(?i:{_TIME}) {_PERSON} {_MOVED} {_PLACE}\.",
    "move/is": rf"{_PERSON} is in {_PLACE}\.",
    "is_not": rf"{_PERSON} is (?:not|no longer) in {_PLACE}\.",
    "is_either": rf"{_PERSON} is either in {_PLACE} or the (?P<other>[a-z]+)\.",
    "take": rf"{_PERSON} {_TOOK} {_THING}(?: there)?\.",
    "take/there": rf"{_PERSON} {_TOOK} {_THING} there\.",
    "drop": rf"{_PERSON} {_LEFT} {_THING}(?: there)?\.",
    "give": rf"{_GIVER} {_GAVE} {_THING} to {_TAKER}\.",
    "feel": rf"{_PERSON} is {_MOOD}\.",
    "way": rf"The (?P<first>[a-z]+) is {_POINT} of the (?P<second>[a-z]+)\.",
    "side": rf"The (?P<first>[a-z ]+) is {_SIDE} the (?P<second>[a-z ]+)\.",
    "bigger": r"The (?P<big>[a-z ]+) is bigger than the (?P<small>[a-z ]+)\.",
    "bigger/fits": r"The (?P<small>[a-z ]+) fits inside the (?P<big>[a-z ]+)\.",
    "kind": r"(?P<name>[A-Z][a-z]+) is an? (?P<kind>[a-z]+)\.",
    "fear": rf"(?P<kinds>{_KINDS}) are afraid of (?P<feared>{_KINDS})\.",
    "color": r"(?P<name>[A-Z][a-z]+) is (?P<color>[a-z]+)\.",
    "where_person": rf"Where is {_PERSON}\?",
    "where_thing": rf"Where is {_THING}\?",
    "where_before": rf"Where was {_THING} before {_PLACE}\?",
    "where_earlier": rf"Where was {_PERSON} before {_PLACE}\?",
    "is_in": rf"Is {_PERSON} in {_PLACE}\?",
    "how_many": rf"How many objects is {_PERSON} carrying\?",
    "what_carried": rf"What is {_PERSON} carrying\?",
    "what_given": rf"What did {_GIVER} give to {_TAKER}\?",
    "who_received/from": rf"Who did {_GIVER} give {_THING} to\?",
    "who_received": rf"Who received {_THING}\?",
    "who_gave/to": rf"Who gave {_THING} to {_TAKER}\?",
    "who_gave": rf"Who gave {_THING}\?",
    "where_will": rf"Where will {_LOWER} go\?",
    "why_go": rf"Why did {_LOWER} go to {_PLACE}\?",
    "why_get": rf"Why did {_LOWER} get {_THING}\?",
    "what_is_way": rf"What is {_POINT} of the (?P<second>[a-z]+)\?",
    "what_way_of": rf"What is the (?P<first>[a-z]+) {_POINT} of\?",
    "path": r"How do you go from the (?P<start>[a-z]+) to the (?P<goal>[a-z]+)\?",
    "is_side": rf"Is the (?P<first>[a-z ]+?) {_SIDE} the (?P<second>[a-z ]+)\?",
    "is_bigger": r"Is the (?P<big>[a-z ]+) bigger than the (?P<small>[a-z ]+)\?",
    "is_bigger/fit": r"Does the (?P<small>[a-z ]+) fit in the (?P<big>[a-z ]+)\?",
    "what_feared": r"What is (?P<name>[a-z]+) afraid of\?",
    "password": r"The password of the (?P<thing>[a-z]+ [a-z]+) is (?P<password>[a-z]+)\.",
    "what_password": r"What is the password of the (?P<thing>[a-z]+ [a-z]+)\?",
    "what_color": r"What color is (?P<name>[A-Z][a-z]+)\?",
}
_PATTERNS = {name: re.compile(form) for name, form in _FORMS.items()}
_GIFTS = ("what_given", "who_received", "who_received/from", "who_gave", "who_gave/to")



class Passwords:
    """Things with a password, each told once."""

    def __init__(self):
        self.told: dict[str, str] = {}

    def password(self, thing: str, password: str) -> None:
        if thing in self.told:
            raise ValueError(f"{thing} has the password {self.told[thing]}")
        self.told[thing] = password

    def what_password(self, thing: str) -> str:
        return self.told[thing]


# task: (world, forms of facts, forms of questions)
TASKS = {
    "qa1": (People, ("move",), ("where_person",)),
    "qa2": (People, ("move", "take/there", "drop"), ("where_thing",)),
    "qa3": (People, ("move", "take", "drop"), ("where_before",)),
    "qa4": (Grid, ("way",), ("what_is_way", "what_way_of")),
    "qa5": (People, ("move", "take/there", "drop", "give"), _GIFTS),
    "qa6": (People, ("move", "take/there", "drop"), ("is_in",)),
    "qa7": (People, ("move", "take/there", "drop", "give"), ("how_many",)),
    "qa8": (People, ("move", "take/there", "drop"), ("what_carried",)),
    "qa9": (People, ("move", "move/is", "is_not"), ("is_in",)),
    "qa10": (People, ("move", "move/is", "is_either"), ("is_in",)),
    "qa11": (People, ("move", "move_again"), ("where_person",)),
    "qa12": (People, ("move_both",), ("where_person",)),
    "qa13": (People, ("move_both", "move_again"), ("where_person",)),
    "qa14": (People, ("move_at/last", "move_at/first"), ("where_earlier",)),
    "qa15": (Animals, ("fear", "kind"), ("what_feared",)),
    "qa16": (Animals, ("kind", "color"), ("what_color",)),
    "qa17": (Plane, ("side",), ("is_side",)),
    "qa18": (Sizes, ("bigger", "bigger/fits"), ("is_bigger", "is_bigger/fit")),
    "qa19": (Grid, ("way",), ("path",)),
    "qa20": (People, ("move", "take/there", "feel"), ("where_will", "why_go", "why_get")),
    "kv": (Passwords, ("password",), ("what_password",)),
}


@cache
def _read(task: str, forms: tuple[str, ...], sentence: str) -> tuple[str, dict[str, str]]:
    """Returns the method of the world and its arguments for a sentence."""
    for form in forms:
        match = _PATTERNS[form].fullmatch(sentence.strip())
        if match:
            return form.partition("/")[0], match.groupdict()
    raise ValueError(f"{task}: no form of this task fits the sentence {sentence!r}")


class Solver:
    """Solves one story: `tell` takes its facts in order, `ask` answers at any point."""

    def __init__(self, task: str):
        if task not in TASKS:
            raise ValueError(f"no task {task!r}: one of {', '.join(TASKS)} is needed")
        self.task = task
        world, self._facts, self._questions = TASKS[task]
        self._world = world()

    def tell(self, fact: str) -> None:
        """Adds a fact. Raises ValueError if it has no form of the task or is a contradiction."""
        method, groups = _read(self.task, self._facts, fact)
        try:
            getattr(self._world, method)(**groups)
        except ValueError as error:
            raise ValueError(f"{self.task}: {fact!r} contradicts the facts: {error}") from None

    def ask(self, question: str) -> str:
        """Returns the answer as in the files. Raises ValueError if the facts do not give one."""
        method, groups = _read(self.task, self._questions, question)
        try:
            return getattr(self._world, method)(**groups)
        except LookupError:
            raise ValueError(f"{self.task}: the facts do not answer {question!r}") from None


def solve(task: str, facts: Sequence[str], question: str) -> str:
    """Returns the answer to `question` after `facts`: "kitchen", "apple,milk", "nothing"."""
    solver = Solver(task)
    for fact in facts:
        solver.tell(fact)
    return solver.ask(question)
