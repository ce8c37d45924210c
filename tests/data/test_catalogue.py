"""Opening by name, holding out validation scenes, and statistics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from person_search.config import Config, DataConfig
from person_search.data.catalogue import open_dataset, open_split
from person_search.data.holdout import holdout_validation
from person_search.data.prw import PrwDataset
from person_search.data.queries import first_box_queries
from person_search.data.scene import Dataset, Scene, Split, SplitName, as_boxes
from person_search.data.settings import PrwSettings
from person_search.data.survey import PUBLISHED, SplitStatistics, check_published, split_statistics, survey
from person_search.errors import UsageError


def scene(name: str, ids: list[int], sequence: str | None = None, time: float | None = None) -> Scene:
    boxes = as_boxes([[k, k, k + 5, k + 9] for k in range(len(ids))])
    return Scene(name, boxes, np.array(ids, dtype=np.int64), sequence=sequence, time=time)


def train_split(scenes: list[Scene]) -> Split:
    count = max((int(s.person_ids.max()) for s in scenes if len(s.person_ids)), default=-1) + 1
    return Split("coco", "train", Path("x"), scenes, max(count, 0))


def test_first_box_queries() -> None:
    scenes = [scene("a", [-1, 1, 0]), scene("b", [2, 2]), scene("c", [0, 1]), scene("d", [0])]
    queries = first_box_queries(scenes, 3)
    assert [(q.scene, q.person_id, q.box[0]) for q in queries] == [(0, 0, 2.0), (0, 1, 1.0)]


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


def test_several_boxes_in_three_scenes_make_an_id_nobodys_and_in_two_not() -> None:
    dataset = Fixed(Path("x"))
    for often, said in ((2, False), (3, True)):
        scenes = [scene(str(n), [0, 0] if n < often else [0]) for n in range(8)]
        dataset.splits = {"test": replace(train_split(scenes), name="test")}
        assert any("probably nobody's" in note for note in open_split(dataset, "test").notes) is said


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
        "`unlabelled_ids` (id A/7: in 4 of its 4 scenes)",
    )
    dataset.config = DataConfig(unlabelled_ids=("7", "B/9", "12"))
    opened = open_split(dataset, "test")
    assert [s.person_ids.tolist() for s in opened.scenes] == [[-1, -1, 0, -1, -1]] * 4 + [[0, -1, -1]]
    assert (opened.num_identities, opened.identity_names) == (1, ("A/9",))
    assert [(query.scene, query.person_id, query.box[0]) for query in opened.queries] == [(0, 0, 2.0)]
    assert opened.notes == (
        "'coco test': 1 of `unlabelled_ids` are nobody's id in this split (12)",
        "'coco test': 2 ids count as no identity, as `unlabelled_ids` says (A/7, B/9)",
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
    assert check_published("prw", counts, PrwSettings(dataset="prw", queries="mini")) == [
        "prw test: 6112 scenes were published, found 6111"
    ]
    small = [replace(split, scenes=50) for split in counts]
    assert check_published("prw", small, DataConfig()) == []
    assert check_published("coco", counts, DataConfig()) == []
    assert len(check_published("ssm", counts, DataConfig())) == len(PUBLISHED["cuhk-sysu"]["train"]) + 4


def test_open_by_name(tmp_path: Path) -> None:
    config = PrwSettings(dataset="prw", data_root=tmp_path, queries="mini")
    dataset = open_dataset(config)
    assert type(open_dataset(Config(data=config))) is type(dataset)
    assert isinstance(dataset, PrwDataset)
    assert (dataset.root, dataset.config) == (tmp_path, config)
    with pytest.raises(UsageError, match=r"unknown dataset 'prv'.*Did you mean 'prw'"):
        open_dataset(DataConfig(dataset="prv"))
