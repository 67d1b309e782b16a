"""Worlds of things that stand in relations to each other (bAbI qa4 and 15-19)."""

from collections import deque

_OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
_STEPS = {"to the left of": (-1, 0), "to the right of": (1, 0), "above": (0, 1), "below": (0, -1)}
_SINGULAR = {"mice": "mouse", "wolves": "wolf", "cats": "cat", "sheep": "sheep"}


class Grid:
    """Places and the compass points between them; `neighbours[second, way]` is `first`."""

    def __init__(self):
        self.neighbours: dict[tuple[str, str], str] = {}

    def way(self, first: str, way: str, second: str) -> None:
        self.neighbours[second, way] = first
        self.neighbours[first, _OPPOSITE[way]] = second

    def what_is_way(self, way: str, second: str) -> str:
        return self.neighbours[second, way]

    def what_way_of(self, first: str, way: str) -> str:
        return self.neighbours[first, _OPPOSITE[way]]

    def path(self, start: str, goal: str) -> str:
        """The shortest path as the first letters of its steps, e.g. "s,w"."""
        paths = {start: ""}
        queue = deque([start])
        while queue:
            place = queue.popleft()
            for (here, way), there in self.neighbours.items():
                if here == place and there not in paths:
                    paths[there] = f"{paths[place]},{way[0]}"
                    queue.append(there)
        return paths[goal][1:]


class Plane:
    """Figures on a plane, where every sentence puts two of them one step apart."""

    def __init__(self):
        self.steps: list[tuple[str, str, tuple[int, int]]] = []

    def side(self, first: str, side: str, second: str) -> None:
        x, y = _STEPS[side]
        self.steps += [(second, first, (x, y)), (first, second, (-x, -y))]

    def is_side(self, first: str, side: str, second: str) -> str:
        offsets = {second: (0, 0)}
        queue = deque([second])
        while queue:
            figure = queue.popleft()
            for known, other, (x, y) in self.steps:
                if known == figure and other not in offsets:
                    offsets[other] = (offsets[figure][0] + x, offsets[figure][1] + y)
                    queue.append(other)
        along = sum(a * b for a, b in zip(offsets[first], _STEPS[side], strict=True))
        return "yes" if along > 0 else "no"


class Sizes:
    """Boxes and what fits inside them: `smaller[x]` holds what was told to be smaller than x."""

    def __init__(self):
        self.smaller: dict[str, set[str]] = {}

    def bigger(self, big: str, small: str) -> None:
        self.smaller.setdefault(big, set()).add(small)

    def is_bigger(self, big: str, small: str) -> str:
        inside, found = {big}, {big}
        while found:
            found = {thing for box in found for thing in self.smaller.get(box, ())} - inside
            inside |= found
        return "yes" if small in inside - {big} else "no"


class Animals:
    """What kind each animal is, what each kind fears, and the colors seen."""

    def __init__(self):
        self.kinds: dict[str, str] = {}
        self.colors: dict[str, str] = {}
        self.fears: dict[str, str] = {}

    def kind(self, name: str, kind: str) -> None:
        self.kinds[name.lower()] = kind

    def color(self, name: str, color: str) -> None:
        self.colors[name.lower()] = color

    def fear(self, kinds: str, feared: str) -> None:
        self.fears[_SINGULAR[kinds.lower()]] = _SINGULAR[feared]

    def what_feared(self, name: str) -> str:
        return self.fears[self.kinds[name]]

    def what_color(self, name: str) -> str:
        """The color of the last of the same kind that was told."""
        kind = self.kinds[name.lower()]
        return [self.colors[n] for n, k in self.kinds.items() if k == kind and n in self.colors][-1]
