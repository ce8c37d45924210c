"""Who is in which picture: splits, cameras and identities of every scene, before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from person_search.data.scene import SplitName
from person_search.synth.settings import SynthConfig

STREAM_PLAN, STREAM_IDENTITIES, STREAM_CAMERA, STREAM_STREET, STREAM_SCENE = range(5)
"""Second number of the seed of every random stream: no two parts of the generator share draws."""


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """One picture to draw.

    Attributes:
        number: from 0, over all splits.
        split: part of the dataset.
        camera: from 1.
        frame: from 1, per camera.
        people: identities in it, each once.
        strangers: how many people without identity.
    """

    number: int
    split: SplitName
    camera: int
    frame: int
    people: tuple[int, ...]
    strangers: int


def shares(total: int, config: SynthConfig, least: int) -> dict[SplitName, range]:
    """``total`` things dealt to train, val and test in this order, at least ``least`` to each that has a share."""
    val = max(least, round(total * config.val_share)) if config.val_share > 0 else 0
    test_share = 1 - config.train_share - config.val_share
    test = max(least, round(total * test_share))
    train = total - val - test
    return {"train": range(train), "val": range(train, train + val), "test": range(train + val, total)}


def make_plan(config: SynthConfig) -> list[ScenePlan]:
    """Plans of all scenes: train, then val, then test. Identities and scenes of the splits are disjoint.

    Most identities keep to some of the cameras; every scene takes those seen least so far, so that all are seen about
    equally often.
    """
    rng = np.random.default_rng([config.seed, STREAM_PLAN])
    identities, scenes = shares(config.identities, config, 1), shares(config.scenes, config, 2)
    habits = rng.random((config.identities, config.cameras))
    frames = [0] * config.cameras
    plans: list[ScenePlan] = []
    for split, numbers in scenes.items():
        known = np.array(identities[split], dtype=np.int64)
        seen = np.zeros(len(known))
        for number in numbers:
            camera = int(rng.integers(config.cameras))
            frames[camera] += 1
            wanted = int(rng.integers(1, 4 + round(1.5 * config.level)))
            reluctance = seen + 2.0 * (habits[known, camera] < 0.35) + rng.uniform(0, 1.5, len(known))
            chosen = np.argsort(reluctance)[:wanted]
            seen[chosen] += 1
            strangers = int(rng.integers(0, 2 + round(1.5 * config.level)))
            plans.append(
                ScenePlan(
                    number=number,
                    split=split,
                    camera=camera + 1,
                    frame=frames[camera],
                    people=tuple(known[chosen].tolist()),
                    strangers=max(strangers, 2 - len(chosen)),
                )
            )
    return plans
