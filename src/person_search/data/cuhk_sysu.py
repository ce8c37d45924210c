"""CUHK-SYSU, also called SSM (Xiao et al., "Joint Detection and Identification Feature Learning", CVPR 2017)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from person_search.data import matlab
from person_search.data.folders import PublishedDataset
from person_search.data.gallery_cache import cached_protocol
from person_search.data.notes import Notes
from person_search.data.scene import (
    UNLABELLED,
    Boxes,
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
CACHED_FROM = 500
"""Gallery size from which parsing takes seconds, so that its result is kept."""

XYWH = tuple[float, ...]


@dataclass(frozen=True)
class _Row:
    """One query of a TestG file: ``truths`` are the gallery scenes that hold the person, in the file's order.

    ``labelled`` of them come before the first scene without the person.
    """

    image: str
    box: XYWH
    scenes: list[int]
    truths: list[tuple[int, XYWH]]
    labelled: int


class CuhkSysuDataset(PublishedDataset):
    """CUHK-SYSU's 18,184 images: training images are all but those of pool.mat.

    Train identity k is entry k of Train.mat; test identity k is row k of TestG50.mat.
    """

    summary = LAYOUT
    folder_names = ("CUHK-SYSU", "cuhk_sysu", "ssm", "dataset")
    entries = ("annotation/Images.mat", "annotation/pool.mat", "annotation/test/train_test")

    def split(self, name: SplitName) -> Split:
        """``"train"`` or ``"test"``. Raises DataError for missing, damaged or contradicting files."""
        refuse_validation("cuhk-sysu", name)
        if name == "train":
            pool = set(self._pool)
            names = [image for image in self._boxes if image not in pool]
        else:
            names = self._pool
        numbers = {image: number for number, image in enumerate(names)}
        labels = [[UNLABELLED] * len(self._boxes[image]) for image in names]
        queries: list[Query] = []
        if name == "train":
            count = self._label_train(numbers, labels)
        else:
            for row in self._rows(50, numbers):
                scene = numbers[row.image]
                for number, box in [(scene, row.box), *row.truths[: row.labelled]]:
                    labels[number][self._boxes[names[number]].index(box)] = len(queries)
                queries.append(Query(scene, _xyxy([row.box])[0], len(queries)))
            count = len(queries)
        scenes = [
            Scene(image, _xyxy(self._boxes[image]), np.array(ids, dtype=np.int64))
            for image, ids in zip(names, labels, strict=True)
        ]
        return Split("cuhk-sysu", name, self.folder / "Image" / "SSM", scenes, count, queries)

    def protocol(self, split: Split, options: ProtocolOptions) -> Protocol:
        """Galleries of TestG *gallery_size*, 100 by default; -1: the whole test set, positives as in TestG50.

        A scene that a list names several times is in the gallery once; its true box counts as often as it is listed
        (in the whole set every scene is listed once).
        A split held out of training is searched in its every other scene. Raises UsageError for a size that is not
        published and for ``cross_camera``; DataError for files that are missing, damaged or ask for other queries.
        """
        if options.cross_camera:
            raise UsageError("cuhk-sysu knows no cameras; leave --cross-camera out")
        size = STANDARD_SIZE if options.gallery_size is None else options.gallery_size
        if size not in (*GALLERY_SIZES, WHOLE_SET):
            sizes = ", ".join(map(str, GALLERY_SIZES))
            raise UsageError(f"gallery size {size} is not one of {sizes} or -1 (whole test set); change --gallery-size")
        if split.name != "test":
            if options.gallery_size not in (None, WHOLE_SET):
                raise UsageError(f"gallery sizes are for the test split; leave --gallery-size out for '{split.name}'")
            return every_other_scene(split)
        listed = 50 if size == WHOLE_SET else size
        if size < CACHED_FROM:
            return self._read_protocol(split, size)
        files = [self._gallery_file(listed), self._gallery_file(50), *map(self._annotation, ("Images", "pool"))]
        return cached_protocol(files, lambda: self._read_protocol(split, size))

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
        for q, row in enumerate(self._rows(listed, numbers)):
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
    def _boxes(self) -> dict[str, list[XYWH]]:
        """Image name -> its boxes x, y, w, h as annotated, those without size left out."""
        path = self._annotation("Images")
        boxes: dict[str, list[XYWH]] = {}
        variable = matlab.load(path, "Img", layout=LAYOUT)
        with matlab.naming(path):
            for imname, box in variable.structs("imname", "box"):
                name = imname.text()
                if name in boxes:
                    raise DataError(f"'{path}' lists the image '{name}' twice; expected every image once")
                found = [idlocate.numbers() for (idlocate,) in box.structs("idlocate")]
                if any(len(numbers) != 4 for numbers in found):
                    raise DataError(f"'{path}' image '{name}': expected boxes of 4 numbers (x, y, w, h)")
                boxes[name] = [xywh for xywh in found if xywh[2] > 0 and xywh[3] > 0]
        return boxes

    @cached_property
    def _pool(self) -> list[str]:
        """Names of the test images."""
        path = self._annotation("pool")
        variable = matlab.load(path, "pool", layout=LAYOUT)
        with matlab.naming(path):
            names = [cell.text() for cell in variable.cells()]
        for name in names:
            if name not in self._boxes:
                raise DataError(f"'{path}' names the image '{name}', which Images.mat does not list")
        if len(set(names)) != len(names):
            raise DataError(f"'{path}' lists an image twice; expected every test image once")
        return names

    def _label_train(self, numbers: dict[str, int], labels: list[list[int]]) -> int:
        """Write the identities of Train.mat into ``labels`` (per scene, per box) and return how many there are."""
        path = self.folder / "annotation" / "test" / "train_test" / "Train.mat"
        variable = matlab.load(path, "Train", layout=LAYOUT)
        identity = -1
        with matlab.naming(path):
            for identity, (scene,) in enumerate(variable.structs("scene")):
                for imname, idlocate in scene.structs("imname", "idlocate"):
                    box = idlocate.numbers()
                    if len(box) == 4 and min(box[2:]) <= 0:
                        continue
                    name = imname.text()
                    entry = f"'{path}' identity {identity + 1}"
                    labels[self._scene(name, numbers, entry)][self._row_of(name, box, entry)] = identity
        return identity + 1

    def _scene(self, name: str, numbers: dict[str, int], entry: str) -> int:
        number = numbers.get(name)
        if number is None:
            raise DataError(f"{entry}: the image '{name}' is not in this split of Images.mat and pool.mat")
        return number

    def _row_of(self, name: str, box: XYWH, entry: str) -> int:
        try:
            return self._boxes[name].index(box)
        except ValueError:
            raise DataError(f"{entry}: the box {box} matches no annotation of '{name}' in Images.mat") from None

    def _rows(self, size: int, numbers: dict[str, int]) -> Iterator[_Row]:
        """The queries of TestG *size*, checked against the test scenes ``numbers`` and their boxes."""
        path = self._gallery_file(size)
        if not path.exists():
            sizes = [str(n) for n in GALLERY_SIZES if self._gallery_file(n).exists()]
            there = f"; gallery sizes in this folder: {', '.join(sizes)}" if sizes else ""
            raise DataError(f"missing file '{path}'; expected {LAYOUT}{there}")
        rows = matlab.stream_structs(path, f"TestG{size}", "Query", "Gallery")
        q = -1
        with matlab.naming(path):
            for q, (query, gallery) in enumerate(rows):
                entry = f"'{path}' query {q + 1}"
                asked = [(imname.text(), box.numbers()) for imname, box in query.structs("imname", "idlocate")]
                if len(asked) != 1:
                    raise DataError(f"{entry}: expected one query box, found {len(asked)}")
                ((image, box),) = asked
                self._scene(image, numbers, entry)
                self._row_of(image, box, entry)
                yield self._gallery_row(image, box, gallery, numbers, entry)
        if q < 0:
            raise DataError(f"'{path}' holds no queries; fetch or make it again")

    def _gallery_row(self, image: str, box: XYWH, gallery: matlab.Value, numbers: dict[str, int], entry: str) -> _Row:
        scenes: list[int] = []
        truths: list[tuple[int, XYWH]] = []
        labelled = -1
        for imname, idlocate in gallery.structs("imname", "idlocate"):
            name = imname.text()
            scene = self._scene(name, numbers, entry)
            scenes.append(scene)
            if idlocate.size:
                truth = idlocate.numbers()
                self._row_of(name, truth, entry)
                truths.append((scene, truth))
            elif labelled < 0:
                labelled = len(truths)
        if not scenes:
            raise DataError(f"{entry}: the gallery is empty; expected the names of scenes to search")
        return _Row(image, box, scenes, truths, len(truths) if labelled < 0 else labelled)


def _note_listed_twice(notes: Notes, path: Path, query: int, row: _Row, split: Split) -> None:
    """Note the scenes that ``row`` lists more than once, and those it lists with different boxes of the person."""
    listed = Counter(row.scenes)
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


def _xyxy(xywh: list[XYWH]) -> Boxes:
    boxes = np.array(xywh, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return as_boxes(boxes)
