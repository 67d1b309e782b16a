"""The stages that a run is in: each left at its step, or before, as its held-out accuracy says."""

Stages = tuple[tuple[int, ...], ...]


class Curriculum:
    """Follows `data.curriculum`; a stage may end before its time.

    It ends where a look at held-out samples of the stage finds an accuracy of `bound` or more, or
    where so many looks, `patience`, have found none above the best before them. The stages after
    it come that much sooner; the last one has all the steps that are left. The position is part
    of the checkpoint, so that it does not matter where a run was cut.

    Args:
      stages: (first step, segments[, rows]) of each, as configured.
      bound: accuracy at which a stage is left; 0 = never for that.
      patience: looks without a rise; 0 = never for that.
    """

    def __init__(self, stages: Stages, bound: float, patience: int):
        self.stages, self._bound, self._patience = tuple(map(tuple, stages)), bound, patience
        self._stage, self._best, self._since = 0, 0.0, 0  # its first step; looks since the best

    def stage_at(self, step: int) -> tuple[int, ...]:
        return [stage for stage in self.stages if stage[0] <= step][-1]

    def looks_at(self, step: int) -> bool:
        """Whether to look after this step: where a stage could still end before its time."""
        later = [stage for stage in self.stages if stage[0] >= step]
        return bool(self._bound or self._patience) and bool(later) and later[0][0] > step

    def ends_at(self, step: int, accuracy: float) -> bool:
        """A look after this step; if the stage ends, `stages` is from now on another."""
        first = self.stage_at(step - 1)[0]
        if first != self._stage or accuracy > self._best:
            self._stage, self._best, self._since = first, accuracy, 0
        else:
            self._since += 1
        good = self._bound and accuracy >= self._bound
        if not good and not (self._patience and self._since >= self._patience):
            return False
        sooner = min(stage[0] for stage in self.stages if stage[0] > step) - step
        self.stages = tuple((first - sooner if first > step else first, *rest)
                            for first, *rest in self.stages)
        return True

    def to_dict(self) -> dict:
        """The position, for a checkpoint."""
        return {"stages": self.stages, "stage": self._stage, "best": self._best,
                "since": self._since}

    def restore(self, position: dict) -> None:
        """Puts back what `to_dict` gave."""
        self.stages = tuple(map(tuple, position["stages"]))
        self._stage = position["stage"]
        self._best, self._since = position["best"], position["since"]
