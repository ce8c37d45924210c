"""Warm-up and decay, value by value."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.config import TrainingConfig
from person_search.errors import UsageError
from person_search.training.schedules import (
    Plateau,
    WarmupMode,
    build_schedules,
    cosine_factor,
    reid_milestones,
    step_factor,
    warmup_factor,
)

STEPS = 10


def factors(name: str = "detection", **settings: object) -> list[float]:
    """Factor at the first step of every epoch."""
    config = TrainingConfig(**{"warmup_epochs": 0, **settings})
    schedule = build_schedules(config, STEPS)[name]
    return [schedule.at(epoch, 0) for epoch in range(config.max_epochs)]


def test_warm_up_rises_step_by_step_to_exactly_one() -> None:
    schedule = build_schedules(TrainingConfig(warmup_epochs=1), STEPS)["detection"]
    values = [schedule.at(0, step) for step in range(STEPS)]
    expected = [0.01 * (1 - n / 10) + n / 10 for n in range(1, 11)]
    assert values == pytest.approx(expected)
    assert values[-1] == 1.0
    assert schedule.at(1, 0) == 1.0


def test_warm_up_covers_both_optimisers() -> None:
    schedules = build_schedules(TrainingConfig(warmup_epochs=2), STEPS)
    assert schedules["reid"].at(0, 4) == schedules["detection"].at(0, 4) == pytest.approx(0.01 * 0.75 + 0.25)


def test_constant_warm_up_then_full() -> None:
    schedule = build_schedules(TrainingConfig(warmup_epochs=1, warmup_mode="constant"), STEPS)["detection"]
    assert {schedule.at(0, step) for step in range(STEPS)} == {0.01}
    assert schedule.at(1, 0) == 1.0


def test_warm_up_may_begin_at_its_factor_and_end_after_so_many_steps() -> None:
    """As SeqNeXt is trained: from a thousandth, over 1000 steps or one less than an epoch has; decay as ever."""
    given = {"warmup_epochs": 1, "warmup_mode": "linear-from-factor", "warmup_factor": 1e-3, "lr_decay_epochs": (1,)}
    schedule = build_schedules(TrainingConfig(**given, warmup_steps=1001), STEPS)["detection"]
    last = STEPS - 1
    expected = [1e-3 * (1 - n / last) + n / last for n in range(STEPS)]
    assert [schedule.at(0, n) for n in range(STEPS)] == pytest.approx(expected)
    schedule = build_schedules(TrainingConfig(**given, warmup_steps=1001), 5000)["detection"]
    assert [schedule.at(0, n) for n in (0, 500, 1000, 4999)] == pytest.approx([1e-3, 0.5005, 1, 1])
    assert [schedule.at(epoch, 0) for epoch in (1, 2)] == pytest.approx([1, 0.1])
    assert warmup_factor(1, 1, mode="linear-from-factor", start=0.1) == 1


@settings(deadline=None, derandomize=True)
@given(length=st.floats(0.1, 500), start=st.floats(0, 1), mode=st.sampled_from(["linear", "linear-from-factor"]))
def test_linear_warm_up_never_falls_and_ends_at_one(length: float, start: float, mode: WarmupMode) -> None:
    values = [warmup_factor(n, length, mode=mode, start=start) for n in range(1, math.ceil(length) + 2)]
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert values[-1] == 1.0
    assert all(start - 1e-12 <= value <= 1 for value in values)


def test_published_decay_of_both_optimisers() -> None:
    config = TrainingConfig()
    assert (config.max_epochs, config.warmup_epochs) == (7, 1)
    schedules = build_schedules(config, STEPS)
    detection = [schedules["detection"].at(epoch, STEPS - 1) for epoch in range(7)]
    reid = [schedules["reid"].at(epoch, STEPS - 1) for epoch in range(7)]
    assert detection == pytest.approx([1, 1, 1, 1, 1, 0.1, 0.1])
    # ceil(0.6 x 7) = 5 and ceil(0.8 x 7) = 6 after warm-up: the first at e = 6, the second after the end.
    assert reid == pytest.approx([1, 1, 1, 1, 1, 1, 0.1])


@pytest.mark.parametrize(("epochs", "expected"), [(7, (5, 6)), (5, (3, 4)), (10, (6, 8)), (20, (12, 16)), (1, (1, 1))])
def test_reid_milestones_are_rounded_up_whole_numbers(epochs: int, expected: tuple[int, int]) -> None:
    assert reid_milestones(epochs) == expected


def test_multistep_counts_every_milestone_reached() -> None:
    assert factors(lr_decay_epochs=(2, 4), max_epochs=6) == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert factors("reid", reid_lr_decay_epochs=(1,), max_epochs=3, lr_decay_factor=0.5) == pytest.approx([1, 0.5, 0.5])


def test_decay_counts_epochs_after_warm_up() -> None:
    shifted = factors(lr_decay_epochs=(2,), max_epochs=6, warmup_epochs=2)
    assert shifted[2:] == pytest.approx([1, 1, 0.1, 0.1])


def test_step_decays_once_a_period() -> None:
    assert factors(lr_policy="step", lr_decay_epochs=(2,), max_epochs=5) == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert step_factor(5, 2, 0.1) == pytest.approx(0.01)


def test_cosine_goes_from_one_to_zero_over_all_epochs() -> None:
    values = factors(lr_policy="cosine", max_epochs=8)
    assert values == pytest.approx([0.5 * (1 + math.cos(math.pi * e / 8)) for e in range(8)])
    assert cosine_factor(4, 8) == pytest.approx(0.5)
    assert cosine_factor(8, 8) == pytest.approx(0)


@pytest.mark.parametrize("warmup", [1, 2.5, 7])
def test_cosine_comes_to_its_end_with_the_run_whatever_the_warm_up(warmup: float) -> None:
    schedule = build_schedules(TrainingConfig(lr_policy="cosine", max_epochs=8, warmup_epochs=warmup), STEPS)["reid"]
    after = [epoch for epoch in range(9) if epoch >= warmup]
    values = [schedule.at(epoch, 0) for epoch in after]
    left = 8 - warmup
    expected = [0.5 * (1 + math.cos(math.pi * (epoch - warmup) / left)) for epoch in after]
    assert values[1:] == pytest.approx(expected[1:])
    assert values[-1] == pytest.approx(0)
    assert all(a > b for a, b in pairwise(values))


def test_a_warm_up_as_long_as_the_run_leaves_nothing_to_decay() -> None:
    schedule = build_schedules(TrainingConfig(lr_policy="cosine", max_epochs=3, warmup_epochs=3), STEPS)["reid"]
    assert schedule.at(2, STEPS - 1) == 1.0


def test_lambda_has_four_levels() -> None:
    values = factors(lr_policy="lambda", lr_decay_epochs=(1, 3, 4), max_epochs=6)
    assert values == pytest.approx([1, 1 / 3, 1 / 3, 0.1, 0.01, 0.01])


def test_plateau_decays_when_the_loss_stops_falling() -> None:
    config = TrainingConfig(lr_policy="plateau", lr_decay_epochs=(1,), warmup_epochs=0)
    schedule = build_schedules(config, STEPS)["detection"]
    seen = []
    for epoch, loss in enumerate([5.0, 4.0, 4.0, 4.0, 3.0, 3.0, math.nan]):
        schedule.end_epoch(loss)
        seen.append(schedule.at(epoch + 1, 0))
    assert seen == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01])


def test_plateau_continues_from_its_state() -> None:
    config = TrainingConfig(lr_policy="plateau", lr_decay_epochs=(1,))
    first, second = (build_schedules(config, STEPS)["detection"] for _ in range(2))
    for loss in (2.0, 3.0):
        first.end_epoch(loss)
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.end_epoch(3.0)
    assert first.plateau == second.plateau == Plateau(0.1, 1, value=0.1, best=2.0, waited=0)


@pytest.mark.parametrize(
    ("policy", "milestones"), [("lambda", (4,)), ("step", ()), ("step", (0,)), ("plateau", (1, 2))]
)
def test_milestones_that_a_policy_cannot_use_are_refused(policy: str, milestones: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=rf"{policy}.*lr_decay_epochs"):
        build_schedules(TrainingConfig(lr_policy=policy, lr_decay_epochs=milestones), STEPS)
