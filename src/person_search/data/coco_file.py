"""One COCO-style JSON file, its entries checked as they are used."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from person_search.data.boxes import iou
from person_search.data.coco_people import (
    PERSON_ID,
    PLACE,
    Entry,
    PersonKey,
    annotation_name,
    find_person_key,
    is_crowd,
    people_among,
    same_key,
    whole_number,
)
from person_search.data.notes import Notes
from person_search.data.queries import first_box_queries
from person_search.data.scene import UNLABELLED, Query, Scene, SplitName, as_boxes
from person_search.errors import DataError

SPLIT_NAMES: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""What people call the splits."""


FARTHEST = 1e9
"""Pixels from the corner of a picture that no box reaches; NaN is not within them."""


CAMERA_KEYS = ("camera_id", "cameraid", "cam", "cam_id", "camid")
"""What else people call the camera of an image."""


def split_named(name: object) -> SplitName | None:
    """The split that an image's ``split`` or a file's name means: test images have none; None for no split's name."""
    if name is None:
        return "test"
    return SPLIT_NAMES.get(name.strip().lower()) if isinstance(name, str) else None


class CocoFile:
    """A file as read; errors and notes name it and the entry."""

    def __init__(self, path: Path, *, person_id_key: str | None, crowds_with_id_are_people: bool) -> None:
        self.path = path
        self._crowds_with_id_are_people = crowds_with_id_are_people
        tree = _json_object(path)
        self.images = self._entries(tree, "images")
        annotations = self._entries(tree, "annotations")
        self._queries = self._entries(tree, "queries") if "queries" in tree else None
        categories = self._entries(tree, "categories") if tree.get("categories") is not None else []
        notes = Notes()
        self._person_key = find_person_key(path, annotations, person_id_key, notes)
        people = people_among(path, categories, annotations, self._person_key, notes)
        self._annotations = [entry for entry, person in zip(annotations, people, strict=True) if person]
        _note_unused_keys(path, self.images, self._annotations, notes)
        self._notes = notes.lines()

    @cached_property
    def _splits(self) -> list[SplitName | None]:
        return [split_named(image.get("split")) for image in self.images]

    def has_split(self, name: SplitName) -> bool:
        """Whether an image says that it belongs to the split."""
        return name in self._splits

    def own(self, name: SplitName, notes: Notes) -> Content:
        """All of the file, as the split ``name``."""
        for image, split in zip(self.images, self._splits, strict=True):
            if image.get("split") is not None and split != name:
                notes.add(
                    self.path,
                    f"{{n}} images say that they belong to another split, and are {name} images for the file's name",
                    f"'{image.get('file_name')}': {image['split']!r}",
                )
        return self._content(self.images, self._annotations, self._queries)

    def part(self, name: SplitName, notes: Notes) -> Content:
        """What belongs to the split ``name``; images whose split is none are noted."""
        for image, split in zip(self.images, self._splits, strict=True):
            if split is None:
                notes.add(
                    self.path,
                    "{n} images are not used, since their split is no split's name (train, val, test)",
                    f"'{image.get('file_name')}': {image['split']!r}",
                )
        images = [image for image, split in zip(self.images, self._splits, strict=True) if split == name]
        others = {same_key(i.get("id")) for i, split in zip(self.images, self._splits, strict=True) if split != name}
        others -= {None}
        if shared := others & {same_key(image.get("id")) for image in images}:
            raise DataError(f"'{self.path}': the image id {shared.pop()!r} is there twice; expected every id once")

        def kept(entries: list[Entry]) -> list[Entry]:
            return [entry for entry in entries if same_key(entry.get("image_id")) not in others]

        return self._content(images, kept(self._annotations), None if self._queries is None else kept(self._queries))

    def _content(self, images: list[Entry], annotations: list[Entry], queries: list[Entry] | None) -> Content:
        return Content(
            self.path, images, annotations, queries, self._person_key, self._crowds_with_id_are_people, self._notes
        )

    def _entries(self, tree: dict[str, Any], key: str) -> list[Entry]:
        entries = tree.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            found = "nothing" if entries is None else type(entries).__name__
            raise DataError(f"'{self.path}': expected a list of objects under \"{key}\", found {found}")
        for place, entry in enumerate(entries, start=1):
            entry[PLACE] = place
        return entries


@dataclass(frozen=True)
class Content:
    """What of a file belongs to one split: images, annotations of people, queries (None: the file has no list)."""

    path: Path
    images: list[Entry]
    annotations: list[Entry]
    asked: list[Entry] | None
    person_key: PersonKey
    crowds_with_id_are_people: bool
    file_notes: tuple[str, ...]

    def scenes(self, notes: Notes) -> tuple[list[Scene], list[int]]:
        """Scenes in the file's order, and the sorted person ids that became identities 0..N-1."""
        sizes = [self._size(image, notes) for image in self.images]
        boxes: list[list[list[float]]] = [[] for _ in self.images]
        people: list[list[int | None]] = [[] for _ in self.images]
        ignore: list[list[list[float]]] = [[] for _ in self.images]
        for entry in self.annotations:
            where = f"'{self.path}' {annotation_name(entry)}"
            scene = self._scene(entry, where)
            box = self._box(entry, where, sizes[scene])
            person = self.person_key.person(entry, where)
            crowd = is_crowd(entry, where)
            if crowd and person is not None and self.crowds_with_id_are_people:
                notes.add(
                    self.path,
                    f"{{n}} annotations have iscrowd 1 and a {self.person_key.key}: they count as people, as a crowd "
                    "has no id; remove the id where it is to be a region to ignore",
                    annotation_name(entry),
                )
                crowd = False
            if crowd:
                ignore[scene].append(box)
            else:
                boxes[scene].append(box)
                people[scene].append(person)
        known = sorted({person for ids in people for person in ids if person is not None})
        if any(people) and not known:
            notes.add(
                self.path,
                f"none of its {sum(map(len, people))} people has a {self.person_key.key}: nobody can be searched; if "
                "their ids have another key, say `person_id_key` KEY",
            )
        labels: dict[int | None, int] = {person: label for label, person in enumerate(known)}
        scenes = [
            Scene(
                self._name(image),
                as_boxes(boxes[number]),
                np.array([labels.get(person, UNLABELLED) for person in people[number]], dtype=np.int64),
                camera=self._camera(image),
                ignore=as_boxes(ignore[number]),
                size=sizes[number],
            )
            for number, image in enumerate(self.images)
        ]
        names: set[str] = set()
        for scene_read in scenes:
            if scene_read.name in names:
                raise DataError(f"'{self.path}': the image '{scene_read.name}' is there twice; expected each once")
            names.add(scene_read.name)
        return scenes, known

    def queries(self, scenes: list[Scene], people: list[int], notes: Notes) -> list[Query]:
        """The file's own queries, or the first box of every identity that is in two scenes or more."""
        if self.asked is None:
            return first_box_queries(scenes, len(people))
        if not self.asked:
            notes.add(self.path, "its list of queries is empty: nobody is searched; leave it out for the standard ones")
        labels = {person: label for label, person in enumerate(people)}
        queries = []
        for entry in self.asked:
            where = f"'{self.path}' query {entry[PLACE]}"
            scene = self._scene(entry, where)
            box = as_boxes(self._box(entry, where, scenes[scene].size))[0]
            key = self.person_key if self.person_key.value(entry) is not None else PersonKey(PERSON_ID)
            person = key.person(entry, where)
            label = UNLABELLED if person is None else labels.get(person, UNLABELLED)
            own = scenes[scene].boxes[scenes[scene].person_ids == label] if label >= 0 else as_boxes([])
            if not (iou(own, box[None]) >= 0.5).any():
                raise DataError(
                    f"{where}: the box matches no annotation of person {key.value(entry)} in '{scenes[scene].name}' "
                    "(expected an IoU of 0.5 or more)"
                )
            queries.append(Query(scene, box, label))
        return queries

    @cached_property
    def _numbers(self) -> dict[int | str, int]:
        """Image id -> its place among ``images``."""
        numbers: dict[int | str, int] = {}
        for number, image in enumerate(self.images):
            key = same_key(image.get("id"))
            if key is None:
                raise DataError(f"'{self.path}' images, entry {number + 1}: expected \"id\", found {image.get('id')!r}")
            if numbers.setdefault(key, number) != number:
                raise DataError(f"'{self.path}': the image id {key!r} is there twice; expected every id once")
        return numbers

    def _name(self, image: Entry) -> str:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"'{self.path}' image {image['id']!r}: expected \"file_name\", found {name!r}")
        return name.replace("\\", "/")

    def _camera(self, image: Entry) -> int | None:
        camera = image.get("camera")
        number = whole_number(camera)
        if camera is not None and number is None:
            raise DataError(f"'{self.path}' image {image['id']!r}: expected an integer \"camera\", found {camera!r}")
        return number

    def _size(self, image: Entry, notes: Notes) -> tuple[int, int] | None:
        sides = [self._side(image, key) for key in ("width", "height")]
        if sides[0] is None or sides[1] is None:
            if sides != [None, None]:
                notes.add(
                    self.path,
                    "{n} images have only one of width and height, which is not used",
                    f"'{image.get('file_name')}'",
                )
            return None
        return sides[0], sides[1]

    def _side(self, image: Entry, key: str) -> int | None:
        value = image.get(key)
        if value is None:
            return None
        number = whole_number(value)
        if number is None or number <= 0:
            raise DataError(
                f"'{self.path}' image {image.get('id')!r} ('{image.get('file_name')}'): expected {key} as a whole "
                f"number of pixels above 0, found {value!r}; correct it or leave it out"
            )
        return number

    def _scene(self, entry: Entry, where: str) -> int:
        key = same_key(entry.get("image_id"))
        number = None if key is None else self._numbers.get(key)
        if number is None:
            raise DataError(f"{where}: image_id {entry.get('image_id')!r} is not among the file's images")
        return number

    def _box(self, entry: Entry, where: str, size: tuple[int, int] | None) -> list[float]:
        """``bbox`` of ``entry`` as x1, y1, x2, y2."""
        bbox = entry.get("bbox")
        numbers = bbox if isinstance(bbox, list) else []
        if len(numbers) != 4 or not all(type(n) in (int, float) and abs(n) <= FARTHEST for n in numbers):
            raise DataError(f"{where}: expected bbox as four numbers (x, y, w, h), found {bbox!r}")
        x, y, width, height = numbers
        if width <= 0 or height <= 0:
            raise DataError(f"{where}: the box {bbox} has no area; expected w > 0 and h > 0")
        far_x, far_y = size or (math.inf, math.inf)
        if x + width <= 0 or y + height <= 0 or x >= far_x or y >= far_y:
            raise DataError(f"{where}: the box {bbox} lies outside its image ({far_x} x {far_y}); correct or remove it")
        return [x, y, x + width, y + height]


def _note_unused_keys(path: Path, images: Sequence[Entry], annotations: Sequence[Entry], notes: Notes) -> None:
    """Note what other programs write and this one reads under another key or not at all."""
    for entry in annotations:
        if entry.get("ignore") not in (None, 0, "0") and not is_crowd(entry, f"'{path}' {annotation_name(entry)}"):
            notes.add(
                path,
                "{n} annotations have ignore set, which is not used: give regions to ignore iscrowd 1",
                annotation_name(entry),
            )
        attributes = entry.get("attributes")
        if attributes and not isinstance(attributes, dict):
            notes.add(
                path,
                "{n} annotations have attributes that are no object of keys and values, and are not used",
                annotation_name(entry),
            )
    if all(image.get("camera") is None for image in images):
        for image in images:
            for key in CAMERA_KEYS:
                if image.get(key) is not None:
                    what = f"{{n}} images have {key}, which is not used: call it camera, a whole number"
                    notes.add(path, what, f"'{image.get('file_name')}'")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        tree = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(
            f"'{path}' is truncated or not JSON (line {error.lineno}: {error.msg}); write it again"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"'{path}' is not UTF-8 text; write it again") from None
    except (RecursionError, ValueError):
        raise DataError(
            f"'{path}' holds lists in lists without end or a number of thousands of digits; write it again"
        ) from None
    if not isinstance(tree, dict):
        raise DataError(f"'{path}': expected an object with images and annotations, found {type(tree).__name__}")
    return tree
