"""Opens datasets by name, holds out validation scenes, and counts what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np

from person_search.config import DataConfig
from person_search.data.identity_checks import odd_identities, without_identities
from person_search.data.picture_sizes import compare_sizes
from person_search.data.queries import first_box_queries
from person_search.data.scene import UNLABELLED, Bools, Dataset, Ints, Scene, Split, SplitName
from person_search.errors import DataError, UsageError
from person_search.registry import datasets, import_modules


def open_dataset(name: str, root: Path, config: DataConfig) -> Dataset:
    """The loader registered as ``name`` on the folder ``root``. Raises UsageError for an unknown name."""
    import_modules(config.plugins)
    dataset: Dataset = datasets.get(name)(root, config)
    return dataset


def open_split(dataset: Dataset, name: SplitName) -> Split:
    """One split of ``dataset``, without the identities that ``unlabelled_ids`` names, and with what is odd about those
    it has among its notes. Raises DataError, and UsageError if there is no such split.
    """
    split = dataset.split(name)
    nobody = dataset.config.unlabelled_ids
    if nobody and name == "test" and dataset.fixed_queries:
        fixed = f"'{split.dataset} test': its queries are a published list: --unlabelled-ids changes nothing in them"
        split = replace(split, notes=(*split.notes, fixed))
    else:
        split = without_identities(split, nobody)
    return replace(split, notes=(*split.notes, *odd_identities(split)))


def holdout_validation(train: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Part of the training scenes as a validation split: ``(training, validation)``.

    Of every video its last ``share`` (0..1) is held out, in one piece, so that neighbouring frames stay together.
    Single pictures are held out by identity: all scenes of identities drawn with ``seed``, so that these can be
    searched and are unknown to the model. Both splits number the identities they hold from 0 in the old order;
    validation queries are the first box of every identity in two or more of its scenes, and ``seen_identities``
    tells which are in training too. Raises UsageError when either part would be empty.
    """
    scenes = train.scenes
    if not 0 < share < 1:
        raise UsageError(f"validation_share {share:g}: expected a share above 0 and below 1")
    if scenes and all(scene.sequence is not None and scene.time is not None for scene in scenes):
        held = _last_of_each_video(scenes, share)
    else:
        held = _by_identity(scenes, share, seed)
    if held.all() or not held.any():
        raise UsageError(
            f"validation_share {share:g} of {len(scenes)} training scenes leaves {int(held.sum())} to validate and "
            f"{int((~held).sum())} to train on; expected some of both, change --validation-share"
        )
    kept, kept_ids = _renumbered([scene for scene, out in zip(scenes, held, strict=True) if not out])
    validation, ids = _renumbered([scene for scene, out in zip(scenes, held, strict=True) if out])
    return (
        replace(train, scenes=kept, num_identities=len(kept_ids), identity_names=_names(train, kept_ids)),
        replace(
            train,
            name="val",
            scenes=validation,
            num_identities=len(ids),
            queries=first_box_queries(validation, len(ids)),
            seen_identities=np.isin(ids, kept_ids),
            identity_names=_names(train, ids),
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


@dataclass(frozen=True)
class SplitStatistics:
    """Counts of one split: ``identities`` as numbered by the dataset, ``cameras`` None where it names none."""

    split: str
    scenes: int
    boxes: int
    labelled: int
    identities: int
    queries: int
    ignored: int
    cameras: int | None


def split_statistics(split: Split) -> SplitStatistics:
    """Count what is in ``split``."""
    cameras = {scene.camera for scene in split.scenes}
    return SplitStatistics(
        split=split.name,
        scenes=len(split.scenes),
        boxes=sum(len(scene.boxes) for scene in split.scenes),
        labelled=sum(int((scene.person_ids >= 0).sum()) for scene in split.scenes),
        identities=split.num_identities,
        queries=len(split.queries),
        ignored=sum(len(scene.ignore) for scene in split.scenes),
        cameras=None if cameras <= {None} else len(cameras - {None}),
    )


def notes_of(dataset: Dataset, *splits: Split) -> list[str]:
    """What the files of ``dataset`` hold and ``splits`` do not use, one line each, every line once."""
    return list(dict.fromkeys([*dataset.notes(), *(line for split in splits for line in split.notes)]))


@dataclass(frozen=True)
class Survey:
    """What a dataset holds.

    Attributes:
        counts: of every split.
        notes: what is to be said of them, one line each: a missing split and its reason and missing pictures too.
        contradiction: pictures of another size than the annotations say, or None.
    """

    counts: list[SplitStatistics]
    notes: list[str]
    contradiction: DataError | None


def survey(dataset: Dataset) -> Survey:
    """Count every split that ``dataset`` has, and look at the headers of some of its pictures.

    Raises DataError; UsageError when it has no split at all.
    """
    splits: list[Split] = []
    missing: list[UsageError] = []
    for name in get_args(SplitName):
        if name == "val" and not dataset.has_validation():
            continue
        try:
            splits.append(open_split(dataset, name))
        except UsageError as error:
            missing.append(error)
    if not splits:
        raise missing[-1]
    sizes = [compare_sizes(split) for split in splits]
    absent = [
        f"'{split.image_root}': {len(check.missing)} of the {check.looked_at} {split.name} pictures looked at are not "
        f"there ({', '.join(check.missing[:3])})"
        for split, check in zip(splits, sizes, strict=True)
        if check.missing
    ]
    return Survey(
        [split_statistics(split) for split in splits],
        [*notes_of(dataset, *splits), *absent, *map(str, missing)],
        next((check.contradiction for check in sizes if check.contradiction is not None), None),
    )


PUBLISHED: dict[str, dict[str, dict[str, int]]] = {
    "cuhk-sysu": {
        "train": {"scenes": 11206, "boxes": 55272, "identities": 5532, "labelled": 15085},
        "test": {"scenes": 6978, "boxes": 40871, "identities": 2900, "queries": 2900},
    },
    "prw": {
        "train": {"scenes": 5704, "identities": 483, "cameras": 6},
        "test": {"scenes": 6112, "queries": 2057, "cameras": 6},
    },
}
"""Numbers of the published sets (Xiao et al., CVPR 2017; Zheng et al., CVPR 2017)."""


def check_published(name: str, counts: Sequence[SplitStatistics], config: DataConfig) -> list[str]:
    """What differs from the published set, one line each; nothing for other sets.

    A set counts as the published one when it has half to twice its scenes: smaller ones are made in its layout.
    """
    published = PUBLISHED.get("cuhk-sysu" if name == "ssm" else name, {})
    total = sum(numbers["scenes"] for numbers in published.values())
    if not total / 2 <= sum(split.scenes for split in counts) <= total * 2 or not published:
        return []
    warnings = []
    for split in counts:
        for what, expected in published.get(split.split, {}).items():
            if what == "queries" and config.queries == "mini":
                continue
            found = getattr(split, what)
            if found != expected:
                warnings.append(f"{name} {split.split}: {expected} {what} were published, found {found}")
    return warnings
