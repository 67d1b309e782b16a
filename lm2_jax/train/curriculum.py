"""The stages that a run is in: each left at its step, or as soon as its answers are right."""

from collections import deque

Stages = tuple[tuple[int, ...], ...]


class Curriculum:
    """Follows `data.curriculum`; a stage whose accuracy reaches a bound ends before its time.

    The accuracy is that of training answers: of samples drawn afresh with the simulator, of
    stories that come again with files. It is looked at after every `window` steps of the run,
    over the last `window` steps if all are of the stage: the stages are a function of the
    metrics alone, whatever is saved, resumed or logged. Those after one that ended early come
    that much sooner; the last one has all the steps that are left.

    Args:
      stages: (first step, segments[, rows]) of each, as configured.
      bound: mean accuracy at which a stage is left; 0 = never before its time.
      window: steps.
    """

    def __init__(self, stages: Stages, bound: float, window: int):
        self.stages, self._bound = tuple(map(tuple, stages)), bound
        self._recent: deque[float] = deque(maxlen=window)

    def segments_at(self, step: int) -> int:
        """Segments of a row at this step."""
        return [stage[1] for stage in self.stages if stage[0] <= step][-1]

    def record(self, step: int, accuracy: float) -> None:
        """The metrics of a step, in order."""
        if step - 1 in (stage[0] for stage in self.stages):
            self._recent.clear()
        self._recent.append(accuracy)

    def ends_at(self, step: int) -> bool:
        """Whether the stage ends after this step; if so, `stages` is from now on another."""
        window = self._recent.maxlen
        later = [stage[0] for stage in self.stages if stage[0] >= step]
        if (not self._bound or not later or step % window or len(self._recent) < window
                or sum(self._recent) / window < self._bound):
            return False
        sooner = later[0] - step
        if not sooner:  # it ends here anyway
            return False
        self.stages = tuple((first - sooner if first > step else first, *rest)
                            for first, *rest in self.stages)
        return True

    def to_dict(self) -> dict:
        """The position, for a checkpoint."""
        return {"stages": self.stages, "recent": list(self._recent)}

    def restore(self, position: dict) -> None:
        """Puts back what `to_dict` gave."""
        self.stages = tuple(map(tuple, position["stages"]))
        self._recent.extend(position["recent"])
