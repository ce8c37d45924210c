"""MOTChallenge loader: splits, regions to ignore, queries and galleries by time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from person_search.data.catalogue import open_split
from person_search.data.fingerprint import fingerprint
from person_search.data.mot import MotDataset
from person_search.data.scene import ProtocolOptions, SplitName
from person_search.data.settings import MotSettings
from person_search.data.survey import survey
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


def config(**settings: object) -> MotSettings:
    return MotSettings(dataset="mot", **{"mot_train_share": 0.4, "mot_min_gap": 1.5, **settings})  # type: ignore[arg-type]


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
    with pytest.raises(UsageError, match="the test split is empty: `mot_train_share` 1 by sequence gives 3 of 3 "):
        MotDataset(tmp_path, config(mot_split="sequence", mot_train_share=1)).split("test")


def test_mot17_copies_are_read_once(tmp_path: Path) -> None:
    for name in ("MOT17-02-SDP", "MOT17-02-DPM", "MOT17-04-DPM"):
        write_sequence(tmp_path / name)
    train = MotDataset(tmp_path, config()).split("train")
    assert sorted({str(scene.sequence) for scene in train.scenes}) == ["MOT17-02-DPM", "MOT17-04-DPM"]
    assert train.notes[0].endswith("the same pictures and people as those of another detector (MOT17-02-SDP)")
    gt = tmp_path / "MOT17-02-SDP" / "gt" / "gt.txt"
    gt.write_bytes(gt.read_bytes().replace(b"\n", b"\r\n"))
    assert MotDataset(tmp_path, config()).split("train").notes == train.notes
    gt.write_text(gt.read_text() + "1,77,10,10,20,40,1,1,1\n")
    differs = MotDataset(tmp_path, config()).split("train").notes[0]
    assert differs.endswith("named as copies of another detector, but gt.txt differs (MOT17-02-SDP)")


def test_classes_that_are_not_people_make_one_line_a_file(tmp_path: Path) -> None:
    rows = [f"{1 + k % 3},{k},10,10,20,40,1,{(3, 9, 11, 3, 99)[k % 5]},1" for k in range(10)]
    write_sequence(tmp_path / "A", [*rows, "1,50,10,10,20,40,1,1,1"], skip=())
    (note,) = (line for line in notes_of(tmp_path) if "rows are left out, of" in line)
    assert note.endswith(
        "10 rows are left out, of classes that are not people (car from line 1 on, occluder from line 2 on, "
        "occluder full from line 3 on, ...)"
    )


def test_nobody_annotated_is_said(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", ["1,50,10,10,20,40,1,1,1"], skip=())
    dataset = MotDataset(tmp_path, config())
    assert not any("nobody" in note for note in open_split(dataset, "train").notes)
    test = open_split(dataset, "test")
    assert f"'mot test': nobody is annotated in its {len(test.scenes)} scenes" in test.notes


def test_other_sections_are_named(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", info=INFO + "[Camera]\nlens=50\n")
    assert any(n.endswith("1 sections other than [Sequence] are not used ([Camera])") for n in notes_of(tmp_path))


def test_frames_named_otherwise_are_named(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A")
    for file in (tmp_path / "A" / "img1").iterdir():
        file.rename(file.with_name(f"frame_{file.name}"))
    with pytest.raises(DataError, match=r"no frames in .*000001.jpg; found \d+ others, the first is frame_0"):
        MotDataset(tmp_path, config()).split("train")


def rewrite(path: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / path).write_text(text)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "gt" / "gt.txt").unlink(), r"missing file '.*gt.txt'; expected one folder per sequence"),
        (lambda f: (f / "seqinfo.ini").unlink(), r"missing file '.*seqinfo.ini'; expected one folder per sequence"),
        (rewrite("seqinfo.ini", "[Sequence]\nname=x\n"), r"seqinfo.ini': expected frameRate in .*, found none"),
        (rewrite("seqinfo.ini", "[sequence]\nframeRate=5\n"), r"expected a section \[Sequence\], found \['sequence'\]"),
        (rewrite("seqinfo.ini", "[Seq"), r"seqinfo.ini' is damaged"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=0\n"), r"expected a frameRate above 0, .* found '0'"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=5\nimDir=img2\n"), r"missing folder '.*img2'"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=30/0\n"), r"expected a frameRate above 0, .*, found '30/0'"),
        (rewrite("seqinfo.ini", "[Sequence]\nframeRate=25 fps\n"), r"expected a frameRate .*, found '25 fps'"),
        (
            rewrite("seqinfo.ini", INFO.replace("=10\n", "=ten\n")),
            r"expected a whole number for seqLength, found 'ten'",
        ),
        (rewrite("seqinfo.ini", INFO.replace("=100", "=-1")), r"expected a whole number for imWidth, found '-1'"),
        (rewrite("seqinfo.ini", INFO + "sharedIds=maybe\n"), r"expected true or false for sharedIds, found 'maybe'"),
        (lambda f: shutil.rmtree(f / "img1") or (f / "img1").mkdir(), r"no frames in .*000001.jpg"),
        (lambda f: (f / "img1" / "1.jpg").touch(), r"frame 1 is there 2 times \(000001.jpg, 1.jpg\)"),
        (
            lambda f: (f / "gt" / "gt.txt").write_bytes(b"1,1,5,5,5,5,1\xff"),
            r"cannot read .*gt.txt'.* save it as UTF-8",
        ),
        (rewrite("gt/gt.txt", "1.5,1,5,5,5,5,1\n"), r"line 1: expected a whole number for the frame, found 1.5"),
        (rewrite("gt/gt.txt", "1,0.25,5,5,5,5,1\n"), r"line 1: expected a whole number for the id, found 0.25"),
        (rewrite("gt/gt.txt", "1,1,5,5,5,5,1,-3.2,16\n"), r"line 1: expected a whole number for the class .*-3.2"),
        (rewrite("gt/labels.txt", "car\nbus\n"), r"labels.txt' names car, bus: none of them people"),
        (rewrite("gt/labels.txt", "person\n"), r"line 6: class 7 is not in labels.txt, which names 1 to 1"),
        (rewrite("gt/gt.txt", "1,1,5,5,5,5,1\n1,2,3"), r"gt.txt' line 2: expected 'frame,id,x,y"),
        (rewrite("gt/gt.txt", "1,1,5,5,5,nan,1\n"), r"gt.txt' line 1: expected 'frame,id,x,y"),
        (rewrite("gt/gt.txt", "\n1,1,5,5,0,5,1\n"), r"gt.txt' line 2: the box .* has no area"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], expected: str) -> None:
    damage(write_sequence(tmp_path / "A"))
    with pytest.raises(DataError, match=expected):
        MotDataset(tmp_path, config()).split("test")


def notes_of(root: Path, **settings: object) -> list[str]:
    """Notes of the test split, without the root."""
    return [note.replace(f"{root}/", "") for note in MotDataset(root, config(**settings)).split("test").notes]


def frames(first: int, last: int, step: int = 1, ids: int = 1) -> list[str]:
    return [f"{n},{k},{10 * k},10,20,40,1,1,1" for n in range(first, last + 1, step) for k in range(1, ids + 1)]


def test_a_person_who_has_left_the_picture_is_named(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", [*ROWS, "9,9,100,5,5,5,1", "10,9,-9,5,9,5,1"])
    line = f"rows left out because their box lies wholly outside the picture: 2 (line {len(ROWS) + 1}, "
    assert any(line in note for note in notes_of(tmp_path))


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", info=INFO + "camera=left\n")
    (tmp_path / "A" / "img1" / "cover.jpg").touch()
    (tmp_path / "A" / "img1" / ".DS_Store").touch()
    (tmp_path / "pictures").mkdir()
    (tmp_path / ".git").mkdir()
    notes = [
        f"'{tmp_path}': 1 folders are left out: neither seqinfo.ini nor gt/ in them (pictures)",
        "'A/seqinfo.ini': 1 settings are not known and not used (camera)",
        "'A/img1': 1 entries are left out: no frames, such as 000001.jpg (cover.jpg)",
        "'A/gt/gt.txt': 1 rows are left out, of classes that are not people (car from line 7 on)",
        "'A/gt/gt.txt': regions to ignore that have no area, left out: 1 (line 8)",
        "'A/gt/gt.txt': 1 of 12 rows are left out, of frames without a file: gt.txt names 7 frames from 1 to 10, there "
        "are 9 files from 1 to 10; add the files, or number both alike if pictures were left out and renumbered "
        "(frame 6)",
    ]
    assert notes_of(tmp_path) == notes
    assert [note.replace(f"{tmp_path}/", "") for note in MotDataset(tmp_path, config()).split("train").notes] == notes


def test_mot15_has_coordinates_instead_of_classes(tmp_path: Path) -> None:
    rows = [f"{n},1,10,10,20,40,1,{x},16.24,0.45" for n, x in ((1, -3.1), (2, 3.0), (3, 7.3), (9, 1.4), (10, 0))]
    write_sequence(tmp_path / "A", rows, skip=())
    split = MotDataset(tmp_path, config()).split("train")
    assert [len(scene.boxes) for scene in split.scenes] == [1, 1, 1, 0]
    assert not any(len(scene.ignore) for scene in split.scenes)
    note = notes_of(tmp_path)[0]
    assert "5 rows of 10 columns: the last three are taken for MOT15's world coordinates" in note


def test_classes_by_name(tmp_path: Path) -> None:
    rows = [f"1,{k},{10 * k},10,20,40,1,{k},1,0" for k in (1, 2, 3)]
    write_sequence(tmp_path / "A", rows, skip=())
    (tmp_path / "A" / "gt" / "labels.txt").write_bytes(b"\xef\xbb\xbfCar\r\nStatic_Person\r\npedestrian\r\n")
    scene = MotDataset(tmp_path, config()).split("train").scenes[0]
    assert scene.boxes.tolist() == [[30, 10, 50, 50]]
    assert scene.ignore.tolist() == [[20, 10, 40, 50]]
    assert "1 rows are left out, of classes that are not people (car from line 1 on)" in notes_of(tmp_path)[0]


@pytest.mark.parametrize(
    ("rows", "files", "expected"),
    [
        (frames(0, 9), range(1, 11), "a sign that all boxes are one frame off; number both alike (frame 0)"),
        (frames(1, 10), range(10), "a sign that all boxes are one frame off; number both alike (frame 10)"),
        (frames(1, 10), range(10, 101, 10), "a sign that frames were renumbered; number both alike (frame 1, frame 2,"),
        (frames(10, 100, 10), range(1, 11), "a sign that frames were renumbered; number both alike (frame 20,"),
        (frames(1, 50), range(1, 51, 5), "a sign that the pictures were thinned out; what is left is used (frame 2,"),
        (frames(1, 50), range(1, 6), "add the files, or number both alike if pictures were left out and renumbered"),
        (frames(3, 5), range(1, 6), None),
    ],
)
def test_frames_without_a_file(tmp_path: Path, rows: list[str], files: range, expected: str | None) -> None:
    write_sequence(tmp_path / "A", rows, INFO.replace("seqLength=10\n", ""), skip=tuple(range(1, 11)))
    for number in files:
        (tmp_path / "A" / "img1" / f"{number:06d}.jpg").touch()
    found = [note for note in notes_of(tmp_path) if "of frames without a file" in note]
    missing = sum(int(row.split(",")[0]) not in files for row in rows)
    assert len(found) == (expected is not None)
    if expected is not None:
        assert f"{missing} of {len(rows)} rows are left out" in found[0]
        assert expected in found[0]


def test_other_endings_are_read(tmp_path: Path) -> None:
    folder = write_sequence(tmp_path / "A", frames(1, 10), skip=()) / "img1"
    for number in (7, 8, 9):
        (folder / f"{number:06d}.jpg").rename(folder / f"{number:06d}.jpeg")
    (folder / "000010.jpg").rename(folder / "000010.JPG")
    (folder / "000001.png").touch()
    dataset = MotDataset(tmp_path, config())
    assert [scene.name for scene in dataset.split("test").scenes][-2:] == ["A/img1/000009.jpeg", "A/img1/000010.JPG"]
    assert dataset.split("train").scenes[0].name == "A/img1/000001.jpg"
    assert notes_of(tmp_path) == [
        "'A/img1': 1 files are left out: the frame is there with imExt's .jpg too (000001.png)",
        "'A/img1': 3 frames do not end in .jpg as imExt says; they are used (000007.jpeg, 000008.jpeg, 000009.jpeg)",
    ]


@pytest.mark.parametrize(
    ("length", "skip", "train", "noted"),
    [
        (10, (), 4, False),
        (600, (), 4, True),
        (5, (), 4, True),
        (0, (), 4, False),
        (10, (2, 4, 6, 8, 10), 2, False),
        (8, (2, 4, 6, 8, 10), 2, False),
        (11, (2, 4, 6, 8, 10), 2, True),
        (99, (2, 4, 6, 8, 10), 2, True),
    ],
)
def test_length_of_a_sequence(tmp_path: Path, length: int, skip: tuple[int, ...], train: int, noted: bool) -> None:
    write_sequence(tmp_path / "A", frames(1, 1), INFO.replace("seqLength=10", f"seqLength={length}"), skip=skip)
    assert len(MotDataset(tmp_path, config()).split("train").scenes) == train
    assert any(f"seqLength is {length}, but there are" in note for note in notes_of(tmp_path)) == noted


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_byte_order_marks_are_read(tmp_path: Path, encoding: str) -> None:
    folder = write_sequence(tmp_path / "A")
    expected = MotDataset(tmp_path, config()).split("test")
    (folder / "seqinfo.ini").write_text(INFO, encoding=encoding)
    (folder / "gt" / "gt.txt").write_text("\n".join(ROWS), encoding=encoding)
    found = MotDataset(tmp_path, config()).split("test")
    assert fingerprint(found) == fingerprint(expected)
    assert found.notes == expected.notes


def test_frame_rate_as_a_fraction(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", info=INFO.replace("frameRate=2", "frameRate=30000/1001"))
    assert MotDataset(tmp_path, config()).split("train").scenes[1].time == pytest.approx(1001 / 30000)


@pytest.mark.parametrize(
    ("given", "size"), [("imWidth=100", (100, 80)), ("imWidth=0", None), ("", None), ("imWidth=100.0", (100, 80))]
)
def test_declared_size(tmp_path: Path, given: str, size: tuple[int, int] | None) -> None:
    write_sequence(tmp_path / "A", info=INFO.replace("imWidth=100", given))
    assert MotDataset(tmp_path, config()).split("train").scenes[0].size == size


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        ({"mot_train_share": 1.0}, "test", "'A' has frames 1 to 10, those up to 10 train; change it"),
        ({"mot_train_share": 0.0}, "train", "'A' has frames 1 to 10, those up to 0 train; change it"),
        ({"mot_split": "sequence"}, "train", "by sequence gives 0 of 1 sequence.s. to training; .* `mot_split` time"),
    ],
)
def test_why_a_split_is_empty(tmp_path: Path, settings: dict[str, object], name: SplitName, expected: str) -> None:
    dataset = MotDataset(write_sequence(tmp_path / "A"), config(**settings))
    with pytest.raises(UsageError, match=f"the {name} split is empty: .*{expected}"):
        dataset.split(name)
    found = survey(dataset)
    assert [split.split for split in found.counts] == list({"train", "test"} - {name})
    assert any(f"the {name} split is empty" in note for note in found.notes)


def test_why_there_are_no_queries(tmp_path: Path) -> None:
    write_sequence(tmp_path / "A", frames(1, 10), skip=())
    assert notes_of(tmp_path, mot_min_gap=2.5) == []
    assert notes_of(tmp_path, mot_min_gap=2.6) == [
        f"'{tmp_path}': no test box is of a person seen again at least 2.6 s away: no queries; shorten `mot_min_gap`"
    ]


def test_of_a_person_twice_in_a_frame_the_first_box_is_asked_for(tmp_path: Path) -> None:
    rows = [*frames(1, 10), "10,1,60,10,20,40,1,1,1"]
    test = MotDataset(write_sequence(tmp_path / "A", rows, skip=()), config()).split("test")
    assert test.scenes[-1].person_ids.tolist() == [0, 0]
    assert [query.box.tolist() for query in test.queries if query.scene == 5] == [[10, 10, 30, 50]]


def test_folders_of_sequences_are_pointed_to(tmp_path: Path) -> None:
    write_sequence(tmp_path / "train" / "A")
    with pytest.raises(DataError, match=r"no sequence in .*; there are some in train: set `data_root`"):
        MotDataset(tmp_path, config()).split("test")


def test_queries_are_those_found_pair_by_pair(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("A", "B"):
        rows = [f"{n},{k},{10 * k},10,9,40,1" for n in range(1, 11) for k in range(8) if generator.random() < 0.3]
        write_sequence(tmp_path / name, [*rows, "5,-1,1,1,5,5,1", "9,-1,1,1,5,5,1"], INFO + "sharedIds=true\n", ())
    for gap in (0.0, 0.5, 1.5, 3.0):
        test = MotDataset(tmp_path, config(mot_min_gap=gap)).split("test")
        places = [(n, p) for n, scene in enumerate(test.scenes) for p in scene.person_ids.tolist() if p >= 0]
        expected = [
            (scene, person)
            for scene, person in places
            if any(
                other == person
                and n != scene
                and (
                    test.scenes[n].sequence != test.scenes[scene].sequence
                    or abs((test.scenes[n].time or 0) - (test.scenes[scene].time or 0)) >= gap - 1e-6
                )
                for n, other in places
            )
        ]
        assert expected
        assert [(query.scene, query.person_id) for query in test.queries] == expected


def test_wrong_questions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no sequence in .*; expected one folder per sequence"):
        MotDataset(tmp_path, config()).split("test")
    with pytest.raises(DataError, match="is not a folder"):
        MotDataset(tmp_path / "nowhere", config()).split("test")
    dataset = MotDataset(write_sequence(tmp_path / "A"), config())
    with pytest.raises(UsageError, match="`validation_share`"):
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
