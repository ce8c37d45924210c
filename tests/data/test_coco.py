"""COCO-style loader: what a file may say, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from person_search.data.coco import CocoDataset
from person_search.data.scene import ProtocolOptions, Split
from person_search.data.settings import CocoSettings
from person_search.data.size_checks import compare_sizes
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
    assert [line.partition(": ")[2] for line in test.notes] == [
        "the people are the annotations of 'Person': their names are a person's",
        "1 annotations of other categories are not used ('car')",
        "1 annotations have a person_id and are left out for their category; if they are people, give it a person's "
        "name ('car', annotation 7)",
    ]


LABELS = [[0, 1], [1, -1], [1, -1]]


def labels(split: Split) -> list[list[int]]:
    return [scene.person_ids.tolist() for scene in split.scenes]


def each(content: Tree, change_entry: Callable[[Tree], object]) -> Tree:
    for entry in content["annotations"]:
        change_entry(entry)
    return content


def read(folder: Path, content: Tree, **settings: Any) -> Split:
    return CocoDataset(write(folder, "test.json", content), CocoSettings(**settings)).split("test")


def move(new: str, *, attribute: bool, as_what: Callable[[int], object] = int) -> Callable[[Tree], object]:
    """Moves person_id to another key, or among the attributes."""

    def moved(entry: Tree) -> None:
        value = entry.pop("person_id", None)
        place = entry.setdefault("attributes", {"occluded": False}) if attribute else entry
        place[new] = None if value is None else as_what(value)

    return moved


@pytest.mark.parametrize("as_what", [int, float, str, lambda n: f" {n}.0 "])
@pytest.mark.parametrize("attribute", [False, True])
def test_ids_of_people_may_be_written_in_many_ways(
    tmp_path: Path, as_what: Callable[[int], object], attribute: bool
) -> None:
    test = read(tmp_path, each(tree(), move("person_id", attribute=attribute, as_what=as_what)))
    assert labels(test) == LABELS
    assert (test.identity_names, test.notes) == (("30", "900"), ())


def test_track_id_of_cvat_is_the_id_where_there_is_no_other(tmp_path: Path) -> None:
    content = each(tree(), move("track_id", attribute=True))
    test = read(tmp_path, content)
    assert labels(test) == LABELS
    assert [line.partition(": ")[2] for line in test.notes] == [
        "the ids of people are track_id among the attributes; no annotation has person_id"
    ]
    content["annotations"][0]["person_id"] = 5
    test = read(tmp_path, content)
    assert labels(test) == [[-1, -1], [0, -1], [-1, -1]]
    assert "5 annotations have track_id among their attributes, which looks like an id and is not used" in test.notes[0]


@pytest.mark.parametrize("key", ["track_id", "id_person", "personId", "pid"])
@pytest.mark.parametrize("attribute", [False, True])
def test_another_key_is_named_and_can_be_chosen(tmp_path: Path, key: str, attribute: bool) -> None:
    content = each(tree(), move(key, attribute=attribute))
    if (key, attribute) != ("track_id", True):
        test = read(tmp_path, content)
        assert labels(test) == [[-1, -1], [-1, -1], [-1, -1]]
        assert any(f"annotations have {key}" in line and f"say `person_id_key` {key}" in line for line in test.notes)
        assert any("none of its 6 people has a person_id" in line for line in test.notes)
    test = read(tmp_path, content, person_id_key=key)
    assert (labels(test), test.notes) == (LABELS, ())
    with pytest.raises(UsageError, match=rf"no annotation of '.*' has `person_id_key` who, .* look like ids: {key}"):
        read(tmp_path, content, person_id_key="who")


def test_ids_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    content = tree()
    content["annotations"][0]["attributes"] = {"person_id": "901"}
    with pytest.raises(DataError, match=r"annotation 1: person_id is 900, and '901' in its attributes"):
        read(tmp_path, content)


def in_categories(content: Tree, categories: list[Tree], ids: list[object]) -> Tree:
    for entry, category in zip(content["annotations"], ids, strict=True):
        entry["category_id"] = category
    return content | {"categories": categories}


def category(number: object, name: str, above: str = "") -> Tree:
    return {"id": number, "name": name, "supercategory": above}


@pytest.mark.parametrize(
    ("categories", "ids", "expected"),
    [
        ([category(1, "person")], [1, "1", 1.0, "1.0", 1, 1, 1], LABELS),
        ([category("1", "human")], [1] * 7, LABELS),
        (
            [category(0, "Pedestrian "), category(2, "man"), category(3, "dog")],
            [0, 0, 0, 2, 0, 0, 3],
            [[0], *LABELS[1:]],
        ),
        # Roboflow's root category is above all of them and owns nothing.
        (
            [category(0, "person", "none"), category(1, "p1", "person"), category(2, "p2", "person")],
            [1, 2] * 3 + [1],
            LABELS,
        ),
        (
            [category(0, "people"), category(1, "person", "people"), category(2, "dog", "people")],
            [1] * 6 + [2],
            [[0], *LABELS[1:]],
        ),
        ([category(1, "player")], [1] * 7, LABELS),
        ([category(1, "ann"), category(2, "bob"), category(3, "sky")], [1, 2, 1, 1, 1, 1, 1], LABELS),
        ([category(1, "person"), category(2, "dog")], [None, 1, 1, 1, 1, 1, None], LABELS),
        ([], [1, 2, 3, 4, 5, 6, 7], LABELS),
    ],
)
def test_who_is_a_person_is_decided_once(
    tmp_path: Path, categories: list[Tree], ids: list[object], expected: list[list[int]]
) -> None:
    test = read(tmp_path, in_categories(tree(), categories, ids))
    assert labels(test) == expected
    plain = len(categories) == 1 and categories[0]["name"] != "player"
    assert bool(test.notes) != plain
    assert sum(map(len, expected)) == 6 or any(
        "1 annotations of other categories are not used" in n for n in test.notes
    )


@pytest.mark.parametrize(
    ("categories", "number", "expected"),
    [
        ([category(1, "person")], 2, "annotation 1: category_id 2 is not among the file's categories"),
        ([category(1, "person"), category("1", "dog")], 1, "category id 1 is both 'person' and 'dog'"),
        ([category(None, "person")], 1, 'categories, entry 1: expected "id", found None'),
        ([category(1, "car"), category(2, "dog")], 1, r"none of its 2 categories \('car', 'dog'\) is a person's"),
    ],
)
def test_categories_that_do_not_say_are_refused(
    tmp_path: Path, categories: list[Tree], number: int, expected: str
) -> None:
    content = in_categories(each(tree(), lambda entry: entry.pop("person_id", None)), categories, [number] * 7)
    with pytest.raises(DataError, match=expected):
        read(tmp_path, content)


def test_people_drawn_as_masks_are_people(tmp_path: Path) -> None:
    content = tree()
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": {"counts": [0, 9], "size": [50, 100]}}
    content["annotations"][1] |= {"iscrowd": "1"}
    content["annotations"][4] |= {"iscrowd": True}
    test = read(tmp_path, content)
    assert labels(test) == LABELS
    assert [len(scene.ignore) for scene in test.scenes] == [0, 0, 1]
    (line,) = test.notes
    assert "2 annotations have iscrowd 1 and a person_id: they count as people" in line
    assert "(annotation 1, annotation 2)" in line


def test_sizes_may_be_unknown_or_text(tmp_path: Path) -> None:
    content = tree()
    content["images"][0] |= {"width": "100", "height": 50.0}
    content["images"][1] |= {"width": None, "height": None}
    content["images"][2] |= {"width": 100, "height": None}
    test = read(tmp_path, content)
    assert [scene.size for scene in test.scenes] == [(100, 50), None, None]
    (line,) = test.notes
    assert line.endswith("1 images have only one of width and height, which is not used ('c.jpg')")


def test_names_that_mean_a_split_and_names_that_do_not(tmp_path: Path) -> None:
    content = tree()
    content["images"][0]["split"] = "Training"
    content["images"][1]["split"] = "valid"
    content["images"][2]["split"] = None
    content["images"].append({"id": 1, "file_name": "extra.jpg", "split": "extra"})
    dataset = CocoDataset(write(tmp_path, "annotations.json", content))
    assert dataset.has_validation()
    assert [[s.name for s in dataset.split(n).scenes] for n in ("train", "val", "test")] == [
        ["cam/b.jpg"],
        ["a.jpg"],
        ["c.jpg"],
    ]
    (line,) = dataset.split("test").notes
    assert "1 images are not used, since their split is no split's name" in line
    assert "('extra.jpg': 'extra')" in line


def test_files_beside_those_of_the_splits(tmp_path: Path) -> None:
    content = tree()
    content["images"][0]["split"] = "train"
    for name in ("train.json", "test.json", "valid.json", "annotations.json", "more.json"):
        write(tmp_path, name, content)
    dataset = CocoDataset(tmp_path)
    assert dataset.has_validation()
    assert len(dataset.split("val").scenes) == 3
    assert any("1 images say that they belong to another split" in line for line in dataset.split("test").notes)
    assert [line.removeprefix(f"'{tmp_path}") for line in dataset.notes()] == [
        "/valid.json': it is read as val.json",
        "/annotations.json': only images of splits without a file of their own are used (test.json, train.json, "
        "valid.json are there)",
        "': JSON files not read, whose names are no split's: 1 (more.json)",
    ]
    write(tmp_path, "val.json", content)
    lines = CocoDataset(tmp_path).notes()
    assert f"'{tmp_path / 'valid.json'}': it is not read: val.json is there for the val split" in lines
    assert any(line.endswith("no split's: 1 (more.json)") for line in lines)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "test.json").write_text(json.dumps(tree()), encoding="utf-8-sig")
    assert labels(CocoDataset(tmp_path).split("test")) == LABELS


def test_ids_of_images_may_be_written_in_many_ways(tmp_path: Path) -> None:
    content = tree()
    content["images"][1]["id"] = "7"
    content["annotations"][1]["image_id"] = 40.0
    assert labels(read(tmp_path, content)) == LABELS
    content["images"][1]["id"] = "007"
    with pytest.raises(DataError, match="annotation 1: image_id 7 is not among"):
        read(tmp_path, content)


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
        (change("annotations", 3, bbox=[1, 2, 3, 10**400]), "annotation 4: expected bbox as four numbers"),
        (change("annotations", 3, bbox=[1, 2, 3, 1e300]), "annotation 4: expected bbox as four numbers"),
        (change("annotations", 3, bbox=[100, 2, 3, 4]), "annotation 4: .* lies outside its image"),
        (change("annotations", 3, bbox=[1, -4, 3, 4]), "annotation 4: .* lies outside its image"),
        (change("annotations", 3, person_id="x"), "annotation 4: expected a whole number as person_id"),
        (change("annotations", 3, person_id=1.5), "annotation 4: expected a whole number as person_id, found 1.5"),
        (change("annotations", 3, iscrowd=2), "annotation 4: expected iscrowd 0 or 1, found 2"),
        (change("images", 2, width="wide"), "image 9 .'c.jpg'.: expected width as a whole number .* found 'wide'"),
        (change("images", 2, height=0), "image 9 .'c.jpg'.: expected height as a whole number .* found 0"),
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


@pytest.mark.parametrize("text", [b'{"images": ' + b"[" * 100_000, b'{"images": ' + b"1" * 5_000 + b"}"])
def test_json_beyond_measure_is_named(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "test.json").write_bytes(text)
    with pytest.raises(DataError, match=r"test\.json' holds lists in lists without end or a number of thousands"):
        CocoDataset(tmp_path).split("test")


def test_entries_without_id_are_named_by_their_place_in_the_file(tmp_path: Path) -> None:
    content = tree()
    for entry in content["annotations"]:
        del entry["id"]
    content["categories"] = [{"id": 1, "name": "person"}, {"id": 2, "name": "bag"}]
    # Left out for their category or their split, entries before it do not change what an entry is called.
    content["annotations"][0]["category_id"] = 2
    content["annotations"][4]["person_id"] = 30
    content["images"][1]["split"] = "train"
    content["queries"] = [
        {"image_id": 7, "bbox": [2, 2, 5, 5], "person_id": 900},
        {"image_id": 9, "bbox": [90, 2, 5, 5], "person_id": 900},
    ]
    dataset = CocoDataset(write(tmp_path, "annotations.json", content))
    with pytest.raises(DataError, match=r"annotations\.json' query 2: the box matches no annotation"):
        dataset.split("test")
    notes = dataset.split("train").notes
    assert any(
        "1 annotations have a person_id and are left out" in n and "'bag', annotation number 1" in n for n in notes
    )
    del content["queries"]
    notes = CocoDataset(write(tmp_path, "annotations.json", content)).split("test").notes
    assert any("iscrowd 1 and a person_id" in note and note.endswith("(annotation number 5)") for note in notes)
    content["annotations"][5]["bbox"] = [1]
    with pytest.raises(DataError, match="annotation number 6: expected bbox"):
        CocoDataset(write(tmp_path, "annotations.json", content)).split("test")


def test_keys_of_other_programs_are_named(tmp_path: Path) -> None:
    content = tree()
    for image in content["images"]:
        image["cam_id"] = image.pop("camera")
    content["annotations"][1].update(ignore=1, attributes="track_id: 4")
    content["annotations"][3].update(ignore=0, attributes={})
    content["annotations"][4].update(ignore=1)  # and iscrowd 1
    notes = "\n".join(CocoDataset(write(tmp_path, "test.json", content)).split("test").notes)
    assert r"3 images have cam_id, which is not used: call it camera" in notes
    assert "1 annotations have ignore set, which is not used: give regions to ignore iscrowd 1 (annotation 2)" in notes
    assert "1 annotations have attributes that are no object" in notes
    content["images"][0]["camera"] = 3
    assert "cam_id" not in "\n".join(CocoDataset(write(tmp_path, "test.json", content)).split("test").notes)


def test_the_id_0_is_a_person(tmp_path: Path) -> None:
    content = tree()
    content["annotations"][1]["person_id"] = 0
    test = CocoDataset(write(tmp_path, "test.json", content)).split("test")
    assert test.identity_names == ("0", "900")


def test_a_split_without_images_is_none(tmp_path: Path) -> None:
    write(tmp_path, "train.json", {"images": [], "annotations": []})
    with pytest.raises(UsageError, match=r"no train split: '.*train\.json' lists no images"):
        CocoDataset(tmp_path).split("train")


def test_a_name_that_no_file_can_have_is_a_missing_picture(tmp_path: Path) -> None:
    content = tree()
    for image in content["images"]:
        image["file_name"] = image["file_name"] * 100
    test = CocoDataset(write(tmp_path, "test.json", content)).split("test")
    assert len(compare_sizes(test).missing) == 3


@pytest.mark.parametrize("name", ["valid/_annotations.coco.json", "annotations/instances_default.json", "Test.json"])
def test_files_of_other_layouts_are_named_where_there_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write(tmp_path, name, tree())
    with pytest.raises(DataError, match=rf"no annotations in .*; expected ROOT/.*; there is '{name}'"):
        CocoDataset(tmp_path).split("test")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations in .*; expected ROOT/"):
        CocoDataset(tmp_path).split("test")
