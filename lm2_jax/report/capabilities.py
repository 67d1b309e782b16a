"""The capability that each bAbI task tests.

The LM2 paper assigns qa1 to qa10 to five capabilities. The assignment of the other tasks is ours:

  single-step reasoning     also qa11 to qa13: one move decides the answer; it is told with a
                            pronoun, of two persons at once, or both
  multi-step reasoning      also qa14 to qa16: moves are sorted by time, or rules are applied to
                            facts (deduction, induction)
  relation tracking         also qa17 to qa19: positions, sizes, and paths between rooms
  basic queries             also qa20 and kv: what follows from one stated fact
  negation and uncertainty  qa9 and qa10 only
"""

CAPABILITIES = {
    "single-step reasoning": ("qa1", "qa11", "qa12", "qa13"),
    "multi-step reasoning": ("qa2", "qa3", "qa14", "qa15", "qa16"),
    "relation tracking": ("qa4", "qa5", "qa17", "qa18", "qa19"),
    "basic queries": ("qa6", "qa7", "qa8", "qa20", "kv"),
    "negation and uncertainty": ("qa9", "qa10"),
}


def axes_of(tasks: list[str]) -> dict[str, list[str]]:
    """The capabilities that at least one of the tasks tests, each with those tasks."""
    found = {name: [task for task in tasks if task in members]
             for name, members in CAPABILITIES.items()}
    return {name: members for name, members in found.items() if members}
