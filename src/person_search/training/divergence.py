"""Whether a training still learns anything: how many of its steps are skipped because they are not finite."""

from __future__ import annotations

from person_search.config import Config
from person_search.config.sections import flat
from person_search.errors import PersonSearchError

DOUBTFUL = 3
"""So many more steps skipped than taken, of late, that the weights may be the reason: they are not worth keeping."""


class TrainingDivergedError(PersonSearchError):
    """Training goes on and nothing is learnt: most of its steps are skipped."""


class SkippedSteps:
    """How far the skipped steps of this process's run outnumber the taken ones.

    Attributes:
        excess: skipped less taken, of late: never below 0, so that a long good time does not hide a bad one.
    """

    def __init__(self, config: Config):
        self._config = config
        self.excess, self.skipped, self.steps = 0, 0, 0

    @property
    def doubtful(self) -> bool:
        """Whether the present weights may be what makes steps fail."""
        return self.excess >= DOUBTFUL

    def note(self, skipped: bool) -> None:
        """Note a step. Raises TrainingDivergedError when the limit is reached; the same in all processes."""
        self.steps += 1
        self.skipped += skipped
        self.excess = max(0, self.excess + (1 if skipped else -1))
        limit = self._config.training.max_skipped_steps
        if limit and self.excess >= limit:
            raise self._error()

    def at_end(self) -> None:
        """Raises TrainingDivergedError when the run is over, most of its steps were skipped, and it did not recover."""
        if self._config.training.max_skipped_steps and self.doubtful and 2 * self.skipped > self.steps:
            raise self._error()

    def _error(self) -> TrainingDivergedError:
        settings = self._config.training
        causes = [f"a learning rate too high (lr {settings.lr:g}, reid_lr {settings.reid_lr:g})"]
        if settings.precision != "32":
            causes.append(f"precision {settings.precision} (try 32)")
        start = (
            f"init_from {settings.init_from}"
            if settings.init_from
            else f"weights {flat(self._config.model).get('weights')}"
        )
        causes += [f"broken start weights ({start})", "damaged pictures or boxes"]
        return TrainingDivergedError(
            f"training diverged: {self.skipped} of {self.steps} steps were skipped because their loss or gradient was "
            f"not finite; likely causes: {', '.join(causes)}; checkpoints from before are kept, none of the weights "
            "since: start again with `lr` and `reid_lr` ten times smaller, or with `clip_grad`"
        )
