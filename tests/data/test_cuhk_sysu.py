"""CUHK-SYSU loader on real MATLAB files of the published nesting."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from person_search.data import cuhk_sysu_files, parse_cache
from person_search.data.cuhk_sysu import CuhkSysuDataset
from person_search.data.scene import Protocol, ProtocolOptions
from person_search.errors import DataError, UsageError

Box = tuple[int, int, int, int]
A, B, C, D = (10, 20, 30, 40), (250, 20, 200, 250), (-3, 5, 30, 40), (7, 8, 9, 10)
IMAGES: dict[str, list[Box]] = {
    "s1.jpg": [A, B, A],
    "s2.jpg": [B, (5, 5, 0, 10)],
    "s3.jpg": [A, C],
    "s4.jpg": [B, D],
    "s5.jpg": [C],
    "s6.jpg": [(1, 1, 10, -2), D],
    "s7.jpg": [A],
}
POOL = ["s4.jpg", "s3.jpg", "s5.jpg", "s6.jpg", "s7.jpg"]
TRAIN: list[list[tuple[str, Box]]] = [[("s1.jpg", A), ("s2.jpg", B)], [("s1.jpg", B), ("s2.jpg", (5, 5, 0, 10))]]
Gallery = list[tuple[str, Box | None]]
G50: list[tuple[str, Box, Gallery]] = [
    ("s3.jpg", A, [("s4.jpg", B), ("s5.jpg", None), ("s7.jpg", A), ("s4.jpg", B)]),
    ("s4.jpg", D, [("s6.jpg", D), ("s3.jpg", C)]),
]


def structs(fields: Sequence[str], rows: Sequence[Sequence[object]]) -> np.ndarray:
    """A MATLAB 1 x N struct array."""
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for number, row in enumerate(rows):
        array[0, number] = tuple(row)
    return array


def cells(values: Sequence[object], column: bool = False) -> np.ndarray:
    array = np.empty((1, len(values)), dtype=object)
    for number, value in enumerate(values):
        array[0, number] = value
    return array.T if column else array


def numbers(box: Box | None) -> np.ndarray:
    """As MATLAB stores doubles: in the smallest integer type that holds them."""
    if box is None:
        return np.zeros((0, 0))
    return np.array([box], dtype=np.uint8 if min(box) >= 0 and max(box) < 256 else np.int16)


HARD = np.zeros((1, 1), np.uint8)


def write_gallery(folder: Path, size: int, rows: list[tuple[str, Box, Gallery]], compress: bool = True) -> Path:
    listed = [
        (
            structs(("imname", "idlocate", "ishard", "idname"), [(name, numbers(box), HARD, f"p{row}")]),
            structs(("imname", "idlocate", "ishard"), [(other, numbers(place), HARD) for other, place in gallery]),
        )
        for row, (name, box, gallery) in enumerate(rows)
    ]
    path = folder / "annotation" / "test" / "train_test" / f"TestG{size}.mat"
    savemat(path, {"other": 1.0, f"TestG{size}": structs(("Query", "Gallery"), listed)}, do_compression=compress)
    return path


def write_sysu(folder: Path, compress: bool = True) -> Path:
    protocols = folder / "annotation" / "test" / "train_test"
    protocols.mkdir(parents=True)
    images = [
        (name, float(len(boxes)), structs(("idlocate", "ishard"), [(numbers(box), HARD) for box in boxes]))
        for name, boxes in IMAGES.items()
    ]
    img = structs(("imname", "nAppear", "box"), images)
    savemat(folder / "annotation" / "Images.mat", {"Img": img}, do_compression=compress)
    savemat(folder / "annotation" / "pool.mat", {"pool": cells(POOL, column=True)}, do_compression=compress)
    train = [
        structs(
            ("idname", "nAppear", "scene"),
            [(f"p{k}", 2.0, structs(("imname", "idlocate", "ishard"), [(n, numbers(b), HARD) for n, b in scenes]))],
        )
        for k, scenes in enumerate(TRAIN)
    ]
    savemat(protocols / "Train.mat", {"Train": cells(train, column=True)}, do_compression=compress)
    write_gallery(folder, 50, G50, compress)
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_training_split(tmp_path: Path, compress: bool) -> None:
    write_sysu(tmp_path / "cuhk_sysu", compress)
    train = CuhkSysuDataset(tmp_path).split("train")
    assert (train.dataset, train.num_identities, train.queries) == ("cuhk-sysu", 2, [])
    assert train.image_root == tmp_path / "cuhk_sysu" / "Image" / "SSM"
    assert [scene.name for scene in train.scenes] == ["s1.jpg", "s2.jpg"]
    # The first of two equal boxes gets the identity; the box without width is gone.
    assert [scene.person_ids.tolist() for scene in train.scenes] == [[0, 1, -1], [0]]
    # Small unsigned integers in the file must not overflow: 250 + 200.
    assert train.scenes[0].boxes.tolist() == [[10, 20, 40, 60], [250, 20, 450, 270], [10, 20, 40, 60]]


def test_test_split(tmp_path: Path) -> None:
    test = CuhkSysuDataset(write_sysu(tmp_path)).split("test")
    assert [scene.name for scene in test.scenes] == POOL
    assert [(query.scene, query.person_id, query.box.tolist()) for query in test.queries] == [
        (1, 0, [10, 20, 40, 60]),
        (0, 1, [7, 8, 16, 18]),
    ]
    # Person 0 in s7 comes after the first scene without the person: it names no identity there.
    assert [scene.person_ids.tolist() for scene in test.scenes] == [[0, 1], [0, 1], [-1], [1], [-1]]
    assert test.scenes[1].boxes[1].tolist() == [-3, 5, 27, 45]
    assert test.scenes[3].boxes.tolist() == [[7, 8, 16, 18]]


def summary(protocol: Protocol) -> tuple[str, list[list[int]], list[int], list[int], list[list[float]]]:
    return (
        protocol.name,
        [np.flatnonzero(row).tolist() for row in protocol.in_gallery],
        protocol.truth_offsets.tolist(),
        protocol.truth_scenes.tolist(),
        protocol.truth_boxes.tolist(),
    )


def counts_and_notes(protocol: Protocol) -> tuple[list[int], tuple[str, ...]]:
    assert protocol.truth_counts is not None
    return protocol.truth_counts.tolist(), protocol.notes


def test_listed_galleries_and_whole_set(tmp_path: Path) -> None:
    dataset = CuhkSysuDataset(write_sysu(tmp_path))
    other = [("s3.jpg", A, [("s7.jpg", None), ("s4.jpg", B)]), ("s4.jpg", D, [("s3.jpg", C), ("s5.jpg", None)])]
    write_gallery(tmp_path, 100, other)
    test = dataset.split("test")
    boxes = {"A": [10, 20, 40, 60], "B": [250, 20, 450, 270], "C": [-3, 5, 27, 45], "D": [7, 8, 16, 18]}
    standard = dataset.protocol(test, ProtocolOptions())
    assert len(standard.notes) == 1
    assert "TestG100.mat': 2 queries list fewer than 100 gallery scenes (query 1, query 2)" in standard.notes[0]
    assert summary(standard) == ("gallery 100", [[0, 4], [1, 2]], [0, 1, 2], [0, 1], [boxes["B"], boxes["C"]])
    fifty = dataset.protocol(test, ProtocolOptions(gallery_size=50))
    truths = [boxes["B"], boxes["A"], boxes["D"], boxes["C"]]
    assert summary(fifty) == ("gallery 50", [[0, 2, 4], [1, 3]], [0, 2, 4], [0, 4, 3, 1], truths)
    whole = dataset.protocol(test, ProtocolOptions(gallery_size=-1))
    assert summary(whole) == ("whole set", [[0, 2, 3, 4], [1, 2, 3, 4]], [0, 2, 4], [0, 4, 3, 1], truths)


def test_scenes_listed_twice_and_own_scene(tmp_path: Path) -> None:
    dataset = CuhkSysuDataset(write_sysu(tmp_path))
    gallery: Gallery = [("s4.jpg", D), ("s3.jpg", C), ("s4.jpg", B), ("s5.jpg", None), ("s5.jpg", C)]
    write_gallery(tmp_path, 50, [("s3.jpg", A, gallery)])
    test = dataset.split("test")
    places = {"s3": [-3, 5, 27, 45], "s4": [7, 8, 16, 18], "s5": [-3, 5, 27, 45]}
    listed = dataset.protocol(test, ProtocolOptions(gallery_size=50))
    assert summary(listed)[1:] == ([[0, 1, 2]], [0, 3], [0, 1, 2], [places[name] for name in ("s4", "s3", "s5")])
    assert listed.truth_counts is not None
    assert listed.truth_counts.tolist() == [2, 1, 1]
    repeated, contradicted = listed.notes[1:]
    assert "2 gallery scenes are listed more than once" in repeated
    assert "the person's box counts as often as it is listed (query 1: 's4.jpg', query 1: 's5.jpg')" in repeated
    assert "2 of them are listed once with the person and once without, or with different boxes" in contradicted
    whole = dataset.protocol(test, ProtocolOptions(gallery_size=-1))
    assert summary(whole)[1:] == ([[0, 2, 3, 4]], [0, 2], [0, 2], [places[name] for name in ("s4", "s5")])
    assert whole.truth_counts is not None
    assert (whole.truth_counts.tolist(), whole.notes) == ([1, 1], ())


def test_what_is_parsed_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parse_cache, "WORTH_KEEPING", 0)

    def read(root: Path) -> list[object]:
        dataset = CuhkSysuDataset(root)
        train, test = dataset.split("train"), dataset.split("test")
        scenes = [(s.name, s.boxes.tolist(), s.person_ids.tolist()) for s in (*train.scenes, *test.scenes)]
        queries = [(query.scene, query.box.tolist(), query.person_id) for query in test.queries]
        protocol = dataset.protocol(test, ProtocolOptions(gallery_size=100))
        return [scenes, queries, train.notes, summary(protocol), counts_and_notes(protocol)]

    write_sysu(tmp_path / "set")
    path = write_gallery(tmp_path / "set", 100, G50)
    first = read(tmp_path / "set")
    with monkeypatch.context() as patch:
        for name in ("images", "identities", "galleries"):
            patch.setattr(cuhk_sysu_files, f"_parse_{name}", None)
        os.utime(path, ns=(1, 1))
        assert read(tmp_path / "set") == first
    write_gallery(tmp_path / "set", 100, [G50[0], ("s4.jpg", D, [("s6.jpg", D), ("s5.jpg", None), ("s7.jpg", None)])])
    os.utime(path, ns=(1, 1))
    changed = read(tmp_path / "set")
    assert changed[:3] == first[:3]
    assert changed[3][1] == [[0, 2, 4], [2, 3, 4]]  # type: ignore[index]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


PROTOCOLS = Path("annotation/test/train_test")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "annotation/Images.mat").unlink(), r"missing file '.*Images.mat'; expected CUHK-SYSU's layout"),
        (lambda f: (f / PROTOCOLS / "TestG50.mat").unlink(), r"missing file '.*TestG50.mat'; expected CUHK-SYSU"),
        (lambda f: truncate(f / "annotation/Images.mat"), r"Images.mat' is .*damaged"),
        (lambda f: truncate(f / PROTOCOLS / "TestG50.mat"), r"TestG50.mat' is .*damaged"),
        (lambda f: savemat(f / PROTOCOLS / "TestG50.mat", {"x": 1}), r"expected the variable TestG50, found x"),
        (
            lambda f: savemat(f / "annotation/pool.mat", {"pool": cells(["no.jpg"])}),
            r"pool.mat' names the image 'no.jpg'",
        ),
        (
            lambda f: savemat(f / "annotation/pool.mat", {"pool": np.ones((2, 2))}),
            r"pool.mat' is damaged: expected a cell",
        ),
        (
            lambda f: write_gallery(f, 50, [("s1.jpg", A, G50[0][2])]),
            r"TestG50.mat' query 1: the image 's1.jpg' is not in",
        ),
        (
            lambda f: write_gallery(f, 50, [("s3.jpg", D, G50[0][2])]),
            r"query 1: the box \(7, 8, 9, 10\) matches no annot",
        ),
        (lambda f: write_gallery(f, 50, [G50[0], ("s4.jpg", D, [])]), r"query 2: the gallery is empty"),
        (lambda f: write_gallery(f, 50, [("s3.jpg", A, [("s9.jpg", None)])]), r"query 1: the image 's9.jpg' is not in"),
        (
            lambda f: write_gallery(f, 50, [("s3.jpg", A, [("s4.jpg", A)])]),
            r"query 1: the box .* no annotation of 's4.jpg'",
        ),
        (lambda f: write_gallery(f, 50, []), r"TestG50.mat' holds no queries"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], expected: str) -> None:
    damage(write_sysu(tmp_path))
    with pytest.raises(DataError, match=expected):
        CuhkSysuDataset(tmp_path).split("test")


def test_boxes_that_are_not_used_are_named(tmp_path: Path) -> None:
    dataset = CuhkSysuDataset(write_sysu(tmp_path))
    annotation = tmp_path / "annotation"
    assert dataset.split("train").notes == (
        f"'{annotation / 'Images.mat'}': 1 boxes without width or height are left out (s2.jpg)",
        f"'{tmp_path / PROTOCOLS / 'Train.mat'}': 1 boxes without width or height are left out (identity 2 in s2.jpg)",
    )
    assert dataset.split("test").notes == (
        f"'{annotation / 'Images.mat'}': 1 boxes without width or height are left out (s6.jpg)",
        f"'{tmp_path / PROTOCOLS / 'TestG50.mat'}': 2 boxes after the first gallery image without the person give no "
        "identity, only a true match (query 1 in s7.jpg, query 1 in s4.jpg)",
    )


NEAR_B, FAR_B = (252, 20, 200, 250), (272, 20, 200, 250)
"""B moved by 2 pixels (IoU 0.98) and by 22 (0.80)."""


def test_nearest_box_stands_for_one_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TRAIN", [[("s1.jpg", A), ("s2.jpg", NEAR_B)], [("s1.jpg", NEAR_B)]])
    dataset = CuhkSysuDataset(write_sysu(tmp_path))
    moved: list[tuple[str, Box, Gallery]] = [("s4.jpg", NEAR_B, [("s7.jpg", A), ("s5.jpg", None)])]
    write_gallery(tmp_path, 50, moved)
    write_gallery(tmp_path, 100, moved)
    train, test = dataset.split("train"), dataset.split("test")
    assert [scene.person_ids.tolist() for scene in train.scenes] == [[0, 1, -1], [0]]
    what = "2 boxes are not exactly in Images.mat; the nearest there (IoU of 0.9 or more) is taken"
    assert train.notes[-1].endswith(f"Train.mat': {what} (identity 1 in s2.jpg, identity 2 in s1.jpg)")
    assert test.scenes[0].person_ids.tolist() == [0, -1]
    assert test.queries[0].box.tolist() == [252, 20, 452, 270]
    assert test.notes[-1].endswith("(query 1 in s4.jpg)")
    protocol = dataset.protocol(test, ProtocolOptions())
    assert "TestG100.mat': 1 boxes are not exactly in Images.mat" in "".join(protocol.notes)


def test_identities_without_box_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TRAIN", [[], [("s1.jpg", A)], [("s2.jpg", (5, 5, 0, 10))]])
    train = CuhkSysuDataset(write_sysu(tmp_path)).split("train")
    assert train.num_identities == 3
    assert any(note.endswith("2 identities have no box (identity 1, identity 3)") for note in train.notes)


def test_a_box_of_two_people_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "TRAIN", [[("s1.jpg", A), ("s2.jpg", B)], [("s2.jpg", B)]])
    train = CuhkSysuDataset(write_sysu(tmp_path)).split("train")
    assert [scene.person_ids.tolist() for scene in train.scenes] == [[0, -1, -1], [1]]
    assert train.notes[-1].endswith("1 boxes are given to two people; the later one has them (s2.jpg)")


@pytest.mark.parametrize("box", [FAR_B, D])
def test_training_box_without_annotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    monkeypatch.setitem(globals(), "TRAIN", [[("s1.jpg", A)], [("s2.jpg", box)]])
    with pytest.raises(DataError, match=r"Train.mat' identity 2: the box .* matches no annotation of 's2.jpg'"):
        CuhkSysuDataset(write_sysu(tmp_path)).split("train")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (G50[:1], r"TestG100.mat' holds 1 queries; expected 2"),
        ([*G50, G50[0]], r"TestG100.mat' holds more queries than the 2"),
        ([G50[1], G50[0]], r"TestG100.mat' query 1 \('s4.jpg'\) is not the query of that row"),
    ],
)
def test_protocol_of_other_queries(tmp_path: Path, rows: list[tuple[str, Box, Gallery]], expected: str) -> None:
    dataset = CuhkSysuDataset(write_sysu(tmp_path))
    write_gallery(tmp_path, 100, rows)
    with pytest.raises(DataError, match=expected):
        dataset.protocol(dataset.split("test"), ProtocolOptions())


def test_wrong_questions(tmp_path: Path) -> None:
    dataset = CuhkSysuDataset(write_sysu(tmp_path))
    test = dataset.split("test")
    with pytest.raises(UsageError, match="gallery size 70 is not one of 50, 100"):
        dataset.protocol(test, ProtocolOptions(gallery_size=70))
    with pytest.raises(UsageError, match="no cameras"):
        dataset.protocol(test, ProtocolOptions(cross_camera=True))
    with pytest.raises(DataError, match=r"missing file .*TestG100.mat.* gallery sizes in this folder: 50"):
        dataset.protocol(test, ProtocolOptions())
    with pytest.raises(UsageError, match="`validation_share`"):
        dataset.split("val")
