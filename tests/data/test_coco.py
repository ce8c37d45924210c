"""COCO-style loader: what a file may say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from person_search.data.coco import CocoDataset
from person_search.data.scene import ProtocolOptions
from person_search.errors import DataError, UsageError

Tree = dict[str, Any]


def annotation(number: int, image: int, bbox: list[float], **more: Any) -> Tree:
    return {"id": number, "image_id": image, "bbox": bbox, **more}


def tree() -> Tree:
    return {
        "images": [
            {"id": 40, "file_name": "cam\\b.jpg", "camera": 2, "width": 100, "height": 50},
            {"id": 7, "file_name": "a.jpg", "camera": 1},
            {"id": 9, "file_name": "c.jpg", "camera": 1, "width": 100, "height": 50},
        ],
        "annotations": [
            annotation(1, 7, [1, 2, 3, 4], person_id=900),
            annotation(2, 40, [-5, 6.5, 200, 8], person_id=30),
            annotation(3, 7, [2, 2, 5, 5], person_id=-1),
            annotation(4, 9, [10, 20, 30, 40], person_id=900),
            annotation(5, 9, [0, 0, 9, 9], iscrowd=1),
            annotation(6, 9, [0, 0, 6, 6]),
            annotation(7, 40, [1, 1, 4, 4], person_id=900),
        ],
    }


def write(folder: Path, name: str, content: Tree) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))
    return folder


def test_scenes_and_first_box_queries(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    dataset = CocoDataset(write(tmp_path, "test.json", tree()))
    test = dataset.split("test")
    assert (test.dataset, test.num_identities, test.image_root) == ("coco", 2, tmp_path / "images")
    assert [(scene.name, scene.camera) for scene in test.scenes] == [("cam/b.jpg", 2), ("a.jpg", 1), ("c.jpg", 1)]
    assert [scene.person_ids.tolist() for scene in test.scenes] == [[0, 1], [1, -1], [1, -1]]
    assert test.scenes[0].boxes.tolist() == [[-5, 6.5, 195, 14.5], [1, 1, 5, 5]]
    assert test.scenes[2].ignore.tolist() == [[0, 0, 9, 9]]
    assert [(query.scene, query.person_id, query.box.tolist()) for query in test.queries] == [(0, 1, [1, 1, 5, 5])]
    protocol = dataset.protocol(test, ProtocolOptions(cross_camera=True))
    assert protocol.in_gallery.tolist() == [[False, True, True]]
    assert protocol.truth_boxes.tolist() == [[1, 2, 4, 6], [10, 20, 40, 60]]


def test_own_queries_and_training_without_any(tmp_path: Path) -> None:
    content = tree() | {"queries": [{"image_id": 9, "bbox": [11, 21, 30, 40], "person_id": 900}]}
    write(tmp_path, "test.json", content)
    write(tmp_path, "train.json", content)
    dataset = CocoDataset(tmp_path)
    (query,) = dataset.split("test").queries
    assert (query.scene, query.person_id, query.box.tolist()) == (2, 1, [11, 21, 41, 61])
    assert dataset.split("train").queries == []
    assert not dataset.has_validation()
    with pytest.raises(UsageError, match=r"no val split in .*expected the file val.json"):
        dataset.split("val")
    write(tmp_path, "val.json", content)
    assert dataset.has_validation()
    assert dataset.split("val").name == "val"


def test_one_file_for_all(tmp_path: Path) -> None:
    content = tree()
    write(tmp_path, "annotations.json", content)
    assert len(CocoDataset(tmp_path).split("test").scenes) == 3
    with pytest.raises(UsageError, match="has no train images"):
        CocoDataset(tmp_path).split("train")
    content["images"][0]["split"] = "train"
    content["images"][1]["split"] = "val"
    write(tmp_path, "people.json", content)
    dataset = CocoDataset(tmp_path / "people.json")
    assert [scene.name for scene in dataset.split("train").scenes] == ["cam/b.jpg"]
    assert dataset.has_validation()
    assert [scene.name for scene in dataset.split("val").scenes] == ["a.jpg"]
    test = dataset.split("test")
    assert [scene.name for scene in test.scenes] == ["c.jpg"]
    assert test.scenes[0].person_ids.tolist() == [0, -1]
    assert test.image_root == tmp_path


def test_images_beside_the_file(tmp_path: Path) -> None:
    content = tree()
    content["images"][0]["file_name"] = "images/b.jpg"
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "b.jpg").write_text("")
    assert CocoDataset(write(tmp_path, "test.json", content)).split("test").image_root == tmp_path


def test_other_categories_do_not_count(tmp_path: Path) -> None:
    content = tree() | {"categories": [{"id": 1, "name": "Person"}, {"id": 3, "name": "car"}]}
    for entry in content["annotations"]:
        entry["category_id"] = 3 if entry["id"] == 7 else 1
    test = CocoDataset(write(tmp_path, "test.json", content)).split("test")
    assert [scene.person_ids.tolist() for scene in test.scenes] == [[0], [1, -1], [1, -1]]


def query(**entry: Any) -> Callable[[Tree], None]:
    return lambda content: content.update(queries=[entry])


def change(kind: str, number: int, **entry: Any) -> Callable[[Tree], None]:
    return lambda content: content[kind][number].update(entry)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda t: t.pop("images"), 'expected a list of objects under "images", found nothing'),
        (change("images", 1, id=40), "image id 40 is there twice"),
        (change("images", 1, file_name="c.jpg"), "image 'c.jpg' is there twice"),
        (change("images", 1, file_name=None), 'image 7: expected "file_name"'),
        (change("images", 1, id=None), 'images, entry 2: expected "id"'),
        (change("images", 1, camera="left"), "image 7: expected an integer"),
        (change("annotations", 3, image_id=99), "annotation 4: image_id 99 is not among"),
        (change("annotations", 3, bbox=[1, 2, 0, 4]), r"annotation 4: the box \[1, 2, 0, 4\] has no area"),
        (change("annotations", 3, bbox=[1, 2, 3]), "annotation 4: expected bbox as four numbers"),
        (change("annotations", 3, bbox=[1, 2, 3, float("nan")]), "annotation 4: expected bbox as four numbers"),
        (change("annotations", 3, bbox=[100, 2, 3, 4]), "annotation 4: .* lies outside its image"),
        (change("annotations", 3, bbox=[1, -4, 3, 4]), "annotation 4: .* lies outside its image"),
        (change("annotations", 3, person_id="x"), "annotation 4: expected an integer person_id"),
        (query(image_id=3, bbox=[1, 1, 2, 2], person_id=900), "query 1: image_id 3 is not among"),
        (query(image_id=9, bbox=[10, 20, 30, 40], person_id=30), "query 1: .* no annotation of person 30 in 'c.jpg'"),
        (query(image_id=9, bbox=[10, 20, 30, 15], person_id=900), "query 1: .* no annotation of person 900"),
        (query(image_id=9, bbox=[0, 0, 6, 6], person_id=-1), "query 1: .* no annotation of person -1"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Tree], object], expected: str) -> None:
    content = tree()
    damage(content)
    with pytest.raises(DataError, match=rf"test\.json'.*{expected}"):
        CocoDataset(write(tmp_path, "test.json", content)).split("test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [(b'{"images": [', "truncated or not JSON"), (b"[]", "found list"), (b"\xff\xfe", "not UTF-8")],
)
def test_unreadable_files(tmp_path: Path, text: bytes, expected: str) -> None:
    (tmp_path / "test.json").write_bytes(text)
    with pytest.raises(DataError, match=expected):
        CocoDataset(tmp_path).split("test")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations in .*; expected ROOT/"):
        CocoDataset(tmp_path).split("test")
