"""Learning-rate factors: warm-up by step, decay by epoch. Pure functions of the position, except plateau."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from person_search.config import TrainingConfig
from person_search.errors import UsageError

WarmupMode = Literal["linear", "linear-from-factor", "constant"]

LAMBDA_FACTORS = (1.0, 1 / 3, 0.1, 0.01)
"""Factors of the ``lambda`` policy before and after each of its three milestones."""


def warmup_factor(step: int, length: float, *, mode: WarmupMode, start: float) -> float:
    """Factor of step ``step`` = 1, 2, ... of a warm-up of ``length`` steps; a linear rise ends at exactly 1.

    ``linear-from-factor`` also begins at exactly ``start``, as torchvision's training of detectors does.
    """
    if step > length:
        return 1.0
    if mode == "constant":
        return start
    share = (step - 1) / (length - 1) if mode == "linear-from-factor" and length > 1 else step / length
    return start * (1 - share) + share


def multistep_factor(index: float, milestones: Sequence[int], factor: float) -> float:
    """``factor`` for every milestone that epoch index ``index`` (after warm-up) has reached."""
    return float(factor ** sum(index >= milestone for milestone in milestones))


def step_factor(index: float, period: int, factor: float) -> float:
    """``factor`` for every whole ``period`` of epochs."""
    return float(factor ** max(0, math.floor(index / period)))


def cosine_factor(index: float, epochs: float) -> float:
    """Half a cosine from 1 at index 0 to 0 at index ``epochs`` (Loshchilov & Hutter, ICLR 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(max(index, 0), epochs) / epochs))


def lambda_factor(index: float, milestones: Sequence[int]) -> float:
    """1, 1/3, 0.1, 0.01 before and after three milestones."""
    return LAMBDA_FACTORS[sum(index >= milestone for milestone in milestones)]


@dataclass
class Plateau:
    """Multiply by ``factor`` whenever the loss has not fallen by 0.01 % for more than ``patience`` epochs."""

    factor: float
    patience: int
    value: float = 1.0
    best: float = math.inf
    waited: int = 0

    def observe(self, loss: float) -> None:
        """Note the mean loss of an epoch."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.value, self.waited = self.value * self.factor, 0


@dataclass
class Schedule:
    """The factor on one optimiser's learning rates.

    Attributes:
        policy, epochs, milestones, factor: the decay; ``epochs`` includes warm-up, milestones count after it.
        warmup_epochs, warmup_mode, warmup_start: the warm-up; it lasts ``warmup_steps`` at most.
        steps_per_epoch: steps that an epoch has.
    """

    policy: Literal["multistep", "step", "cosine", "plateau", "lambda"]
    epochs: int
    milestones: tuple[int, ...]
    factor: float
    warmup_epochs: float
    warmup_mode: WarmupMode
    warmup_start: float
    steps_per_epoch: int
    warmup_steps: int | None = None
    plateau: Plateau = field(init=False)

    def __post_init__(self) -> None:
        wanted = {"step": 1, "plateau": 1, "lambda": len(LAMBDA_FACTORS) - 1}.get(self.policy)
        if wanted is not None and (
            len(self.milestones) != wanted or (self.policy == "step" and self.milestones[0] < 1)
        ):
            meaning = {"step": "the period, 1 or more", "plateau": "the patience"}.get(self.policy, "the milestones")
            raise UsageError(
                f"lr_policy '{self.policy}' takes {wanted} value(s) in lr_decay_epochs ({meaning}), "
                f"found {list(self.milestones)}"
            )
        self.plateau = Plateau(self.factor, self.milestones[0] if self.policy == "plateau" else 0)

    def at(self, epoch: int, step: int) -> float:
        """Factor of step ``step`` of ``epoch``, both counted from 0."""
        number = epoch * self.steps_per_epoch + step + 1
        length = min(self.warmup_epochs * self.steps_per_epoch, self.warmup_steps or math.inf)
        warmup = warmup_factor(number, length, mode=self.warmup_mode, start=self.warmup_start)
        return warmup * self._decay(epoch - self.warmup_epochs)

    def _decay(self, index: float) -> float:
        if self.policy == "plateau":
            return self.plateau.value
        if index < 0:
            return 1.0
        if self.policy == "multistep":
            return multistep_factor(index, self.milestones, self.factor)
        if self.policy == "step":
            return step_factor(index, self.milestones[0], self.factor)
        if self.policy == "cosine":
            # Over what warm-up leaves of the run, so that the decay ends with it.
            return cosine_factor(index, self.epochs - self.warmup_epochs)
        return lambda_factor(index, self.milestones)

    def end_epoch(self, loss: float) -> None:
        """Tell the mean training loss of the epoch that ended; only ``plateau`` takes note."""
        if self.policy == "plateau":
            self.plateau.observe(loss)

    def state_dict(self) -> dict[str, Any]:
        """What is not a function of the position, as plain values."""
        return {"value": self.plateau.value, "best": self.plateau.best, "waited": self.plateau.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.plateau.value, self.plateau.best, self.plateau.waited = state["value"], state["best"], state["waited"]


def build_schedules(config: TrainingConfig, steps_per_epoch: int) -> dict[str, Schedule]:
    """The schedules ``"detection"`` and ``"reid"``. Raises UsageError for milestones that a policy cannot use.

    Unless given, the re-ID decay epochs are ceil(0.6 E) and ceil(0.8 E) with multistep and those of detection with
    every other policy.
    """
    reid = config.reid_lr_decay_epochs
    if reid is None:
        multistep = config.lr_policy == "multistep"
        reid = reid_milestones(config.max_epochs) if multistep else config.lr_decay_epochs
    return {
        name: Schedule(
            policy=config.lr_policy,
            epochs=config.max_epochs,
            milestones=tuple(milestones),
            factor=config.lr_decay_factor,
            warmup_epochs=config.warmup_epochs,
            warmup_mode=config.warmup_mode,
            warmup_start=config.warmup_factor,
            steps_per_epoch=steps_per_epoch,
            warmup_steps=config.warmup_steps,
        )
        for name, milestones in (("detection", config.lr_decay_epochs), ("reid", reid))
    }


def reid_milestones(epochs: int) -> tuple[int, int]:
    """ceil(0.6 E) and ceil(0.8 E), in whole numbers: 0.6 x 5 is a little more than 3 in floating point."""
    return -(-6 * epochs // 10), -(-8 * epochs // 10)
