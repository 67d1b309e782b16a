"""Worlds of relations between things (bAbI qa4 and 15 to 19).

A contradiction raises ValueError, a question that the facts do not answer LookupError.
"""

_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_STEPS = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, 1), "below": (0, -1)}
_SINGULAR = {"mice": "mouse", "wolves": "wolf", "cats": "cat", "sheep": "sheep"}


def _note(table: dict, key: str | tuple[str, str], value: str) -> None:
    """Sets table[key]; raises ValueError if it has another value."""
    if table.setdefault(key, value) != value:
        raise ValueError(f"{table[key]!r} was told for {key!r}")


class Grid:
    """Places and the compass points between them; `neighbours[second, way]` is `first`."""

    def __init__(self):
        self.neighbours: dict[tuple[str, str], str] = {}

    def way(self, first: str, way: str, second: str) -> None:
        _note(self.neighbours, (second, way), first)
        _note(self.neighbours, (first, _OPPOSITE[way]), second)

    def what_is_way(self, way: str, second: str) -> str:
        return self.neighbours[second, way]

    def what_way_of(self, first: str, way: str) -> str:
        return self.neighbours[first, _OPPOSITE[way]]

    def path(self, start: str, goal: str) -> str:
        """Returns the only shortest path as the first letters of its steps, such as "s,w"."""
        paths, passed = [((), start)], set()
        while paths:
            found = [steps for steps, place in paths if place == goal]
            if len(found) == 1:
                return ",".join(found[0])
            if found:
                raise LookupError(f"{len(found)} paths are the shortest")
            passed |= {place for _, place in paths}
            paths = [
                ((*steps, way[0]), there)
                for steps, place in paths
                for (here, way), there in self.neighbours.items()
                if here == place and there not in passed
            ]
        raise LookupError(goal)


class Plane:
    """Shapes on a plane; `steps[a, b]` is the direction from `a` to `b`."""

    def __init__(self):
        self.steps: dict[tuple[str, str], tuple[int, int]] = {}

    def side(self, first: str, side: str, second: str) -> None:
        if first == second or (second, first) in self.steps:
            raise ValueError(f"the {first} has its place beside the {second}")
        x, y = _STEPS[side]
        self.steps[second, first] = x, y
        self.steps[first, second] = -x, -y

    def is_side(self, first: str, side: str, second: str) -> str:
        """Returns "yes" if a step from `second` to `first` goes towards `side`, else "no".

        The lengths of steps are unknown, so steps towards `side` and away from it give no answer.
        """
        towards = {second: frozenset()}  # 1 for a step towards the side, -1 for one away from it
        queue = [second]
        for figure in queue:
            for (known, other), step in self.steps.items():
                if known == figure and other not in towards:
                    along = sum(a * b for a, b in zip(step, _STEPS[side], strict=True))
                    towards[other] = towards[figure] | ({along} - {0})
                    queue.append(other)
        if len(towards[first]) == 2:
            raise LookupError(f"the {first} may be on either side")
        return "yes" if 1 in towards[first] else "no"


class Sizes:
    """Sizes of things; `smaller[x]` are those that a fact says are smaller than x."""

    def __init__(self):
        self.smaller: dict[str, set[str]] = {}

    def _below(self, big: str) -> set[str]:
        """Returns all things that are smaller than `big`, also by several facts."""
        below, found = set(), {big}
        while found:
            found = {thing for box in found for thing in self.smaller.get(box, ())} - below
            below |= found
        return below

    def bigger(self, big: str, small: str) -> None:
        if big == small or big in self._below(small):
            raise ValueError(f"the {big} cannot be bigger than the {small}")
        self.smaller.setdefault(big, set()).add(small)

    def is_bigger(self, big: str, small: str) -> str:
        if small in self._below(big):
            return "yes"
        if big in self._below(small):
            return "no"
        raise LookupError(f"the {big} and the {small} were not compared")


class Animals:
    """The kinds and colors of animals, and which kind each kind is afraid of."""

    def __init__(self):
        self.kinds: dict[str, str] = {}
        self.colors: dict[str, str] = {}
        self.fears: dict[str, str] = {}

    def kind(self, name: str, kind: str) -> None:
        _note(self.kinds, name.lower(), kind)

    def color(self, name: str, color: str) -> None:
        _note(self.colors, name.lower(), color)

    def fear(self, kinds: str, feared: str) -> None:
        _note(self.fears, _SINGULAR[kinds.lower()], _SINGULAR[feared.lower()])

    def what_feared(self, name: str) -> str:
        return self.fears[self.kinds[name]]

    def what_color(self, name: str) -> str:
        """Returns the color of the animal of the same kind whose kind was stated last.

        Only animals with a color count. The order and frequency of the colors have no influence.
        """
        kind = self.kinds[name.lower()]
        return [self.colors[n] for n, k in self.kinds.items() if k == kind and n in self.colors][-1]
