"""Scenes of earlier batches, which a gallery filter network trains on too (Jaffe and Zakhor, WACV 2023)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class StoredScene:
    """A scene as the network saw it last, on the CPU.

    Attributes:
        embedding: (D,) float32 of the scene as a whole.
        people: (n, D) float32 embeddings at its true boxes.
        ids: (n,) int64 of these people: identity, or -1 without.
    """

    embedding: Tensor
    people: Tensor
    ids: Tensor
    identities: frozenset[int]

    @classmethod
    def of(cls, embedding: Tensor, people: Tensor, ids: Tensor) -> StoredScene:
        """The scene with copies of these tensors, which may be rows of larger ones."""
        return cls(embedding.clone(), people.clone(), ids.clone(), identities_in(ids))


def identities_in(ids: Tensor) -> frozenset[int]:
    """Those of the people who have one."""
    return frozenset(each for each in ids.tolist() if each >= 0)


class SceneMemory:
    """One ``StoredScene`` for every training scene that was shown, by number of the scene.

    It grows with the training set and never shrinks: 8 KB for each scene and each person of 2048 numbers.

    Args:
        positives: stored scenes with a person, for each person drawn.
        negatives: stored scenes without that person, for each person drawn.
    """

    def __init__(self, *, positives: int, negatives: int):
        self.positives, self.negatives = positives, negatives
        self.scenes: dict[int, StoredScene] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> SceneMemory:
        """A copy of a model shares the stored scenes, which never change."""
        twin = SceneMemory(positives=self.positives, negatives=self.negatives)
        twin.scenes = dict(self.scenes)
        return twin

    def lookup(
        self, batch: Sequence[int], identities: Sequence[frozenset[int]], generator: torch.Generator
    ) -> list[StoredScene]:
        """Stored scenes to train on beside those of a batch; no scene of the batch, and none twice.

        As many people as the batch has scenes are drawn among those with an identity. For each of them these are
        scenes where that person is too, and hard negatives: scenes without that person where somebody else is from
        the first scene of the batch that holds that person.

        Args:
            batch: numbers of its scenes; negative for one that has none.
            identities: who is in each of them.
            generator: what is drawn depends on it, on the batch and on what is stored.
        """
        present = sorted(frozenset().union(*identities))
        shown = set(batch)
        near = {
            number: scene
            for number, scene in self.scenes.items()
            if number not in shown and not scene.identities.isdisjoint(present)
        }
        chosen: dict[int, StoredScene] = {}
        for place in torch.randperm(len(present), generator=generator)[: len(batch)].tolist():
            person = present[place]
            neighbours = next(each for each in identities if person in each)
            holding = [number for number, scene in near.items() if person in scene.identities]
            hard = [
                number
                for number, scene in near.items()
                if person not in scene.identities and not scene.identities.isdisjoint(neighbours)
            ]
            for candidates, wanted in ((holding, self.positives), (hard, self.negatives)):
                free = [number for number in candidates if number not in chosen]
                order = torch.randperm(len(free), generator=generator)[:wanted].tolist()
                chosen |= {free[i]: near[free[i]] for i in order}
        return list(chosen.values())

    def store(
        self, batch: Sequence[int], embeddings: Tensor, people: Tensor, ids: Tensor, counts: Sequence[int]
    ) -> None:
        """Keep the scenes of a batch as they are now, in the place of what was kept of them before.

        Args:
            batch: numbers of its scenes; one with a negative number is not kept.
            embeddings: (I, D) of the scenes.
            people: (Q, D) of their people, scene by scene.
            ids: (Q,) of these.
            counts: people of each scene.
        """
        scenes = zip(batch, embeddings, people.split(list(counts)), ids.split(list(counts)), strict=True)
        self.scenes |= {number: StoredScene.of(*scene) for number, *scene in scenes if number >= 0}

    def state(self) -> dict[str, Tensor]:
        """All that is stored, in few tensors: for a file."""
        scenes = list(self.scenes.values())
        if not scenes:
            return {}
        return {
            "numbers": torch.tensor(list(self.scenes)),
            "embeddings": torch.stack([scene.embedding for scene in scenes]),
            "counts": torch.tensor([len(scene.ids) for scene in scenes]),
            "people": torch.cat([scene.people for scene in scenes]),
            "ids": torch.cat([scene.ids for scene in scenes]),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Hold what ``state`` gave, and nothing else. Raises KeyError, TypeError or ValueError for anything else."""
        self.scenes = {}
        if state:
            numbers, counts = state["numbers"].tolist(), state["counts"].tolist()
            self.store(numbers, state["embeddings"], state["people"], state["ids"], counts)
