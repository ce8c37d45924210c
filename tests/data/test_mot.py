"""MOTChallenge loader: splits, regions to ignore, queries and galleries by time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from person_search.config import DataConfig
from person_search.data.mot import MotDataset
from person_search.data.scene import ProtocolOptions
from person_search.errors import DataError, UsageError

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "pets09"
ROWS = [
    "1,5,10,10,20,40,1,-1,-1,-1",
    "1,2,40,10,20,40,1",
    "3,5,12,10,20,40,1,1,0.5",
    "3,8,1,1,9,9,0,1,1",
    "5,2,-5,10,20,40,1,1,1",
    "5,9,50,10,20,40,1,7,1",
    "5,10,60,10,20,40,1,3,1",
    "5,11,0,0,0,5,0,1,1",
    "6,2,44,10,20,40,1,1,1",
    "7,2,44,10,20,40,1,1,1",
    "9,7,12,12,20,40,1,1,1",
    "9,-1,70,12,20,40,1,1,1",
    "10,2,46,10,20,40,1,1,1",
    "10,7,14,12,20,40,1,1,1",
]
INFO = "[Sequence]\nname=x\nimDir=img1\nframeRate=2\nseqLength=10\nimWidth=100\nimHeight=80\nimExt=.jpg\n"


def write_sequence(folder: Path, rows: Sequence[str] = ROWS, info: str = INFO, skip: tuple[int, ...] = (6,)) -> Path:
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    (folder / "seqinfo.ini").write_text(info)
    (folder / "gt" / "gt.txt").write_text("".join(f"{row}\n" for row in rows))
    for frame in set(range(1, 11)) - set(skip):
        (folder / "img1" / f"{frame:06d}.jpg").write_bytes(b"")
    (folder / "img1" / "Thumbs.db").write_bytes(b"")
    return folder


def config(**settings: object) -> DataConfig:
    return DataConfig(dataset="mot", **{"mot_train_share": 0.4, "mot_min_gap": 1.5, **settings})  # type: ignore[arg-type]


def test_time_split(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A")
    dataset = MotDataset(tmp_path, config())
    train, test = dataset.split("train"), dataset.split("test")
    assert [scene.name for scene in train.scenes] == [f"A/img1/00000{frame}.jpg" for frame in (1, 2, 3, 4)]
    assert [scene.time for scene in train.scenes] == [0.0, 0.5, 1.0, 1.5]
    assert [scene.person_ids.tolist() for scene in train.scenes] == [[1, 0], [], [1], []]
    assert train.scenes[2].ignore.tolist() == [[1, 1, 10, 10]]
    assert (train.num_identities, train.queries, train.seen_identities) == (2, [], None)
    assert [scene.name[-6:-4] for scene in test.scenes] == ["05", "07", "08", "09", "10"]
    assert [scene.person_ids.tolist() for scene in test.scenes] == [[0], [0], [], [1, -1], [0, 1]]
    # A box over the border stays as it is; the static person is ignored; the car and the empty box are gone.
    assert test.scenes[0].boxes.tolist() == [[-5, 10, 15, 50]]
    assert test.scenes[0].ignore.tolist() == [[50, 10, 70, 50]]
    assert test.seen_identities is not None
    assert test.seen_identities.tolist() == [True, False]
    assert {scene.sequence for scene in test.scenes} == {"A"}


def test_queries_are_seen_again_far_enough(tmp_path: Path) -> None:
    dataset = MotDataset(write_sequence(tmp_path / "A"), config())
    test = dataset.split("test")
    assert test.scenes[0].name == "img1/000005.jpg"
    # Person 2 is in frames 5, 7 and 10 (half a second each): 7 and 10 are exactly 1.5 s apart. Person 7 never is.
    assert [(query.scene, query.person_id, query.box.tolist()) for query in test.queries] == [
        (0, 0, [-5, 10, 15, 50]),
        (1, 0, [44, 10, 64, 50]),
        (4, 0, [46, 10, 66, 50]),
    ]
    protocol = dataset.protocol(test, ProtocolOptions())
    assert protocol.name == "at least 1.5 s apart"
    assert [np.flatnonzero(row).tolist() for row in protocol.in_gallery] == [[2, 3, 4], [4], [0, 1]]
    assert protocol.truth_offsets.tolist() == [0, 1, 2, 4]
    assert protocol.truth_scenes.tolist() == [4, 4, 0, 1]


def test_no_gap_leaves_out_the_own_scene(tmp_path: Path) -> None:
    # Person 4 is in one scene only; what is wrong with a frame that has no file does not matter.
    rows = [*ROWS, "8,4,1,1,9,9,1", "6,4,1,1,0,0,1"]
    dataset = MotDataset(write_sequence(tmp_path / "A", rows), config(mot_min_gap=0))
    test = dataset.split("test")
    assert [(query.scene, query.person_id) for query in test.queries] == [(0, 0), (1, 0), (3, 2), (4, 0), (4, 2)]
    assert not dataset.protocol(test, ProtocolOptions()).in_gallery[range(5), [0, 1, 3, 4, 4]].any()


def test_sequences_are_separate(tmp_path: Path) -> None:
    for name in ("B", "A"):
        write_sequence(tmp_path / name)
    dataset = MotDataset(tmp_path, config())
    test = dataset.split("test")
    assert [scene.sequence for scene in test.scenes] == ["A"] * 5 + ["B"] * 5
    # The same number in another sequence is another person, and other sequences are far away.
    assert test.num_identities == 4
    assert [scene.person_ids.tolist() for scene in test.scenes[5:7]] == [[2], [2]]
    protocol = dataset.protocol(test, ProtocolOptions())
    assert np.flatnonzero(protocol.in_gallery[0]).tolist() == [2, 3, 4, 5, 6, 7, 8, 9]
    assert set(protocol.truth_scenes[:4].tolist()) <= set(range(5))


def test_cameras_that_share_identities(tmp_path: Path) -> None:
    for name in ("A", "B"):
        write_sequence(tmp_path / name, info=INFO + "sharedIds=true\n")
    dataset = MotDataset(tmp_path, config())
    test = dataset.split("test")
    assert test.num_identities == 2
    assert [scene.camera for scene in test.scenes] == [1] * 5 + [2] * 5
    assert [scene.person_ids.tolist() for scene in test.scenes[5:7]] == [[0], [0]]
    # Person 7 is in two neighbouring frames of each camera: far only through the other camera.
    assert [(query.scene, query.person_id) for query in test.queries[:5]] == [(0, 0), (1, 0), (3, 1), (4, 0), (4, 1)]
    protocol = dataset.protocol(test, ProtocolOptions(cross_camera=True))
    assert np.flatnonzero(protocol.in_gallery[2]).tolist() == [5, 6, 7, 8, 9]
    assert protocol.truth_scenes[protocol.truth_offsets[2] : protocol.truth_offsets[3]].tolist() == [8, 9]
    by_sequence = MotDataset(tmp_path, config(mot_split="sequence", mot_train_share=0.5)).split("test")
    assert by_sequence.seen_identities is not None
    assert by_sequence.seen_identities.all()


def test_sequence_split(tmp_path: Path) -> None:
    for name in ("A", "B", "C"):
        write_sequence(tmp_path / name)
    dataset = MotDataset(tmp_path, config(mot_split="sequence", mot_train_share=0.67))
    assert {scene.sequence for scene in dataset.split("train").scenes} == {"A", "B"}
    test = dataset.split("test")
    assert {scene.sequence for scene in test.scenes} == {"C"}
    assert test.seen_identities is None
    with pytest.raises(UsageError, match="the test split is empty: mot_train_share 1"):
        MotDataset(tmp_path, config(mot_split="sequence", mot_train_share=1)).split("test")


def test_mot17_copies_are_read_once(tmp_path: Path) -> None:
    for name in ("MOT17-02-SDP", "MOT17-02-DPM", "MOT17-04-DPM"):
        write_sequence(tmp_path / name)
    train = MotDataset(tmp_path, config()).split("train")
    assert sorted({str(scene.sequence) for scene in train.scenes}) == ["MOT17-02-DPM", "MOT17-04-DPM"]


def rewrite(path: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text(text)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "gt" / "gt.txt").unlink(), r"missing file '.*gt.txt'; expected one folder per sequence"),
        (lambda f: (f / "seqinfo.ini").unlink(), r"missing file '.*seqinfo.ini'; expected one folder per sequence"),
        (rewrite("seqinfo.ini", "[Sequence]\nname=x\n"), r"seqinfo.ini' is damaged: expected .* frameRate"),
        (rewrite("seqinfo.ini", "[Seq"), r"seqinfo.ini' is damaged"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=0\n"), r"expected a frameRate above 0, found 0"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=5\nimDir=img2\n"), r"missing folder '.*img2'"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=5\nimExt=.png\n"), r"no frames in .*000001.png"),
        (rewrite("gt/gt.txt", "1,1,5,5,5,5,1\n1,2,3"), r"gt.txt' line 2: expected 'frame,id,x,y"),
        (rewrite("gt/gt.txt", "1,1,5,5,5,nan,1\n"), r"gt.txt' line 1: expected 'frame,id,x,y"),
        (rewrite("gt/gt.txt", "\n1,1,5,5,0,5,1\n"), r"gt.txt' line 2: the box .* has no area or lies outside"),
        (rewrite("gt/gt.txt", "1,1,100,5,5,5,1\n"), r"gt.txt' line 1: the box .* has no area or lies outside"),
        (rewrite("gt/gt.txt", "1,1,5,5,5,5,1\n1,1,6,6,6,6,1\n"), r"line 2: person 1 is in frame 1 twice"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], expected: str) -> None:
    damage(write_sequence(tmp_path / "A"))
    with pytest.raises(DataError, match=expected):
        MotDataset(tmp_path, config()).split("test")


def test_wrong_questions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sequence in .*; expected one folder per sequence"):
        MotDataset(tmp_path, config()).split("test")
    with pytest.raises(DataError, match="is not a folder"):
        MotDataset(tmp_path / "nowhere", config()).split("test")
    dataset = MotDataset(write_sequence(tmp_path / "A"), config())
    with pytest.raises(UsageError, match="--validation-share"):
        dataset.split("val")
    with pytest.raises(UsageError, match="gallery sizes"):
        dataset.protocol(dataset.split("test"), ProtocolOptions(gallery_size=50))
    with pytest.raises(UsageError, match="camera"):
        dataset.protocol(dataset.split("test"), ProtocolOptions(cross_camera=True))


@pytest.mark.skipif(not REAL.exists(), reason=f"needs the MOTChallenge folder {REAL.name} beside the repository")
def test_real_video() -> None:
    dataset = MotDataset(REAL, config(mot_train_share=400 / 795, mot_min_gap=5.0))
    train, test = dataset.split("train"), dataset.split("test")
    assert (len(train.scenes), len(test.scenes)) == (80, 80)
    assert train.scenes[-1].name == "PETS09-S2L1/img1/000396.jpg"
    splits = (train, test)
    assert sum(len(scene.boxes) for split in splits for scene in split.scenes) == 936 - 34
    assert sum(len(scene.ignore) for split in splits for scene in split.scenes) == 34
    assert test.seen_identities is not None
    assert train.num_identities + int((~test.seen_identities).sum()) == 10
    protocol = dataset.protocol(test, ProtocolOptions())
    assert (np.diff(protocol.truth_offsets) > 0).all()
    times = np.array([scene.time for scene in test.scenes])
    for query, row in zip(test.queries, protocol.in_gallery, strict=True):
        assert np.abs(times[row] - times[query.scene]).min() >= 5 - 1e-9
