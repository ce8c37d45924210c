"""Every layout as its published loaders read it, and as ours do."""

from __future__ import annotations

import configparser
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

from person_search.data.coco import CocoDataset
from person_search.data.cuhk_sysu import CuhkSysuDataset
from person_search.data.mot import MotDataset
from person_search.data.prw import PrwDataset
from person_search.data.scene import Dataset, ProtocolOptions, SplitName
from person_search.data.settings import MotSettings
from person_search.data.writers import WRITERS
from person_search.data.writers.records import QueryRecord, SceneRecord, choose_queries

LIMIT = 0.4


def scene(
    layout: str, number: int, split: SplitName, camera: int, frame: int, people: list[tuple[int, float]]
) -> SceneRecord:
    """A scene of 100 x 80 pixels with people (id, visibility); every box of the set is another one."""
    rng = np.random.default_rng(number)
    corner = rng.integers(0, 40, (len(people), 2))
    size = rng.integers(10, 40, (len(people), 2))
    ids, visibility = zip(*people, strict=True) if people else ((), ())
    return SceneRecord(
        split, camera, frame, WRITERS[layout].image_path(number, split, camera, frame), 100, 80,
        np.concatenate([corner, corner + size], axis=1), np.array(ids, np.int64), np.array(visibility, np.float64),
    )  # fmt: skip


def small_set(layout: str) -> list[SceneRecord]:
    return [
        scene(layout, 0, "train", 1, 1, [(0, 1.0), (-1, 0.9)]),
        scene(layout, 1, "train", 2, 1, [(0, 0.6), (1, 0.1)]),
        scene(layout, 2, "train", 1, 2, [(2, 1.0)]),
        scene(layout, 3, "val", 1, 3, [(3, 1.0)]),
        scene(layout, 4, "val", 2, 2, [(3, 1.0), (-1, 0.2)]),
        scene(layout, 5, "test", 1, 4, [(4, 1.0), (5, 0.5)]),
        scene(layout, 6, "test", 1, 5, [(-1, 1.0), (4, 0.9)]),
        scene(layout, 7, "test", 2, 3, [(5, 0.8), (6, 0.9), (4, 0.3)]),
        scene(layout, 8, "test", 2, 4, []),
        scene(layout, 9, "test", 2, 5, [(5, 1.0)]),
    ]


def written(tmp_path: Path, layout: str, scenes: list[SceneRecord] | None = None) -> list[SceneRecord]:
    scenes = small_set(layout) if scenes is None else scenes
    for record in scenes:
        (tmp_path / record.path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / record.path).touch()
    WRITERS[layout].write(tmp_path, scenes, LIMIT)
    return scenes


def test_queries_are_clear_and_cross_camera_where_possible() -> None:
    scenes = small_set("coco")[5:]
    # Person 4 is shown by camera 1 alone; 5 is clearest in scenes 2 and 4; 6 is there once and 4's third is hidden.
    queries = choose_queries(scenes, LIMIT)
    people = [scenes[query.scene].person_ids[query.row] for query in queries]
    assert people == [4, 5]
    assert queries[0].scene in (0, 1)
    assert queries[1] in (QueryRecord(2, 0), QueryRecord(4, 0))


def test_query_of_middle_height_is_taken() -> None:
    records = [scene("coco", n, "test", n + 1, 1, [(0, 1.0)]) for n in range(5)]
    for record, height in zip(records, (10, 50, 20, 30, 40), strict=True):
        record.boxes[0] = (0, 0, 10, height)
    assert choose_queries(records, LIMIT) == [QueryRecord(3, 0)]


def test_coco_files(tmp_path: Path) -> None:
    scenes = written(tmp_path, "coco")
    train = json.loads((tmp_path / "train.json").read_text())
    assert [image["file_name"] for image in train["images"]] == ["c1/000001.jpg", "c2/000001.jpg", "c1/000002.jpg"]
    assert [image["camera"] for image in train["images"]] == [1, 2, 1]
    hidden = [a for a in train["annotations"] if a["iscrowd"]]
    assert [(a["image_id"], a["visibility"], "person_id" in a) for a in hidden] == [(2, 0.1, False)]
    assert train["annotations"][0]["bbox"] == scenes[0].boxes_xywh()[0].tolist()
    assert "queries" not in train
    test = json.loads((tmp_path / "test.json").read_text())
    assert [query["person_id"] for query in test["queries"]] == [4, 5]
    assert len({a["id"] for a in test["annotations"]}) == len(test["annotations"])


def test_mot_files(tmp_path: Path) -> None:
    scenes = written(tmp_path, "mot")
    info = configparser.ConfigParser()
    info.read(tmp_path / "camera-02" / "seqinfo.ini")
    assert dict(info["Sequence"]) == {
        "name": "camera-02",
        "imdir": "img1",
        "framerate": "1",
        "seqlength": "5",
        "imwidth": "100",
        "imheight": "80",
        "imext": ".jpg",
        "sharedids": "true",
    }
    rows = np.loadtxt(tmp_path / "camera-02" / "gt" / "gt.txt", delimiter=",")
    assert rows[:, 0].tolist() == [1, 1, 2, 2, 3, 3, 3, 5]
    assert rows[:, 1].tolist() == [1, 2, 4, -1, 6, 7, 5, 6]
    assert rows[:, 6].tolist() == [1, 0, 1, 0, 1, 1, 0, 1]
    assert rows[0, 2:6].tolist() == scenes[1].boxes_xywh()[0].tolist()
    assert (tmp_path / "camera-02" / "img1" / "000005.jpg").is_file()


def test_cuhk_sysu_files_nest_as_the_published_ones(tmp_path: Path) -> None:
    scenes = written(tmp_path, "cuhk-sysu")
    images = loadmat(tmp_path / "annotation" / "Images.mat")["Img"].squeeze()
    assert [str(name[0]) for name, _, _ in images] == [f"s{n}.jpg" for n in range(1, 11)]
    for record, (_, appear, boxes) in zip(scenes, images, strict=True):
        read = np.asarray([box[0] for box in boxes[0]]).reshape(-1, 4)
        assert read.tolist() == record.boxes_xywh()[record.shown(LIMIT)].tolist()
        assert appear[0, 0] == len(read)
    pool = loadmat(tmp_path / "annotation" / "pool.mat")["pool"].squeeze()
    assert [str(name[0]) for name in pool] == [f"s{n}.jpg" for n in range(6, 11)]
    protocols = tmp_path / "annotation" / "test" / "train_test"
    train = loadmat(protocols / "Train.mat")["Train"].squeeze()
    entries = [item[0, 0] for item in train]
    assert [str(entry["idname"][0]) for entry in entries] == ["p1", "p3", "p4"]
    first = [(str(name[0]), box.squeeze().tolist(), hard.item()) for name, box, hard in entries[0]["scene"].squeeze()]
    assert first == [
        ("s1.jpg", scenes[0].boxes_xywh()[0].tolist(), 0),
        ("s2.jpg", scenes[1].boxes_xywh()[0].tolist(), 1),
    ]
    assert [path.name for path in sorted(protocols.glob("TestG*"))] == ["TestG50.mat"]
    protocol = loadmat(protocols / "TestG50.mat")["TestG50"].squeeze()
    assert [str(item["Query"][0, 0]["idname"][0]) for item in protocol] == ["p5", "p6"]
    query = protocol["Query"][0]
    assert str(query["imname"][0, 0][0]) in ("s6.jpg", "s7.jpg")
    gallery = [(str(item[0][0]), item[1][0].tolist()) for item in protocol["Gallery"][0].squeeze()]
    # The person is first; scenes without the person follow with an empty 1 x 0 box; the hidden view is in neither.
    assert gallery[0][1]
    assert sorted(name for name, box in gallery[1:] if not box) == ["s10.jpg", "s9.jpg"]
    assert len(gallery) == 3


def test_cuhk_sysu_writes_the_gallery_sizes_that_fit(tmp_path: Path) -> None:
    scenes = [scene("cuhk-sysu", n, "test", 1, n + 1, [(0, 1.0)] if n < 3 else [(-1, 1.0)]) for n in range(104)]
    scenes.append(scene("cuhk-sysu", 104, "train", 1, 105, [(1, 1.0)]))
    written(tmp_path, "cuhk-sysu", scenes)
    folder = tmp_path / "annotation" / "test" / "train_test"
    assert {path.name for path in folder.glob("TestG*")} == {"TestG50.mat", "TestG100.mat"}
    for size in (50, 100):
        gallery = loadmat(folder / f"TestG{size}.mat")[f"TestG{size}"].squeeze()["Gallery"].item().squeeze()
        names = [str(item[0][0]) for item in gallery]
        assert len(set(names)) == size
        assert [bool(item[1].size) for item in gallery] == [True, True] + [False] * (size - 2)


def test_prw_files(tmp_path: Path) -> None:
    scenes = written(tmp_path, "prw")
    names = [
        set(loadmat(tmp_path / "annotations" / f"{s.name}.mat")) & {"box_new", "anno_file", "anno_previous"}
        for s in scenes
    ]
    assert names[:4] == [{"box_new"}, {"anno_file"}, {"anno_previous"}, {"box_new"}]
    table = loadmat(tmp_path / "annotations" / "c1s1_000001.jpg.mat")["box_new"]
    assert table[:, 0].tolist() == [1, -2]
    assert table[:, 1:].tolist() == scenes[0].boxes_xywh().tolist()
    assert loadmat(tmp_path / "annotations" / "c2s1_000001.jpg.mat")["anno_file"][:, 0].tolist() == [1]
    frames = loadmat(tmp_path / "frame_test.mat")["img_index_test"]
    assert [str(frame[0][0]) for frame in frames] == [
        "c1s1_000004", "c1s1_000005", "c2s1_000003", "c2s1_000004", "c2s1_000005",
    ]  # fmt: skip
    assert len(loadmat(tmp_path / "frame_train.mat")["img_index_train"]) == 5
    assert loadmat(tmp_path / "ID_train.mat")["ID_train"].tolist() == [[1, 3, 4]]
    lines = (tmp_path / "query_info.txt").read_bytes().split(b"\r\n")
    assert lines[-1] == b""
    words = lines[0].decode().split(" ")
    assert words[0] == "5"
    assert words[5] in ("c1s1_000004", "c1s1_000005")
    assert len(words) == 6
    assert (tmp_path / "prwmini_query_info.txt").read_bytes() == lines[0] + b"\r\n"


@pytest.mark.parametrize(
    ("layout", "loader"),
    [("coco", CocoDataset), ("cuhk-sysu", CuhkSysuDataset), ("prw", PrwDataset), ("mot", MotDataset)],
)
def test_loaders_read_back_what_was_written(tmp_path: Path, layout: str, loader: type[Dataset]) -> None:
    scenes = written(tmp_path, layout)
    dataset = loader(tmp_path, MotSettings(mot_split="sequence", mot_min_gap=1.0) if layout == "mot" else None)
    read = {}
    for name in ("train", "test") if layout != "coco" else ("train", "val", "test"):
        for found in dataset.split(name).scenes:
            read[found.name.rpartition("/")[0][-10:] + found.name.rpartition("/")[2]] = found
    assert len(read) == len(scenes)
    ignored = 0
    for record in scenes:
        path = record.path.removeprefix("images/") if layout in ("coco", "mot") else record.name
        found = read[path.rpartition("/")[0][-10:] + path.rpartition("/")[2]]
        shown = record.shown(LIMIT)
        assert found.boxes.tolist() == record.boxes[shown].tolist()
        # CUHK-SYSU names test identities by its queries: somebody seen once there has none.
        if layout != "cuhk-sysu":
            assert (found.person_ids >= 0).tolist() == (record.person_ids[shown] >= 0).tolist()
        ignored += len(found.ignore)
    assert ignored == (3 if layout in ("coco", "mot") else 0)


@pytest.mark.parametrize(
    ("layout", "loader"), [("cuhk-sysu", CuhkSysuDataset), ("prw", PrwDataset), ("coco", CocoDataset)]
)
def test_loaders_find_the_queries_and_their_people(tmp_path: Path, layout: str, loader: type[Dataset]) -> None:
    scenes = [s for s in written(tmp_path, layout) if s.split == "test"]
    dataset = loader(tmp_path)
    split = dataset.split("test")
    expected = choose_queries(scenes, LIMIT)
    assert [query.scene for query in split.queries] == [query.scene for query in expected]
    assert [query.box.tolist() for query in split.queries] == [scenes[q.scene].boxes[q.row].tolist() for q in expected]
    protocol = dataset.protocol(split, ProtocolOptions(gallery_size=50 if layout == "cuhk-sysu" else None))
    assert np.diff(protocol.truth_offsets).tolist() == [1, 2]
