from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.synth.plan import make_plan, shares
from person_search.synth.settings import SynthConfig


@settings(max_examples=25, deadline=None)
@given(
    identities=st.integers(4, 40),
    extra=st.integers(2, 80),
    cameras=st.integers(1, 5),
    seed=st.integers(0, 1000),
    val=st.sampled_from([0.0, 0.1, 0.25]),
    level=st.floats(0, 1),
)
def test_splits_share_neither_people_nor_scenes(
    identities: int, extra: int, cameras: int, seed: int, val: float, level: float
) -> None:
    config = SynthConfig(
        identities=identities, scenes=identities + extra, cameras=cameras, seed=seed, val_share=val, difficulty=level
    )
    plans = make_plan(config)
    assert [plan.number for plan in plans] == list(range(config.scenes))
    people = {
        split: {p for plan in plans if plan.split == split for p in plan.people} for split in ("train", "val", "test")
    }
    assert not people["train"] & people["test"]
    assert not people["val"] & (people["train"] | people["test"])
    assert set().union(*people.values()) <= set(range(identities))
    assert bool(people["val"]) == (val > 0)
    frames: dict[int, int] = Counter()
    for plan in plans:
        assert len(set(plan.people)) == len(plan.people) >= 1
        assert 2 <= len(plan.people) + plan.strangers <= 8
        assert 1 <= plan.camera <= cameras
        frames[plan.camera] += 1
        assert plan.frame == frames[plan.camera]


def test_shares_are_those_asked_for() -> None:
    parts = shares(1000, SynthConfig(train_share=0.6, val_share=0.15), least=1)
    assert {name: len(part) for name, part in parts.items()} == {"train": 600, "val": 150, "test": 250}


def test_everybody_is_seen_about_equally_often_and_mostly_by_several_cameras() -> None:
    plans = make_plan(SynthConfig(identities=60, scenes=600, cameras=6))
    seen = Counter(person for plan in plans for person in plan.people)
    assert set(seen) == set(range(60))
    for part in shares(60, SynthConfig(), least=1).values():
        counts = [seen[person] for person in part]
        assert min(counts) >= 10
        assert max(counts) - min(counts) <= 5
    cameras = {person: {plan.camera for plan in plans if person in plan.people} for person in seen}
    assert sum(len(c) >= 3 for c in cameras.values()) >= 50
    # A stranger to half of the cameras: not everybody is everywhere, as on a real site.
    assert sum(len(c) < 6 for c in cameras.values()) >= 20


def test_hard_sets_are_more_crowded() -> None:
    easy, hard = (
        sum(len(plan.people) + plan.strangers for plan in make_plan(SynthConfig(difficulty=level, scenes=400)))
        for level in (0.0, 1.0)
    )
    assert hard > 1.2 * easy


@pytest.mark.parametrize("other", [{"seed": 1}, {"cameras": 5}])
def test_plan_follows_seed_and_settings(other: dict[str, int]) -> None:
    assert make_plan(SynthConfig()) == make_plan(SynthConfig())
    assert make_plan(SynthConfig()) != make_plan(SynthConfig(**other))
