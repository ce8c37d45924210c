"""Opening by name, holding out validation scenes, and statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from person_search.config import DataConfig
from person_search.data.catalogue import (
    PUBLISHED,
    SplitStatistics,
    check_published,
    holdout_validation,
    open_dataset,
    open_split,
    split_statistics,
    survey,
)
from person_search.data.prw import PrwDataset
from person_search.data.queries import first_box_queries
from person_search.data.scene import Dataset, Scene, Split, SplitName, as_boxes
from person_search.errors import UsageError


def scene(name: str, ids: list[int], sequence: str | None = None, time: float | None = None) -> Scene:
    boxes = as_boxes([[k, k, k + 5, k + 9] for k in range(len(ids))])
    return Scene(name, boxes, np.array(ids, dtype=np.int64), sequence=sequence, time=time)


def train_split(scenes: list[Scene]) -> Split:
    count = max((int(s.person_ids.max()) for s in scenes if len(s.person_ids)), default=-1) + 1
    return Split("coco", "train", Path("x"), scenes, max(count, 0))


def pictures(seed: int, scenes: int, identities: int) -> Split:
    generator = np.random.default_rng(seed)
    return train_split(
        [
            scene(f"{n}.jpg", (generator.permutation(identities + 1)[: generator.integers(0, 4)] - 1).tolist())
            for n in range(scenes)
        ]
    )


def originals(split: Split, train: Split) -> list[tuple[str, list[int]]]:
    ids = {s.name: s.person_ids.tolist() for s in train.scenes}
    return [(s.name, ids[s.name]) for s in split.scenes]


def test_first_box_queries() -> None:
    scenes = [scene("a", [-1, 1, 0]), scene("b", [2, 2]), scene("c", [0, 1]), scene("d", [0])]
    queries = first_box_queries(scenes, 3)
    assert [(q.scene, q.person_id, q.box[0]) for q in queries] == [(0, 0, 2.0), (0, 1, 1.0)]


@given(seed=st.integers(0, 1000), count=st.integers(4, 40), identities=st.integers(1, 20), share=st.floats(0.2, 0.6))
def test_pictures_are_held_out_by_identity(seed: int, count: int, identities: int, share: float) -> None:
    whole = pictures(seed, count, identities)
    train, val = holdout_validation(whole, share, seed)
    assert (train.name, val.name) == ("train", "val")
    assert len(val.scenes) == round(share * count)
    assert sorted(s.name for s in [*train.scenes, *val.scenes]) == sorted(s.name for s in whole.scenes)
    for part in (train, val):
        old = sorted({person for _, ids in originals(part, whole) for person in ids} - {-1})
        new = {person for s in part.scenes for person in s.person_ids.tolist()} - {-1}
        assert new == set(range(part.num_identities))
        # Same people in the same boxes under their new, ordered numbers.
        for s, (_, ids) in zip(part.scenes, originals(part, whole), strict=True):
            assert [old[k] if k >= 0 else -1 for k in s.person_ids] == ids
    kept = {person for _, ids in originals(train, whole) for person in ids}
    held = sorted({person for _, ids in originals(val, whole) for person in ids} - {-1})
    assert val.seen_identities is not None
    assert val.seen_identities.tolist() == [person in kept for person in held]
    again = holdout_validation(whole, share, seed)[1]
    assert [s.name for s in again.scenes] == [s.name for s in val.scenes]


def test_held_out_identities_can_be_searched() -> None:
    pairs = train_split([scene(f"{n}.jpg", [n % 20, -1]) for n in range(40)])
    train, val = holdout_validation(pairs, 0.25, 3)
    assert len(val.queries) == val.num_identities == 5
    assert train.num_identities == 15
    assert val.seen_identities is not None
    assert not val.seen_identities.any()
    assert all((s.person_ids[1] == -1) for s in val.scenes)
    other = holdout_validation(pairs, 0.25, 4)[1]
    assert [s.name for s in other.scenes] != [s.name for s in val.scenes]


def test_videos_are_held_out_in_one_piece() -> None:
    frames = [scene(f"{v}{t}.jpg", [0], sequence=v, time=float(t)) for t in (3, 1, 0, 2) for v in "ab"]
    train, val = holdout_validation(train_split(frames), 0.5, 0)
    assert sorted(s.name for s in val.scenes) == ["a2.jpg", "a3.jpg", "b2.jpg", "b3.jpg"]
    assert len(train.scenes) == 4
    assert [(q.scene, val.scenes[q.scene].name) for q in val.queries] == [(0, "a3.jpg")]


@pytest.mark.parametrize("share", [0.0, 1.0, 0.01])
def test_empty_parts_are_refused(share: float) -> None:
    with pytest.raises(UsageError, match="validation_share"):
        holdout_validation(pictures(0, 10, 3), share, 0)


class Fixed(Dataset):
    """Splits given by the test."""

    splits: dict[str, Split]

    def split(self, name: SplitName) -> Split:
        if name not in self.splits:
            raise UsageError(f"no split {name}")
        return self.splits[name]


def test_survey_counts_and_names_what_is_missing() -> None:
    scenes = [scene("a", [-1, 0]), replace(scene("b", [0, 1, 2]), camera=4, ignore=as_boxes([0, 0, 1, 1]))]
    split = replace(train_split(scenes), queries=first_box_queries(scenes, 3))
    assert split_statistics(split) == SplitStatistics("train", 2, 5, 4, 3, 1, 1, 1)
    dataset = Fixed(Path("x"))
    dataset.splits = {"test": replace(split, name="test", scenes=scenes[:1], notes=("one", "one"))}
    found = survey(dataset)
    assert found.counts == [SplitStatistics("test", 1, 2, 1, 3, 1, 0, None)]
    assert found.notes == ["one", "'x': 1 of the 1 test pictures looked at are not there (a)", "no split train"]
    assert found.contradiction is None
    dataset.splits = {}
    with pytest.raises(UsageError, match="no split"):
        survey(dataset)


def test_an_opened_split_has_no_unlabelled_ids_and_names_what_is_odd() -> None:
    scenes = [scene(str(n), [0, 0, 1, 2, -1]) for n in range(4)] + [scene("z", [1, 2, 2])]
    names = ("A/7", "A/9", "B/9")
    split = replace(train_split(scenes), name="test", identity_names=names, queries=first_box_queries(scenes, 3))
    dataset = Fixed(Path("x"))
    dataset.splits = {"test": split}
    opened = open_split(dataset, "test")
    assert opened.notes == (
        "'coco test': 1 times a person has several boxes in one scene: the first one annotated is the true one in "
        "search (id B/9 in 'z')",
        "'coco test': 1 ids have several boxes in many scenes and are probably nobody's; if so, name them in "
        "--unlabelled-ids (id A/7: in 4 of its 4 scenes)",
    )
    dataset.config = DataConfig(unlabelled_ids=("7", "B/9", "12"))
    opened = open_split(dataset, "test")
    assert [s.person_ids.tolist() for s in opened.scenes] == [[-1, -1, 0, -1, -1]] * 4 + [[0, -1, -1]]
    assert (opened.num_identities, opened.identity_names) == (1, ("A/9",))
    assert [(query.scene, query.person_id, query.box[0]) for query in opened.queries] == [(0, 0, 2.0)]
    assert opened.notes == (
        "'coco test': 1 of --unlabelled-ids are nobody's id in this split (12)",
        "'coco test': 2 ids count as no identity, as --unlabelled-ids says (A/7, B/9)",
        "'coco test': 2 queries for them are left out",
    )
    dataset.config = DataConfig(unlabelled_ids=("9",))
    assert open_split(dataset, "test").identity_names == ("A/7",)
    training, validation = holdout_validation(replace(split, name="train", queries=[]), 0.5, seed=0)
    for part in (training, validation):
        assert len(part.identity_names) == part.num_identities


def published_prw() -> list[SplitStatistics]:
    return [
        SplitStatistics("train", 5704, 10, 5, 483, 0, 0, 6),
        SplitStatistics("test", 6112, 10, 5, 450, 2057, 0, 6),
    ]


def test_differences_from_the_published_set() -> None:
    counts = published_prw()
    assert check_published("prw", counts, DataConfig()) == []
    counts[1] = replace(counts[1], queries=2056, scenes=6111)
    assert check_published("prw", counts, DataConfig()) == [
        "prw test: 6112 scenes were published, found 6111",
        "prw test: 2057 queries were published, found 2056",
    ]
    assert check_published("prw", counts, DataConfig(queries="mini")) == [
        "prw test: 6112 scenes were published, found 6111"
    ]
    small = [replace(split, scenes=50) for split in counts]
    assert check_published("prw", small, DataConfig()) == []
    assert check_published("coco", counts, DataConfig()) == []
    assert len(check_published("ssm", counts, DataConfig())) == len(PUBLISHED["cuhk-sysu"]["train"]) + 4


def test_open_by_name(tmp_path: Path) -> None:
    config = DataConfig(queries="mini")
    dataset = open_dataset("prw", tmp_path, config)
    assert isinstance(dataset, PrwDataset)
    assert (dataset.root, dataset.config) == (tmp_path, config)
    with pytest.raises(UsageError, match=r"unknown dataset 'prv'.*Did you mean 'prw'"):
        open_dataset("prv", tmp_path, config)
