"""Scenes held out of training, for validation, and the searches asked in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from person_search.data.catalogue import open_split
from person_search.data.queries import first_box_queries
from person_search.data.scene import (
    UNLABELLED,
    Bools,
    Dataset,
    Ints,
    Protocol,
    ProtocolOptions,
    Query,
    Scene,
    Split,
    every_other_scene,
)
from person_search.errors import UsageError


def hold_out(dataset: Dataset, share: float, seed: int) -> tuple[Split, Split]:
    """``holdout_validation`` of the training scenes of ``dataset``, with the queries it asks there."""
    return holdout_validation(open_split(dataset, "train"), share, seed, queries=dataset.held_out_queries)


def validation_split(dataset: Dataset, share: float, seed: int) -> Split:
    """The dataset's own validation split, or what a training with this ``share`` and ``seed`` held out.

    Raises UsageError where both or neither are there.
    """
    if dataset.has_validation():
        if share:
            raise UsageError("this dataset has a validation split of its own; leave `validation_share` out")
        return open_split(dataset, "val")
    if share == 0:
        raise UsageError(
            "there is no split 'val': the dataset has none of its own, and the training held nothing out "
            "(validation_share 0); use `split` test, or `config` with the settings of the run"
        )
    return hold_out(dataset, share, seed)[1]


def validation_protocol(dataset: Dataset, split: Split, options: ProtocolOptions) -> Protocol:
    """Galleries and truths for ``validation_split``, as the test of ``dataset`` has them where they have a meaning.

    In video that was held out the dataset's own protocol holds, with its gap in time. Lists of queries and galleries
    that a dataset of pictures comes with say nothing of its training scenes: there every other scene is searched.
    Raises UsageError for options without meaning.
    """
    if dataset.has_validation() or is_video(split):
        return dataset.protocol(split, options)
    if options.gallery_size is not None:
        raise UsageError("scenes held out for validation have no gallery sizes; leave `gallery_size` out")
    return every_other_scene(split, cross_camera=options.cross_camera)


def is_video(split: Split) -> bool:
    """Whether every scene of ``split`` is a moment of a video."""
    return bool(split.scenes) and all(s.sequence is not None and s.time is not None for s in split.scenes)


def holdout_validation(
    train: Split, share: float, seed: int, *, queries: Callable[[Sequence[Scene], int], list[Query]] = first_box_queries
) -> tuple[Split, Split]:
    """Part of the training scenes as a validation split: ``(training, validation)``.

    Of every video its last ``share`` (0..1) is held out, in one piece, so that neighbouring frames stay together.
    Single pictures are held out by identity: all scenes of identities drawn with ``seed``, so that these can be
    searched and are unknown to the model. Both splits number the identities they hold from 0 in the old order;
    ``queries`` makes the validation queries of its scenes and their number of identities, and ``seen_identities``
    tells who is in training too. Raises UsageError when either part would be empty.
    """
    scenes = train.scenes
    if not 0 < share < 1:
        raise UsageError(f"validation_share {share:g}: expected a share above 0 and below 1")
    held = _last_of_each_video(scenes, share) if is_video(train) else _by_identity(scenes, share, seed)
    if held.all() or not held.any():
        raise UsageError(
            f"validation_share {share:g} of {len(scenes)} training scenes leaves {int(held.sum())} to validate and "
            f"{int((~held).sum())} to train on; expected some of both, change `validation_share`"
        )
    kept, kept_ids = _renumbered([scene for scene, out in zip(scenes, held, strict=True) if not out])
    validation, ids = _renumbered([scene for scene, out in zip(scenes, held, strict=True) if out])
    asked = queries(validation, len(ids))
    nobody = (
        f"nobody in the {len(validation)} scenes held out for validation can be searched; detection alone is judged"
    )
    return (
        replace(train, scenes=kept, num_identities=len(kept_ids), identity_names=_names(train, kept_ids)),
        replace(
            train,
            name="val",
            scenes=validation,
            num_identities=len(ids),
            queries=asked,
            seen_identities=np.isin(ids, kept_ids),
            identity_names=_names(train, ids),
            notes=train.notes if asked else (*train.notes, nobody),
        ),
    )


def _names(split: Split, identities: Ints) -> tuple[str, ...]:
    return tuple(split.identity_names[identity] for identity in identities) if split.identity_names else ()


def _last_of_each_video(scenes: Sequence[Scene], share: float) -> Bools:
    held = np.zeros(len(scenes), dtype=bool)
    videos: dict[str, list[int]] = {}
    for number, scene in enumerate(scenes):
        videos.setdefault(str(scene.sequence), []).append(number)
    for numbers in videos.values():
        numbers.sort(key=lambda number: scenes[number].time or 0.0)
        held[numbers[len(numbers) - round(share * len(numbers)) :]] = True
    return held


def _by_identity(scenes: Sequence[Scene], share: float, seed: int) -> Bools:
    generator = np.random.default_rng(seed)
    wanted = round(share * len(scenes))
    held = np.zeros(len(scenes), dtype=bool)
    places: dict[int, list[int]] = {}
    for number, scene in enumerate(scenes):
        for identity in np.unique(scene.person_ids[scene.person_ids >= 0]).tolist():
            places.setdefault(identity, []).append(number)
    identities = sorted(identity for identity, numbers in places.items() if len(numbers) > 1)
    for identity in generator.permutation(identities).tolist():
        added = held.copy()
        added[places[identity]] = True
        if added.sum() <= wanted:
            held = added
        if held.sum() == wanted:
            return held
    rest = np.flatnonzero(~held)
    held[generator.permutation(rest)[: wanted - int(held.sum())]] = True
    return held


def _renumbered(scenes: Sequence[Scene]) -> tuple[list[Scene], Ints]:
    """``scenes`` with their identities numbered from 0, and the old numbers of those."""
    ids = np.unique(np.concatenate([np.zeros(0, np.int64), *(scene.person_ids for scene in scenes)]))
    ids = ids[ids >= 0]
    return [
        replace(
            scene,
            person_ids=np.where(scene.person_ids >= 0, np.searchsorted(ids, scene.person_ids), UNLABELLED),
        )
        for scene in scenes
    ], ids
