"""The stages of a run: each ends at its configured step, or earlier by held-out accuracy."""

Stage = tuple[int, ...]
Stages = tuple[Stage, ...]


class Curriculum:
    """Follows `data.curriculum`; a stage may end before its configured step.

    A stage ends early where an evaluation on held-out samples of the stage finds an accuracy of at
    least `accuracy`. The stages after it then begin that much sooner, and the last one has all
    steps that are left. The position is part of a checkpoint, so that a resumed run takes the same
    decisions.

    Args:
      stages: (first step, segments[, rows]) of each, as configured.
      accuracy: at which a stage ends; 0 = never.
    """

    def __init__(self, stages: Stages, accuracy: float):
        self.stages, self._accuracy = tuple(map(tuple, stages)), accuracy

    def stage_at(self, step: int) -> Stage:
        return [stage for stage in self.stages if stage[0] <= step][-1]

    def can_end_after(self, step: int) -> bool:
        """Returns True where the stage could still end early, after this step."""
        later = [stage for stage in self.stages if stage[0] >= step]
        return bool(self._accuracy) and bool(later) and later[0][0] > step

    def update(self, step: int, accuracy: float) -> bool:
        """Takes the accuracy after a step; returns True, with other `stages`, if the stage ends."""
        if accuracy < self._accuracy:
            return False
        sooner = min(stage[0] for stage in self.stages if stage[0] > step) - step
        self.stages = tuple((first - sooner if first > step else first, *rest)
                            for first, *rest in self.stages)
        return True

    def to_dict(self) -> dict:
        """The position, for a checkpoint."""
        return {"stages": self.stages}

    def restore(self, position: dict) -> None:
        """Restores what `to_dict` returned, in this or an earlier version."""
        self.stages = tuple(map(tuple, position["stages"]))
