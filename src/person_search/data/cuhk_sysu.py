"""CUHK-SYSU, also called SSM (Xiao et al., "Joint Detection and Identification Feature Learning", CVPR 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from person_search.data.boxes import iou
from person_search.data.cuhk_sysu_files import (
    GalleryList,
    ImageList,
    Xywh,
    read_galleries,
    read_identities,
    read_images,
    read_pool,
)
from person_search.data.folders import PublishedDataset
from person_search.data.notes import Notes
from person_search.data.scene import (
    UNLABELLED,
    Boxes,
    Ints,
    Protocol,
    ProtocolOptions,
    Query,
    Scene,
    Split,
    SplitName,
    as_boxes,
    every_other_scene,
    refuse_validation,
)
from person_search.errors import DataError, UsageError

LAYOUT = (
    "CUHK-SYSU's layout (Image/SSM/*.jpg, annotation/Images.mat, annotation/pool.mat, "
    "annotation/test/train_test/{Train,TestG50,TestG100,...}.mat)"
)
GALLERY_SIZES = (50, 100, 500, 1000, 2000, 4000)
STANDARD_SIZE = 100
WHOLE_SET = -1

NEAREST = 0.9
"""IoU from which the nearest annotated box stands for one that is not exactly there."""

XYWH = tuple[float, ...]


@dataclass(frozen=True)
class _Row:
    """One query of a TestG file: ``truths`` are the gallery scenes that hold the person, in the file's order.

    ``labelled`` of them come before the first scene without the person. ``annotated``: which boxes of Images.mat the
    query's box and then those of ``truths`` are.
    """

    image: str
    box: XYWH
    scenes: Ints
    truths: list[tuple[int, XYWH]]
    labelled: int
    annotated: Ints


class CuhkSysuDataset(PublishedDataset):
    """CUHK-SYSU's 18,184 images: training images are all but those of pool.mat.

    Train identity k is entry k of Train.mat; test identity k is row k of TestG50.mat.
    """

    summary = LAYOUT
    fixed_queries = True
    folder_names = ("CUHK-SYSU", "cuhk_sysu", "ssm", "dataset")
    entries = ("annotation/Images.mat", "annotation/pool.mat", "annotation/test/train_test")

    def split(self, name: SplitName) -> Split:
        """``"train"`` or ``"test"``. Raises DataError for missing, damaged or contradicting files."""
        refuse_validation("cuhk-sysu", name)
        images = self._images
        if name == "train":
            pool = set(self._pool)
            names = [image for image in self._numbers if image not in pool]
        else:
            names = self._pool
        notes = Notes()
        for image in names:
            for _ in range(int(self._left_out[self._numbers[image]])):
                notes.add(self._annotation("Images"), "{n} boxes without width or height are left out", image)
        numbers = {image: number for number, image in enumerate(names)}
        labels = np.full(len(images.boxes), UNLABELLED, dtype=np.int64)
        queries: list[Query] = []
        if name == "train":
            count = self._label_train(numbers, labels, notes)
        else:
            queries = self._label_test(numbers, labels, notes)
            count = len(queries)
        corners, starts = _xyxy(images.boxes), images.starts.tolist()
        scenes = [
            Scene(image, corners[starts[n] : starts[n + 1]], labels[starts[n] : starts[n + 1]])
            for image in names
            for n in [self._numbers[image]]
        ]
        return Split("cuhk-sysu", name, self.folder / "Image" / "SSM", scenes, count, queries, notes=notes.lines())

    def protocol(self, split: Split, options: ProtocolOptions) -> Protocol:
        """Galleries of TestG *gallery_size*, 100 by default; -1: the whole test set, positives as in TestG50.

        A scene that a list names several times is in the gallery once; its true box counts as often as it is listed
        (in the whole set every scene is listed once).
        A split held out of training is searched in its every other scene. Raises UsageError for a size that is not
        published and for ``cross_camera``; DataError for files that are missing, damaged or ask for other queries.
        """
        if options.cross_camera:
            raise UsageError("cuhk-sysu knows no cameras; leave `cross_camera` out")
        size = STANDARD_SIZE if options.gallery_size is None else options.gallery_size
        if size not in (*GALLERY_SIZES, WHOLE_SET):
            sizes = ", ".join(map(str, GALLERY_SIZES))
            raise UsageError(f"gallery size {size} is not one of {sizes} or -1 (whole test set); change `gallery_size`")
        if split.name != "test":
            if options.gallery_size not in (None, WHOLE_SET):
                raise UsageError(f"gallery sizes are for the test split; leave `gallery_size` out for '{split.name}'")
            return every_other_scene(split)
        return self._read_protocol(split, size)

    def _read_protocol(self, split: Split, size: int) -> Protocol:
        listed = 50 if size == WHOLE_SET else size
        path = self._gallery_file(listed)
        numbers = {scene.name: number for number, scene in enumerate(split.scenes)}
        in_gallery = np.zeros((len(split.queries), len(split.scenes)), dtype=bool)
        scenes: list[int] = []
        boxes: list[XYWH] = []
        counts: list[int] = []
        offsets = [0]
        notes = Notes()
        # What is to be said of TestG50's boxes is said with the split.
        for q, row in enumerate(self._rows(listed, numbers, Notes() if listed == 50 else notes)):
            if q >= len(split.queries):
                raise DataError(f"'{path}' holds more queries than the {len(split.queries)} of TestG50.mat")
            query = split.queries[q]
            if numbers[row.image] != query.scene or (_xyxy([row.box])[0] != query.box).any():
                raise DataError(f"'{path}' query {q + 1} ('{row.image}') is not the query of that row in TestG50.mat")
            truths: dict[int, XYWH] = {}
            for scene, box in row.truths:
                truths.setdefault(scene, box)
            listed_with_person = Counter(scene for scene, _ in row.truths)
            if size == WHOLE_SET:
                in_gallery[q] = True
                in_gallery[q, query.scene] = False
                truths.pop(query.scene, None)
            else:
                in_gallery[q, row.scenes] = True
                if len(row.scenes) < size:
                    notes.add(path, f"{{n}} queries list fewer than {size} gallery scenes", f"query {q + 1}")
                if np.count_nonzero(in_gallery[q]) < len(row.scenes):
                    _note_listed_twice(notes, path, q, row, split)
            scenes += truths.keys()
            boxes += truths.values()
            counts += [1 if size == WHOLE_SET else listed_with_person[scene] for scene in truths]
            offsets.append(len(scenes))
        if len(offsets) <= len(split.queries):
            raise DataError(
                f"'{path}' holds {len(offsets) - 1} queries; expected {len(split.queries)} as in TestG50.mat"
            )
        return Protocol(
            "whole set" if size == WHOLE_SET else f"gallery {size}",
            in_gallery,
            np.array(offsets, dtype=np.int64),
            np.array(scenes, dtype=np.int64),
            _xyxy(boxes),
            np.array(counts, dtype=np.int64),
            notes.lines(),
        )

    def _annotation(self, name: str) -> Path:
        return self.folder / "annotation" / f"{name}.mat"

    def _gallery_file(self, size: int) -> Path:
        return self.folder / "annotation" / "test" / "train_test" / f"TestG{size}.mat"

    @cached_property
    def _listed(self) -> ImageList:
        return read_images(self._annotation("Images"), LAYOUT)

    @cached_property
    def _images(self) -> ImageList:
        """Images.mat, boxes without size left out."""
        found = self._listed
        sized = (found.boxes[:, 2:] > 0).all(axis=1)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sized)])[found.starts]
        return ImageList(found.names, starts, found.boxes[sized])

    @cached_property
    def _left_out(self) -> Ints:
        """How many boxes of each image are without size."""
        return np.diff(self._listed.starts) - np.diff(self._images.starts)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Image name -> its place in Images.mat."""
        names = self._listed.names.tolist()
        numbers = {name: number for number, name in enumerate(names)}
        for number, name in enumerate(names):
            if numbers[name] != number:
                path = self._annotation("Images")
                raise DataError(f"'{path}' lists the image '{name}' twice; expected every image once")
        return numbers

    @cached_property
    def _pool(self) -> list[str]:
        """Names of the test images."""
        path = self._annotation("pool")
        names = read_pool(path, LAYOUT)
        for name in names:
            if name not in self._numbers:
                raise DataError(f"'{path}' names the image '{name}', which Images.mat does not list")
        if len(set(names)) != len(names):
            raise DataError(f"'{path}' lists an image twice; expected every test image once")
        return names

    def _label_train(self, numbers: dict[str, int], labels: Ints, notes: Notes) -> int:
        """Write the identities of Train.mat into ``labels`` (per box of Images.mat) and return how many there are."""
        path = self.folder / "annotation" / "test" / "train_test" / "Train.mat"
        found = read_identities(path, LAYOUT)
        count = len(found.starts) - 1
        identities = np.repeat(np.arange(count), np.diff(found.starts))
        names = found.names.tolist()
        entries = _Entries(path, "identity", identities)
        self._check_scenes(names, numbers, entries)
        sized = np.flatnonzero((found.boxes[:, 2:] > 0).all(axis=1))
        for row in np.setdiff1d(np.arange(len(names)), sized).tolist():
            notes.add(path, "{n} boxes without width or height are left out", f"{entries.name(row)} in {names[row]}")
        for person in np.setdiff1d(np.arange(count), identities[sized]).tolist():
            notes.add(path, "{n} identities have no box", f"identity {person + 1}")
        names = [names[row] for row in sized]
        rows = self._annotated(names, found.boxes[sized], _Entries(path, "identity", identities[sized]), notes)
        _give(labels, rows, identities[sized], path, names, notes)
        return count

    def _label_test(self, numbers: dict[str, int], labels: Ints, notes: Notes) -> list[Query]:
        """Write the identities of TestG50.mat into ``labels`` (per box of Images.mat) and return its queries."""
        path = self._gallery_file(50)
        queries: list[Query] = []
        names = list(numbers)
        rows: list[Ints] = []
        shown: list[str] = []
        for person, row in enumerate(self._rows(50, numbers, notes)):
            scene = numbers[row.image]
            places = [scene, *(number for number, _ in row.truths)]
            rows.append(row.annotated[: row.labelled + 1])
            shown += [names[number] for number in places[: row.labelled + 1]]
            for number in places[row.labelled + 1 :]:
                what = "{n} boxes after the first gallery image without the person give no identity, only a true match"
                notes.add(path, what, f"query {person + 1} in {names[number]}")
            queries.append(Query(scene, _xyxy([row.box])[0], person))
        people = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
        _give(labels, np.concatenate(rows), people, path, shown, notes)
        return queries

    def _check_scenes(self, names: Sequence[str], numbers: dict[str, int], entries: _Entries) -> None:
        """Raise DataError where one of ``names`` is not among the scenes ``numbers``."""
        for row, name in enumerate(names):
            if name not in numbers:
                raise DataError(f"{entries[row]}: the image '{name}' is not in this split of Images.mat and pool.mat")

    def _annotated(self, names: Sequence[str], boxes: Xywh, entries: _Entries, notes: Notes) -> Ints:
        """(R,) which boxes of Images.mat the (R, 4) ``boxes`` in the images ``names`` are.

        The first with the same numbers, or else the nearest, which is noted. Raises DataError where none is near.
        """
        images = self._images
        places = np.array([self._numbers[name] for name in names], dtype=np.int64)
        first, after = images.starts[places], images.starts[places + 1]
        rows = np.full(len(places), -1)
        for nth in range(int((after - first).max(initial=0))):
            open_ = np.flatnonzero((rows < 0) & (first + nth < after))
            same = (images.boxes[first[open_] + nth] == boxes[open_]).all(axis=1)
            rows[open_[same]] = first[open_[same]] + nth
        for row in np.flatnonzero(rows < 0).tolist():
            near = iou(_xyxy(images.boxes[first[row] : after[row]]), _xyxy(boxes[row]))
            if not (near >= NEAREST).any():
                shown = ", ".join(f"{number:g}" for number in boxes[row])
                raise DataError(
                    f"{entries[row]}: the box ({shown}) matches no annotation of '{names[row]}' in Images.mat; "
                    f"expected one with the same numbers or an IoU of {NEAREST} or more"
                )
            what = f"{{n}} boxes are not exactly in Images.mat; the nearest there (IoU of {NEAREST} or more) is taken"
            notes.add(entries.path, what, f"{entries.name(row)} in {names[row]}")
            rows[row] = first[row] + int(near.argmax())
        return rows

    def _rows(self, size: int, numbers: dict[str, int], notes: Notes) -> Iterator[_Row]:
        """The queries of TestG *size*, checked against the test scenes ``numbers`` and their boxes."""
        path = self._gallery_file(size)
        if not path.exists():
            sizes = [str(n) for n in GALLERY_SIZES if self._gallery_file(n).exists()]
            there = f"; gallery sizes in this folder: {', '.join(sizes)}" if sizes else ""
            raise DataError(f"missing file '{path}'; expected {LAYOUT}{there}")
        found = read_galleries(path, LAYOUT)
        count = len(found.query_names)
        if not count:
            raise DataError(f"'{path}' holds no queries; fetch or make it again")
        asked = found.query_names.tolist()
        queries = _Entries(path, "query", np.arange(count))
        self._check_scenes(asked, numbers, queries)
        scenes = self._gallery_scenes(found, numbers, path)
        query_rows = self._annotated(asked, found.query_boxes, queries, notes)
        # Of each query, its first entry and the first of its entries that hold the person.
        starts, held = found.starts.tolist(), np.searchsorted(found.located, found.starts).tolist()
        names = found.names[found.images[found.located]].tolist()
        truth_entries = _Entries(path, "query", np.repeat(np.arange(count), np.diff(held)))
        truth_rows = self._annotated(names, found.boxes, truth_entries, notes)
        truths = list(zip(scenes[found.located].tolist(), map(tuple, found.boxes.tolist()), strict=True))
        boxes = list(map(tuple, found.query_boxes.tolist()))
        for q in range(count):
            own = slice(held[q], held[q + 1])
            gap_free = found.located[own] - starts[q] == np.arange(held[q + 1] - held[q])
            yield _Row(
                asked[q],
                boxes[q],
                scenes[starts[q] : starts[q + 1]],
                truths[own],
                int(gap_free.sum()),
                np.append(query_rows[q], truth_rows[own]),
            )

    def _gallery_scenes(self, found: GalleryList, numbers: dict[str, int], path: Path) -> Ints:
        """(E,) scene number of every gallery entry."""
        empty = np.flatnonzero(np.diff(found.starts) == 0)
        if len(empty):
            raise DataError(
                f"'{path}' query {empty[0] + 1}: the gallery is empty; expected the names of scenes to search"
            )
        first_entry = np.unique(found.images, return_index=True)[1]
        queries = np.searchsorted(found.starts, first_entry, side="right") - 1
        names = found.names.tolist()
        self._check_scenes(names, numbers, _Entries(path, "query", queries))
        return np.array([numbers[name] for name in names], dtype=np.int64)[found.images]


def _note_listed_twice(notes: Notes, path: Path, query: int, row: _Row, split: Split) -> None:
    """Note the scenes that ``row`` lists more than once, and those it lists with different boxes of the person."""
    listed = Counter(row.scenes.tolist())
    for scene, times in listed.items():
        if times == 1:
            continue
        entry = f"query {query + 1}: '{split.scenes[scene].name}'"
        places = [box for number, box in row.truths if number == scene]
        notes.add(
            path,
            "{n} gallery scenes are listed more than once for a query: their detections enter once, the person's box "
            "counts as often as it is listed",
            entry,
        )
        if places and (len(places) < times or len(set(places)) > 1):
            notes.add(
                path,
                "{n} of them are listed once with the person and once without, or with different boxes: the first box "
                "listed is taken for the true one",
                entry,
            )


@dataclass(frozen=True)
class _Entries:
    """What rows of ``path`` are called in messages: ``what``, such as "query", and ``numbers[row] + 1``."""

    path: Path
    what: str
    numbers: Ints

    def name(self, row: int) -> str:
        return f"{self.what} {self.numbers[row] + 1}"

    def __getitem__(self, row: int) -> str:
        return f"'{self.path}' {self.name(row)}"


def _give(labels: Ints, rows: Ints, people: Ints, path: Path, names: Sequence[str], notes: Notes) -> None:
    """Set ``labels[rows]`` to ``people``; ``names`` are the images of the rows."""
    labels[rows] = people
    for row in np.flatnonzero(labels[rows] != people).tolist():
        notes.add(path, "{n} boxes are given to two people; the later one has them", names[row])


def _xyxy(xywh: list[XYWH] | Xywh) -> Boxes:
    boxes = np.array(xywh, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return as_boxes(boxes)
