"""PRW loader on real MATLAB files of the published nesting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from person_search.data import parse_cache, prw
from person_search.data.prw import PrwDataset, annotation_boxes, query_box
from person_search.data.scene import ProtocolOptions
from person_search.data.settings import PrwSettings
from person_search.errors import DataError, UsageError

ANNOTATIONS = {
    "c1s1_000151": ("box_new", [[7, 10.9, 20.2, 30.7, 40.9], [-2, 1, 2, 3, 4]]),
    "c2s1_000201": ("anno_file", [[480, -5.5, -3, 20, 30]]),
    "c1s2_000301": ("box_new", [[500, 5, 5, 20, 40], [12, 100, 50, 20, 40]]),
    "c3s1_000401": ("anno_previous", [[500, 60, 5, 20, 40], [-2, 9, 9, 0, 10]]),
    "c3s1_000426": ("box_new", [[500, -4, 5, 20, 40], [12, 50, 50, 20, 40]]),
    "c6s1_000501": ("box_new", np.zeros((0, 5))),
}
TRAIN = ["c2s1_000201", "c1s1_000151"]
TEST = ["c3s1_000401", "c1s2_000301", "c3s1_000426", "c6s1_000501"]


def cells(names: list[str]) -> np.ndarray:
    column = np.empty((len(names), 1), dtype=object)
    column[:, 0] = names
    return column


def write_prw(folder: Path, compress: bool = True) -> Path:
    (folder / "annotations").mkdir(parents=True)
    for name, (variable, rows) in ANNOTATIONS.items():
        path = folder / "annotations" / f"{name}.jpg.mat"
        savemat(path, {"other": 1.0, variable: np.array(rows, dtype=np.float64)}, do_compression=compress)
    savemat(folder / "frame_train.mat", {"img_index_train": cells(TRAIN)}, do_compression=compress)
    savemat(folder / "frame_test.mat", {"img_index_test": cells(TEST)}, do_compression=compress)
    savemat(folder / "ID_train.mat", {"ID_train": np.array([[480, 7, 932]], np.uint16)}, do_compression=compress)
    lines = ["500 5 5 20 40 c1s2_000301", "12 50.9 50 20.2 40 c3s1_000426", "500 -4 5 20 40 c3s1_000426"]
    (folder / "query_info.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    (folder / "prwmini_query_info.txt").write_bytes(f"{lines[1]}\r\n".encode())
    return folder


@pytest.mark.parametrize("compress", [True, False])
def test_training_split(tmp_path: Path, compress: bool) -> None:
    write_prw(tmp_path / "PRW", compress)
    train = PrwDataset(tmp_path).split("train")
    assert [scene.name for scene in train.scenes] == ["c2s1_000201.jpg", "c1s1_000151.jpg"]
    assert train.image_root == tmp_path / "PRW" / "frames"
    assert (train.num_identities, train.queries) == (3, [])
    # ID_train sorted is 7, 480, 932.
    assert train.scenes[0].person_ids.tolist() == [1]
    assert train.scenes[0].boxes.tolist() == [[0, 0, 20, 30]]
    assert train.scenes[1].person_ids.tolist() == [0, -1]
    assert train.scenes[1].boxes.tolist() == [[10, 20, 41, 61], [1, 2, 4, 6]]
    assert [scene.camera for scene in train.scenes] == [2, 1]
    assert (train.scenes[1].sequence, train.scenes[1].time) == ("c1s1", 151 / 25)


def test_test_split_and_galleries(tmp_path: Path) -> None:
    dataset = PrwDataset(write_prw(tmp_path))
    test = dataset.split("test")
    assert test.num_identities == 2
    assert [scene.person_ids.tolist() for scene in test.scenes] == [[1], [1, 0], [1, 0], []]
    assert [(query.scene, query.person_id) for query in test.queries] == [(1, 1), (2, 0), (2, 1)]
    assert test.queries[1].box.tolist() == [50, 50, 71, 90]
    assert test.queries[2].box.tolist() == [0, 5, 16, 45]
    assert test.scenes[2].boxes[0].tolist() == [0, 5, 20, 45]
    everywhere = dataset.protocol(test, ProtocolOptions())
    assert everywhere.in_gallery.tolist() == [
        [True, False, True, True],
        [True, True, False, True],
        [True, True, False, True],
    ]
    assert everywhere.truth_scenes.tolist() == [0, 2, 1, 0, 1]
    assert everywhere.truth_offsets.tolist() == [0, 2, 3, 5]
    across = dataset.protocol(test, ProtocolOptions(cross_camera=True))
    assert across.in_gallery.tolist() == [
        [True, False, True, True],
        [False, True, False, True],
        [False, True, False, True],
    ]
    assert across.truth_scenes.tolist() == [0, 2, 1, 1]


def test_mini_queries(tmp_path: Path) -> None:
    write_prw(tmp_path)
    test = PrwDataset(tmp_path, PrwSettings(queries="mini")).split("test")
    assert [(query.scene, query.person_id) for query in test.queries] == [(2, 0)]


def test_rounding_orders_differ() -> None:
    rows = np.array([[-4.5, 5.5, 20.9, 10.9], [3.7, 2.6, -1.0, 4.5]])
    assert annotation_boxes(rows).tolist() == [[0, 5, 20, 16], [3, 2, 3, 7]]
    assert query_box(-4.5, 5.5, 20.9, 10.9).tolist() == [0, 5, 16, 16]
    assert query_box(-4.5, -3.2, 4.0, 3.9).tolist() == [0, 0, 0, 0]


def rewrite_queries(folder: Path, line: str) -> None:
    (folder / "query_info.txt").write_bytes(line.encode() + b"\r\n")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "frame_test.mat").unlink(), r"missing file '.*frame_test.mat'; expected PRW's layout"),
        (lambda f: (f / "query_info.txt").unlink(), r"missing file '.*query_info.txt'"),
        (lambda f: (f / "annotations" / "c3s1_000401.jpg.mat").unlink(), r"missing file '.*c3s1_000401.jpg.mat'"),
        (lambda f: truncate(f / "annotations" / "c3s1_000401.jpg.mat"), r"'.*c3s1_000401.jpg.mat' is .*damaged"),
        (lambda f: truncate(f / "frame_test.mat"), r"'.*frame_test.mat' is .*damaged"),
        (
            lambda f: savemat(f / "annotations" / "c3s1_000401.jpg.mat", {"wrong": 1.0}),
            r"expected the variable box_new or anno_file or anno_previous, found wrong",
        ),
        (
            lambda f: savemat(f / "annotations" / "c3s1_000401.jpg.mat", {"box_new": np.ones((2, 4))}),
            r"expected rows of id, x, y, w, h, found 4 columns",
        ),
        (
            lambda f: savemat(f / "annotations" / "c3s1_000401.jpg.mat", {"box_new": np.full((2, 5), np.nan)}),
            r"c3s1_000401.jpg.mat' holds a number that is not finite",
        ),
        (
            lambda f: savemat(f / "annotations" / "c3s1_000401.jpg.mat", {"box_new": np.full((2, 5), 1.5)}),
            r"c3s1_000401.jpg.mat' holds an id that is not a whole number",
        ),
        (
            lambda f: rewrite_queries(f, "500 5 5 20 40 c1s1_000151"),
            r"line 1: .*'c1s1_000151' is not in frame_test.mat",
        ),
        (lambda f: rewrite_queries(f, "500 5 5 20 c1s2_000301"), r"line 1: expected 'id x y w h name'"),
        (lambda f: rewrite_queries(f, "500 5 5 20 40 c6s1_000501"), r"matches no annotation of person 500"),
        (lambda f: rewrite_queries(f, "500 99 5 20 40 c1s2_000301"), r"matches no annotation of person 500"),
        (lambda f: rewrite_queries(f, "3 5 5 20 40 c1s2_000301"), r"matches no annotation of person 3"),
        (lambda f: rewrite_queries(f, ""), r"query_info.txt' holds no queries"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], expected: str) -> None:
    damage(write_prw(tmp_path))
    with pytest.raises(DataError, match=expected):
        PrwDataset(tmp_path).split("test")


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    folder = write_prw(tmp_path) / "annotations"
    what = "boxes without area are left out (clipped at 0 and in whole pixels, as the set is read)"
    identities = f"'{tmp_path / 'ID_train.mat'}': 1 identities have no box in the training frames (932)"
    assert PrwDataset(tmp_path).split("train").notes == (identities,)
    assert PrwDataset(tmp_path).split("test").notes == (f"'{folder}': 1 {what} (c3s1_000401)",)
    assert PrwDataset(tmp_path).notes() == ()
    savemat(folder / "c6s1_000501.jpg.mat", {"box_new": np.array([[900, 5, 5, 0.5, 40], [900, 5, 5, -3, 40]])})
    savemat(folder / "c6s1_000777.jpg.mat", {"box_new": np.ones((1, 5))})
    dataset = PrwDataset(tmp_path)
    assert dataset.split("test").scenes[-1].boxes.shape == (0, 4)
    assert dataset.split("test").notes == (f"'{folder}': 3 {what} (c3s1_000401, c6s1_000501)",)
    (line,) = dataset.notes()
    assert line.startswith(f"'{folder}': 1 files are of frames that neither frame_train.mat nor frame_test.mat lists")
    assert line.endswith("(c6s1_000777.jpg.mat)")


def test_a_frame_in_both_lists_is_refused(tmp_path: Path) -> None:
    write_prw(tmp_path)
    both = np.array([["c1s1_000151"], ["c2s1_000201"]], dtype=object)
    savemat(tmp_path / "frame_test.mat", {"img_index_test": both})
    with pytest.raises(DataError, match=r"frame_test.mat' and frame_train.mat both list the frame 'c1s1_000151'"):
        PrwDataset(tmp_path).split("test")


def test_what_is_parsed_is_kept_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(parse_cache, "WORTH_KEEPING", 0)

    def read() -> list[object]:
        splits = [PrwDataset(tmp_path / "set").split(name) for name in ("train", "test")]
        return [(s.name, s.boxes.tolist(), s.person_ids.tolist()) for split in splits for s in split.scenes]

    write_prw(tmp_path / "set")
    first = read()
    with monkeypatch.context() as patch:
        patch.setattr(prw, "_parse_annotations", None)
        assert read() == first
    path = tmp_path / "set" / "annotations" / "c6s1_000501.jpg.mat"
    savemat(path, {"box_new": np.array([[-2, 1, 2, 30, 40]])})
    changed = read()
    assert [pair for pair in zip(first, changed, strict=True) if pair[0] != pair[1]] == [
        (("c6s1_000501.jpg", [], []), ("c6s1_000501.jpg", [[1, 2, 31, 42]], [-1]))
    ]


def test_unknown_training_identity(tmp_path: Path) -> None:
    write_prw(tmp_path)
    savemat(tmp_path / "ID_train.mat", {"ID_train": np.array([[7.0]])})
    with pytest.raises(DataError, match=r"c2s1_000201.jpg.mat': person 480 is not in ID_train.mat"):
        PrwDataset(tmp_path).split("train")


def test_wrong_questions(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected PRW's layout"):
        PrwDataset(tmp_path).split("test")
    with pytest.raises(DataError, match="is not a folder"):
        PrwDataset(tmp_path / "nowhere").split("test")
    dataset = PrwDataset(write_prw(tmp_path))
    with pytest.raises(UsageError, match="`validation_share`"):
        dataset.split("val")
    with pytest.raises(UsageError, match="gallery sizes"):
        dataset.protocol(dataset.split("test"), ProtocolOptions(gallery_size=50))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1e300, -1e12])
@pytest.mark.parametrize("column", [0, 3])
def test_annotations_beyond_measure_are_refused(tmp_path: Path, number: float, column: int) -> None:
    write_prw(tmp_path)
    rows = np.array([[500, 60, 5, 20, 40]], dtype=np.float64)
    rows[0, column] = number
    savemat(tmp_path / "annotations" / "c3s1_000401.jpg.mat", {"box_new": rows})
    with pytest.raises(DataError, match=r"c3s1_000401.jpg.mat' holds a number that is not finite or not below 1e\+09"):
        PrwDataset(tmp_path).split("test")


@pytest.mark.parametrize(("identity", "shown"), [(np.nan, "nan"), (8.5, "8.5"), (-2, "-2"), (1e300, "1e\\+300")])
def test_training_identities_are_whole_numbers(tmp_path: Path, identity: float, shown: str) -> None:
    write_prw(tmp_path)
    savemat(tmp_path / "ID_train.mat", {"ID_train": np.array([[480, 7, identity]])})
    with pytest.raises(DataError, match=rf"ID_train.mat': expected ids that are whole numbers from 0, found {shown}"):
        PrwDataset(tmp_path).split("train")


@pytest.mark.parametrize("number", ["nan", "inf", "1e300"])
def test_query_boxes_beyond_measure_are_refused(tmp_path: Path, number: str) -> None:
    write_prw(tmp_path)
    rewrite_queries(tmp_path, f"500 5 5 {number} 40 c1s2_000301")
    with pytest.raises(DataError, match=r"query_info.txt' line 1: expected 'id x y w h name'"):
        PrwDataset(tmp_path).split("test")


def test_query_boxes_off_their_annotation_are_named(tmp_path: Path) -> None:
    write_prw(tmp_path)
    assert not any("queries' boxes" in note for note in PrwDataset(tmp_path).split("test").notes)
    rewrite_queries(tmp_path, "500 20 35 20 40 c1s2_000301")
    test = PrwDataset(tmp_path).split("test")
    assert test.queries[0].box.tolist() == [20, 35, 40, 75]
    assert any("1 queries' boxes are not those annotated" in n and n.endswith("(line 1)") for n in test.notes)
