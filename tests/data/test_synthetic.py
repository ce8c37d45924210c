from __future__ import annotations

from pathlib import Path

import pytest

from person_search.data.scene import ProtocolOptions
from person_search.data.synthetic import SyntheticDataset
from person_search.errors import DataError
from person_search.registry import datasets
from person_search.synth.generate import generate
from person_search.synth.settings import SynthConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "synthetic"
    generate(
        SynthConfig(identities=12, scenes=60, cameras=3, width=160, height=120, out=out, difficulty=0.8), workers=1
    )
    return out


def test_reads_what_synth_wrote(root: Path) -> None:
    dataset = datasets.get("synthetic")(root)
    assert isinstance(dataset, SyntheticDataset)
    assert dataset.has_validation()
    counts = {}
    for name in ("train", "val", "test"):
        split = dataset.split(name)
        assert (split.dataset, split.name) == ("synthetic", name)
        assert all((split.image_root / scene.name).is_file() for scene in split.scenes)
        assert all(scene.camera in (1, 2, 3) for scene in split.scenes)
        assert any(-1 in scene.person_ids for scene in split.scenes)
        counts[name] = (len(split.scenes), split.num_identities)
    assert counts == {"train": (42, 9), "val": (6, 1), "test": (12, 2)}


def test_everybody_in_two_test_scenes_is_asked_for_and_can_be_found(root: Path) -> None:
    dataset = SyntheticDataset(root)
    split = dataset.split("test")
    appearances = [sum(person in scene.person_ids for scene in split.scenes) for person in range(split.num_identities)]
    assert [query.person_id for query in split.queries] == [p for p, seen in enumerate(appearances) if seen >= 2]
    protocol = dataset.protocol(split, ProtocolOptions())
    assert (protocol.truth_offsets[1:] - protocol.truth_offsets[:-1]).tolist() == [n - 1 for n in appearances if n >= 2]
    cross = dataset.protocol(split, ProtocolOptions(cross_camera=True))
    assert len(cross.truth_scenes) > 0
    assert dataset.split("train").queries == []


def test_missing_set_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"person-search synth --layout coco --out .*nowhere"):
        SyntheticDataset(tmp_path / "nowhere").split("train")
    (tmp_path / "train.json").write_text("{}")
    with pytest.raises(DataError, match="person-search synth"):
        SyntheticDataset(tmp_path).has_validation()


def test_other_layout_says_which_loader_reads_it(tmp_path: Path) -> None:
    out = tmp_path / "set"
    generate(SynthConfig(identities=4, scenes=6, cameras=1, width=160, height=120, out=out, layout="prw"), workers=1)
    with pytest.raises(DataError, match="`dataset` prw"):
        SyntheticDataset(out).split("train")
