"""What is odd about the identities of a split, whatever its dataset, and identities that a person says are nobody's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from person_search.data.notes import Notes
from person_search.data.scene import UNLABELLED, Ints, Split

NOBODY_SCENES, NOBODY_SHARE = 3, 0.25
"""An id with several boxes in at least so many scenes, and in this share of its scenes, is probably nobody's."""


def identity_name(split: Split, identity: int) -> str:
    """What the files of ``split`` call an identity: its id as written; its number from 0 where they have none."""
    return split.identity_names[identity] if split.identity_names else str(identity)


def odd_identities(split: Split) -> tuple[str, ...]:
    """What is odd, one line a kind: nobody at all, people annotated twice in a scene, ids probably nobody's."""
    scenes, identities, boxes = _boxes_of_people(split)
    twice = np.flatnonzero(boxes > 1)
    notes = Notes()
    source = f"{split.dataset} {split.name}"
    if not any(len(scene.boxes) for scene in split.scenes):
        notes.add(source, f"nobody is annotated in its {len(split.scenes)} scenes")
    scenes_with = np.bincount(identities, minlength=split.num_identities)
    scenes_twice = np.bincount(identities[twice], minlength=split.num_identities)
    nobody = (scenes_twice >= NOBODY_SCENES) & (scenes_twice >= NOBODY_SHARE * scenes_with)
    for row in twice[~nobody[identities[twice]]].tolist():
        notes.add(
            source,
            "{n} times a person has several boxes in one scene: the first one annotated is the true one in search",
            f"id {identity_name(split, int(identities[row]))} in '{split.scenes[int(scenes[row])].name}'",
        )
    for identity in np.flatnonzero(nobody).tolist():
        notes.add(
            source,
            "{n} ids have several boxes in many scenes and are probably nobody's; if so, name them in `unlabelled_ids`",
            f"id {identity_name(split, identity)}: in {scenes_twice[identity]} of its {scenes_with[identity]} scenes",
        )
    return notes.lines()


def without_identities(split: Split, nobody: Sequence[str]) -> Split:
    """``split`` with the people whose id, as its files write it, is in ``nobody`` as people without identity.

    Where ids count within a video and are named ``VIDEO/ID``, a bare ID stands for that of every video. Queries for
    these people are dropped, and the other identities numbered from 0 in the old order. Notes say what was done, and
    which of ``nobody`` are nobody's id here.
    """
    if not nobody:
        return split
    names = [identity_name(split, identity) for identity in range(split.num_identities)]
    wanted = set(nobody)
    gone = np.array([name in wanted or name.rpartition("/")[2] in wanted for name in names], dtype=bool)
    kept = np.flatnonzero(~gone)
    # The last entry is where UNLABELLED, -1, points to.
    numbers = np.full(len(names) + 1, UNLABELLED, dtype=np.int64)
    numbers[kept] = np.arange(len(kept))
    notes = Notes()
    source = f"{split.dataset} {split.name}"
    known = {part for name in names for part in (name, name.rpartition("/")[2])}
    for name in nobody:
        if name not in known:
            notes.add(source, "{n} of `unlabelled_ids` are nobody's id in this split", name)
    for identity in np.flatnonzero(gone).tolist():
        notes.add(source, "{n} ids count as no identity, as `unlabelled_ids` says", names[identity])
    queries = [replace(q, person_id=int(numbers[q.person_id])) for q in split.queries if not gone[q.person_id]]
    if len(queries) < len(split.queries):
        notes.add(source, f"{len(split.queries) - len(queries)} queries for them are left out")
    return replace(
        split,
        scenes=[replace(scene, person_ids=numbers[scene.person_ids]) for scene in split.scenes],
        num_identities=len(kept),
        queries=queries,
        seen_identities=None if split.seen_identities is None else split.seen_identities[kept],
        identity_names=tuple(names[identity] for identity in kept),
        notes=(*split.notes, *notes.lines()),
    )


def _boxes_of_people(split: Split) -> tuple[Ints, Ints, Ints]:
    """Scene, identity and number of boxes of everyone with an identity in every scene."""
    ids = np.concatenate([scene.person_ids for scene in split.scenes] or [np.zeros(0, np.int64)])
    scenes = np.repeat(np.arange(len(split.scenes)), [len(scene.person_ids) for scene in split.scenes])
    width = max(split.num_identities, 1)
    places, boxes = np.unique((scenes * width + ids)[ids >= 0], return_counts=True)
    return places // width, places % width, boxes.astype(np.int64)
