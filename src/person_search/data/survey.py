"""Counts what is in a dataset, and compares it with what was published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

from person_search.config import DataConfig
from person_search.data.catalogue import notes_of, open_split
from person_search.data.scene import Dataset, Split, SplitName
from person_search.data.settings import PrwSettings
from person_search.data.size_checks import compare_sizes
from person_search.errors import DataError, UsageError


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
            if what == "queries" and isinstance(config, PrwSettings) and config.queries == "mini":
                continue
            found = getattr(split, what)
            if found != expected:
                warnings.append(f"{name} {split.split}: {expected} {what} were published, found {found}")
    return warnings
