"""COCO-style JSON with people: bring your own pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from person_search.data.queries import first_box_queries
from person_search.data.scene import UNLABELLED, Boxes, Dataset, Query, Scene, Split, SplitName, as_boxes
from person_search.errors import DataError, UsageError

LAYOUT = "ROOT/{train,val,test}.json (val is optional), or one ROOT/annotations.json; images in ROOT/images or ROOT"
PERSON_CATEGORIES = {"person", "pedestrian", "people"}


class CocoDataset(Dataset):
    """Pictures with a COCO-style JSON file per split, or one file for all.

    ``images``: ``id``, ``file_name`` and, optional, ``width``, ``height``, ``camera`` (integer), ``split``.
    ``annotations``: ``image_id``, ``bbox`` (x, y, w, h in pixels), ``person_id`` (an integer; absent or negative:
    no identity), ``iscrowd`` (1: a region to ignore). Where ``categories`` has one called person, annotations of
    others do not count. ``queries``, optional: ``image_id``, ``bbox``, ``person_id``; without it the queries are the
    first box of every identity that is in two images or more.

    In one file for all, an image's ``split`` says where it belongs; images without one are test images. Identities
    are numbered 0..N-1 by sorted ``person_id``, in each split for itself.
    """

    summary = LAYOUT

    def has_validation(self) -> bool:
        """Whether there are validation images."""
        if self._own_file("val").is_file():
            return True
        path = self._shared_file()
        return path is not None and any(image.get("split") == "val" for image in _Annotations(path).images)

    def split(self, name: SplitName) -> Split:
        """One split. Raises DataError for missing or damaged files, UsageError if there is no such split."""
        own = self._own_file(name)
        shared = self._shared_file()
        if own.is_file():
            annotations = _Annotations(own)
        elif shared is not None:
            annotations = _Annotations(shared, only=name)
            if not annotations.images:
                raise UsageError(
                    f'\'{shared}\' has no {name} images; give images "split": "{name}" or write {name}.json beside it'
                )
        elif any(self._own_file(other).is_file() for other in ("train", "test")):
            raise UsageError(f"no {name} split in '{self.root}': expected the file {name}.json")
        else:
            raise DataError(f"no annotations in '{self.root}'; expected {LAYOUT}")
        scenes, people = annotations.scenes()
        queries = annotations.queries(scenes, people) if name != "train" else []
        return Split("coco", name, self._image_root(scenes), scenes, len(people), queries)

    @property
    def _folder(self) -> Path:
        return self.root.parent if self.root.suffix == ".json" else self.root

    def _own_file(self, name: str) -> Path:
        return self._folder / f"{name}.json" if self.root == self._folder else self.root / "none"

    def _shared_file(self) -> Path | None:
        path = self.root if self.root != self._folder else self.root / "annotations.json"
        return path if path.is_file() else None

    def _image_root(self, scenes: Sequence[Scene]) -> Path:
        images = self._folder / "images"
        beside = bool(scenes) and not (images / scenes[0].name).exists() and (self._folder / scenes[0].name).exists()
        return images if images.is_dir() and not beside else self._folder


class _Annotations:
    """One JSON file, its entries checked as they are used; errors name the file and the entry."""

    def __init__(self, path: Path, only: str | None = None) -> None:
        self.path = path
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read '{path}': {error.strerror}") from None
        except json.JSONDecodeError as error:
            raise DataError(
                f"'{path}' is truncated or not JSON (line {error.lineno}: {error.msg}); write it again"
            ) from None
        except UnicodeDecodeError:
            raise DataError(f"'{path}' is not UTF-8 text; write it again") from None
        if not isinstance(tree, dict):
            raise DataError(f"'{path}': expected an object with images and annotations, found {type(tree).__name__}")
        self.images = self._entries(tree, "images")
        self._boxes = self._entries(tree, "annotations")
        self._queries = self._entries(tree, "queries") if "queries" in tree else None
        categories = self._entries(tree, "categories") if "categories" in tree else []
        wanted = {c.get("id") for c in categories if str(c.get("name")).lower() in PERSON_CATEGORIES}
        if wanted:
            self._boxes = [box for box in self._boxes if box.get("category_id") in {None, *wanted}]
        if only is not None:
            self._keep(only)
        self._numbers: dict[Any, int] = {}
        for number, image in enumerate(self.images):
            if self._numbers.setdefault(self._value(image, "id", "images", number), number) != number:
                raise DataError(f"'{path}': the image id {image['id']!r} is there twice; expected every id once")

    def scenes(self) -> tuple[list[Scene], list[int]]:
        """Scenes in the file's order, and the sorted person ids that became identities 0..N-1."""
        boxes: list[list[list[float]]] = [[] for _ in self.images]
        people: list[list[int]] = [[] for _ in self.images]
        ignore: list[list[list[float]]] = [[] for _ in self.images]
        for number, entry in enumerate(self._boxes):
            where = f"'{self.path}' annotation {entry.get('id', f'number {number + 1}')}"
            scene = self._scene(entry, where)
            box = self._box(entry, where, self.images[scene])
            if entry.get("iscrowd", 0) == 1:
                ignore[scene].append(box)
            else:
                boxes[scene].append(box)
                people[scene].append(self._person(entry, where))
        known = sorted({person for ids in people for person in ids if person >= 0})
        labels = {person: label for label, person in enumerate(known)}
        scenes = [
            Scene(
                self._name(image),
                as_boxes(boxes[number]),
                np.array([labels.get(person, UNLABELLED) for person in people[number]], dtype=np.int64),
                camera=self._camera(image),
                ignore=as_boxes(ignore[number]),
            )
            for number, image in enumerate(self.images)
        ]
        names: set[str] = set()
        for image in self.images:
            if (name := self._name(image)) in names:
                raise DataError(f"'{self.path}': the image '{name}' is there twice; expected every file once")
            names.add(name)
        return scenes, known

    def queries(self, scenes: list[Scene], people: list[int]) -> list[Query]:
        """The file's own queries, or the first box of every identity that is in two scenes or more."""
        if self._queries is None:
            return first_box_queries(scenes, len(people))
        labels = {person: label for label, person in enumerate(people)}
        queries = []
        for number, entry in enumerate(self._queries):
            where = f"'{self.path}' query {number + 1}"
            scene = self._scene(entry, where)
            box = as_boxes(self._box(entry, where, self.images[scene]))[0]
            person = self._person(entry, where)
            label = labels.get(person, UNLABELLED)
            own = scenes[scene].boxes[scenes[scene].person_ids == label] if label >= 0 else as_boxes([])
            if not (_iou(own, box) >= 0.5).any():
                raise DataError(
                    f"{where}: the box matches no annotation of person {person} in '{scenes[scene].name}' "
                    "(expected an IoU of 0.5 or more)"
                )
            queries.append(Query(scene, box, label))
        return queries

    def _entries(self, tree: dict[str, Any], key: str) -> list[dict[str, Any]]:
        entries = tree.get(key)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            found = "nothing" if entries is None else type(entries).__name__
            raise DataError(f"'{self.path}': expected a list of objects under \"{key}\", found {found}")
        return entries

    def _keep(self, only: str) -> None:
        """Narrow the file to one split of several."""
        images = [image for image in self.images if image.get("split", "test") == only]
        other = {image.get("id") for image in self.images} - {image.get("id") for image in images}
        self.images = images
        self._boxes = [box for box in self._boxes if box.get("image_id") not in other]
        if self._queries is not None:
            self._queries = [query for query in self._queries if query.get("image_id") not in other]

    def _value(self, entry: dict[str, Any], key: str, kind: str, number: int) -> int | str:
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise DataError(f"'{self.path}' {kind}, entry {number + 1}: expected \"{key}\", found {value!r}")
        return value

    def _name(self, image: dict[str, Any]) -> str:
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"'{self.path}' image {image['id']!r}: expected \"file_name\", found {name!r}")
        return name.replace("\\", "/")

    def _camera(self, image: dict[str, Any]) -> int | None:
        camera = image.get("camera")
        if camera is not None and (isinstance(camera, bool) or not isinstance(camera, int)):
            raise DataError(f"'{self.path}' image {image['id']!r}: expected an integer \"camera\", found {camera!r}")
        return camera

    def _scene(self, entry: dict[str, Any], where: str) -> int:
        image = entry.get("image_id")
        number = self._numbers.get(image) if isinstance(image, int | str) else None
        if number is None:
            raise DataError(f"{where}: image_id {image!r} is not among the file's images")
        return number

    def _person(self, entry: dict[str, Any], where: str) -> int:
        person = entry.get("person_id", UNLABELLED)
        if person is None:
            return UNLABELLED
        if isinstance(person, bool) or not isinstance(person, int):
            raise DataError(f"{where}: expected an integer person_id, found {person!r}")
        return max(person, UNLABELLED)

    def _box(self, entry: dict[str, Any], where: str, image: dict[str, Any]) -> list[float]:
        """``bbox`` of ``entry`` as x1, y1, x2, y2."""
        bbox = entry.get("bbox")
        numbers = bbox if isinstance(bbox, list) else []
        if len(numbers) != 4 or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise DataError(f"{where}: expected bbox as four numbers (x, y, w, h), found {bbox!r}")
        x, y, width, height = numbers
        if width <= 0 or height <= 0:
            raise DataError(f"{where}: the box {bbox} has no area; expected w > 0 and h > 0")
        far_x, far_y = image.get("width", math.inf), image.get("height", math.inf)
        if x + width <= 0 or y + height <= 0 or x >= far_x or y >= far_y:
            raise DataError(f"{where}: the box {bbox} lies outside its image ({far_x} x {far_y}); correct or remove it")
        return [x, y, x + width, y + height]


def _iou(boxes: Boxes, box: Boxes) -> Boxes:
    """(N,) IoU of (N, 4) ``boxes`` with the (4,) ``box``."""
    sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return shared / (areas + (box[2:] - box[:2]).prod() - shared)
