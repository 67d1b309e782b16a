"""Which bAbI task asks for which capability.

The LM2 paper groups qa1 to qa10 by five capabilities. The other ten are placed here by what their
questions need; the grouping of these is ours:

  single-step reasoning     also qa11 to qa13, whose answer is one move, told by a pronoun, of two
                            persons at once, or both
  multi-step reasoning      also qa14 to qa16: moves put in order of time, and rules applied to
                            facts (deduction, induction)
  relation tracking         also qa17 to qa19: where things stand, which is larger, which way leads
                            from one room to another
  basic queries             also qa20, which asks for what one told state of a person leads to
  negation and uncertainty  none; qa9 and qa10 alone
"""

CAPABILITIES = {
    "single-step reasoning": ("qa1", "qa11", "qa12", "qa13"),
    "multi-step reasoning": ("qa2", "qa3", "qa14", "qa15", "qa16"),
    "relation tracking": ("qa4", "qa5", "qa17", "qa18", "qa19"),
    "basic queries": ("qa6", "qa7", "qa8", "qa20"),
    "negation and uncertainty": ("qa9", "qa10"),
}


def axes_of(tasks: list[str]) -> dict[str, list[str]]:
    """The capabilities that some of the tasks ask for, each with these tasks."""
    found = {name: [task for task in tasks if task in members]
             for name, members in CAPABILITIES.items()}
    return {name: members for name, members in found.items() if members}
