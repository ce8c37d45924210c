"""PRW and PRW-mini (Zheng et al., "Person Re-identification in the Wild", CVPR 2017; Munjal et al., CVPR 2019)."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from person_search.data import matlab
from person_search.data.folders import PublishedDataset
from person_search.data.scene import (
    UNLABELLED,
    Boxes,
    Ints,
    Query,
    Scene,
    Split,
    SplitName,
    as_boxes,
    refuse_validation,
)
from person_search.errors import DataError

LAYOUT = (
    "PRW's layout (frames/*.jpg, annotations/NAME.jpg.mat, frame_train.mat, frame_test.mat, "
    "ID_train.mat, query_info.txt)"
)
VARIABLES = ("box_new", "anno_file", "anno_previous")
QUERY_FILES = {"standard": "query_info.txt", "mini": "prwmini_query_info.txt"}
FRAMES_PER_SECOND = 25.0
"""Assumed: the set does not say, and only the order of times is used."""

_NAME = re.compile(r"c(\d+)(?:s(\d+)_(\d+))?")


def annotation_boxes(xywh: NDArray[np.float64]) -> Boxes:
    """Annotated (N, 4) x, y, w, h as (N, 4) xyxy: clipped at 0, added, truncated to whole pixels."""
    clipped = xywh.clip(min=0)
    return as_boxes(np.trunc(np.concatenate([clipped[:, :2], clipped[:, :2] + clipped[:, 2:]], axis=1)))


def query_box(x: float, y: float, width: float, height: float) -> Boxes:
    """A query's box as (4,) xyxy: added, truncated to whole pixels, clipped at 0 (the other order than annotations)."""
    return np.trunc(np.array([x, y, x + width, y + height])).clip(min=0).astype(np.float32)


class PrwDataset(PublishedDataset):
    """PRW's 11,816 frames of 6 cameras; option ``queries`` chooses PRW-mini's queries.

    Train identities are numbered by their place in the sorted ID_train, test identities by theirs among the sorted ids
    of the test frames. The gallery of a query is every other test frame, or those of other cameras.
    """

    summary = LAYOUT
    folder_names = ("PRW", "prw", "PRW-v16.04.20")
    entries = ("annotations", "frame_train.mat", "frame_test.mat", "ID_train.mat", "query_info.txt")

    def split(self, name: SplitName) -> Split:
        """``"train"`` or ``"test"``. Raises DataError for missing, damaged or contradicting files."""
        refuse_validation("prw", name)
        names = self._frame_names(name)
        counts, ids, boxes = self._annotations(names)
        if name == "train":
            known = self._train_identities()
            self._check_known(names, counts, ids, known)
        else:
            known = np.unique(ids[ids >= 0])
        labels = np.where(ids >= 0, np.searchsorted(known, ids), UNLABELLED)
        ends = np.cumsum(counts)[:-1]
        scenes = [
            _scene(frame, *rows)
            for frame, *rows in zip(names, np.split(boxes, ends), np.split(labels, ends), strict=True)
        ]
        queries = self._queries(scenes, known) if name == "test" else []
        return Split("prw", name, self.folder / "frames", scenes, len(known), queries)

    def _frame_names(self, name: SplitName) -> list[str]:
        path = self.folder / f"frame_{name}.mat"
        variable = matlab.load(path, f"img_index_{name}", layout=LAYOUT)
        with matlab.naming(path):
            names = [cell.text() for cell in variable.cells()]
        if not names:
            raise DataError(f"'{path}' lists no frames; expected the names of the {name} frames")
        if len(set(names)) != len(names):
            raise DataError(f"'{path}' lists a frame twice; expected every frame once")
        return names

    def _annotations(self, names: list[str]) -> tuple[Ints, Ints, Boxes]:
        """Boxes per frame, and ids and boxes of all of them in one piece; boxes without size are left out."""
        tables = []
        for name in names:
            path = self.folder / "annotations" / f"{name}.jpg.mat"
            variable = matlab.load(path, *VARIABLES, layout=LAYOUT)
            with matlab.naming(path):
                table = variable.matrix()
            if table.size and table.shape[1] != 5:
                raise DataError(f"'{path}': expected rows of id, x, y, w, h, found {table.shape[1]} columns")
            tables.append(table.reshape(-1, 5))
        rows = np.concatenate(tables)
        if not np.isfinite(rows).all():
            bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
            frame = int(np.searchsorted(np.cumsum([len(table) for table in tables]), bad, side="right"))
            raise DataError(f"'{self.folder / 'annotations' / names[frame]}.jpg.mat' holds a number that is not finite")
        boxes = annotation_boxes(rows[:, 1:])
        sized = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        frames = np.repeat(np.arange(len(names)), [len(table) for table in tables])
        counts = np.bincount(frames[sized], minlength=len(names)).astype(np.int64)
        return counts, rows[sized, 0].astype(np.int64), boxes[sized]

    def _train_identities(self) -> Ints:
        path = self.folder / "ID_train.mat"
        variable = matlab.load(path, "ID_train", layout=LAYOUT)
        with matlab.naming(path):
            return np.unique(np.array(variable.numbers(), dtype=np.int64))

    def _check_known(self, names: list[str], counts: Ints, ids: Ints, known: Ints) -> None:
        unknown = np.flatnonzero((ids >= 0) & ~np.isin(ids, known))
        if len(unknown):
            frame = names[int(np.searchsorted(np.cumsum(counts), unknown[0], side="right"))]
            raise DataError(
                f"'{self.folder / 'annotations' / frame}.jpg.mat': person {ids[unknown[0]]} is not in ID_train.mat; "
                "expected training frames to show training identities only"
            )

    def _queries(self, scenes: list[Scene], known: Ints) -> list[Query]:
        path = self.folder / QUERY_FILES[self.config.queries]
        with matlab.naming(path, LAYOUT):
            lines = path.read_text(encoding="utf-8").splitlines()
        numbers = {scene.name: number for number, scene in enumerate(scenes)}
        labels = {int(person): label for label, person in enumerate(known)}
        queries = []
        for row, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            entry = f"'{path}' line {row}"
            try:
                person, box = int(words[0]), query_box(*map(float, words[1:5]))
                (name,) = words[5:]
            except (ValueError, TypeError):
                raise DataError(f"{entry}: expected 'id x y w h name', found '{line.strip()}'") from None
            scene = numbers.get(f"{name}.jpg")
            if scene is None:
                raise DataError(f"{entry}: the query's frame '{name}' is not in frame_test.mat; expected a test frame")
            label = labels.get(person, UNLABELLED)
            own = scenes[scene].boxes[scenes[scene].person_ids == label] if label >= 0 else as_boxes([])
            if not (np.minimum(own[:, 2:], box[2:]) > np.maximum(own[:, :2], box[:2])).all(axis=1).any():
                raise DataError(f"{entry}: the box matches no annotation of person {person} in '{name}.jpg.mat'")
            queries.append(Query(scene, box, label))
        if not queries:
            raise DataError(f"'{path}' holds no queries; expected lines 'id x y w h name'")
        return queries


def _scene(name: str, boxes: Boxes, labels: Ints) -> Scene:
    match = _NAME.match(name)
    if match is None:
        raise DataError(f"frame name '{name}': expected 'c' and the camera's number first, as in c1s1_000151")
    camera, sequence, frame = match.groups()
    video, time = (None, None) if sequence is None else (f"c{camera}s{sequence}", int(frame) / FRAMES_PER_SECOND)
    return Scene(f"{name}.jpg", boxes, labels, camera=int(camera), sequence=video, time=time)
