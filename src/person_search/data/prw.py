"""PRW and PRW-mini (Zheng et al., "Person Re-identification in the Wild", CVPR 2017; Munjal et al., CVPR 2019)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from person_search.data import mat_files
from person_search.data.boxes import iou
from person_search.data.folders import PublishedDataset
from person_search.data.notes import Notes
from person_search.data.parse_cache import Arrays, parsed
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
from person_search.data.settings import PrwSettings
from person_search.errors import DataError

LAYOUT = (
    "PRW's layout (frames/*.jpg, annotations/NAME.jpg.mat, frame_train.mat, frame_test.mat, "
    "ID_train.mat, query_info.txt)"
)
VARIABLES = ("box_new", "anno_file", "anno_previous")
SPLITS: tuple[SplitName, ...] = ("train", "test")
ENDING = ".jpg.mat"
"""What a frame's annotation file has after the frame's name."""
QUERY_FILES = {"standard": "query_info.txt", "mini": "prwmini_query_info.txt"}
LARGEST = 1e9
"""No id and no coordinate in pixels is as large."""
NEAR = 0.5
"""IoU below which a query's box is not said to be that of the annotation, though it lies on it."""
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
    Settings = PrwSettings
    config: PrwSettings
    folder_names = ("PRW", "prw", "PRW-v16.04.20")
    entries = ("annotations", "frame_train.mat", "frame_test.mat", "ID_train.mat", "query_info.txt")

    def split(self, name: SplitName) -> Split:
        """``"train"`` or ``"test"``. Raises DataError for missing, damaged or contradicting files."""
        refuse_validation("prw", name)
        if name not in self._frames:
            raise DataError(f"missing file '{self.folder / f'frame_{name}.mat'}'; expected {LAYOUT}")
        names = self._frames[name]
        notes = Notes()
        counts, ids, boxes = self._annotations(names, notes)
        if name == "train":
            known = self._train_identities()
            self._check_known(names, counts, ids, known)
            for person in np.setdiff1d(known, ids).tolist():
                notes.add(
                    self.folder / "ID_train.mat", "{n} identities have no box in the training frames", f"{person}"
                )
        else:
            known = np.unique(ids[ids >= 0])
        labels = np.where(ids >= 0, np.searchsorted(known, ids), UNLABELLED)
        ends = np.cumsum(counts)[:-1]
        scenes = [
            _scene(frame, *rows)
            for frame, *rows in zip(names, np.split(boxes, ends), np.split(labels, ends), strict=True)
        ]
        queries = self._queries(scenes, known, notes) if name == "test" else []
        ids_as_written = tuple(str(identity) for identity in known)
        return Split(
            "prw",
            name,
            self.folder / "frames",
            scenes,
            len(known),
            queries,
            identity_names=ids_as_written,
            notes=notes.lines(),
        )

    def notes(self) -> tuple[str, ...]:
        """Names annotated frames that neither list of frames holds. Raises DataError for damaged lists."""
        notes = Notes()
        folder = self.folder / "annotations"
        if folder.is_dir() and len(self._frames) == len(SPLITS):
            listed = {name for names in self._frames.values() for name in names}
            for file in sorted(os.listdir(folder)):
                if file.endswith(ENDING) and file.removesuffix(ENDING) not in listed:
                    what = "{n} files are of frames that neither frame_train.mat nor frame_test.mat lists: not used"
                    notes.add(folder, what, file)
        return notes.lines()

    @cached_property
    def _frames(self) -> dict[SplitName, list[str]]:
        """Names of each split's frames, for the lists that are there."""
        frames: dict[SplitName, list[str]] = {}
        for split in SPLITS:
            path = self.folder / f"frame_{split}.mat"
            if not path.exists():
                continue
            variable = mat_files.load(mat_files.read_bytes(path, LAYOUT), path, f"img_index_{split}")
            names = [mat_files.text(cell, path) for cell in mat_files.cells(variable, path)]
            if not names:
                raise DataError(f"'{path}' lists no frames; expected the names of the {split} frames")
            if len(set(names)) != len(names):
                raise DataError(f"'{path}' lists a frame twice; expected every frame once")
            frames[split] = names
        for name in sorted(set(frames.get("train", [])) & set(frames.get("test", []))):
            path = self.folder / "frame_test.mat"
            raise DataError(f"'{path}' and frame_train.mat both list the frame '{name}'; expected it in one of them")
        return frames

    def _annotations(self, names: list[str], notes: Notes) -> tuple[Ints, Ints, Boxes]:
        """Boxes per frame, and ids and boxes of all of them in one piece; boxes without size are left out."""
        paths = [f"{self.folder}/annotations/{name}{ENDING}" for name in names]
        contents = [mat_files.read_bytes(path, LAYOUT) for path in paths]
        found = parsed("prw annotations 1", contents, lambda: _parse_annotations(contents, paths))
        counts, rows = found["counts"], found["rows"]
        frames = np.repeat(np.arange(len(names)), counts)
        for wrong, what in (
            (~(np.abs(rows) < LARGEST).all(axis=1), f"holds a number that is not finite or not below {LARGEST:g}"),
            (rows[:, 0] != np.trunc(rows[:, 0]), "holds an id that is not a whole number"),
        ):
            if wrong.any():
                raise DataError(f"'{paths[frames[np.argmax(wrong)]]}' {what}; correct it or fetch it again")
        boxes = annotation_boxes(rows[:, 1:])
        sized = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        for frame in frames[~sized].tolist():
            what = "{n} boxes without area are left out (clipped at 0 and in whole pixels, as the set is read)"
            notes.add(self.folder / "annotations", what, names[frame])
        sizes = np.bincount(frames[sized], minlength=len(names)).astype(np.int64)
        return sizes, rows[sized, 0].astype(np.int64), boxes[sized]

    def _train_identities(self) -> Ints:
        path = self.folder / "ID_train.mat"
        variable = mat_files.load(mat_files.read_bytes(path, LAYOUT), path, "ID_train")
        found = mat_files.numbers(variable, path).ravel()
        wrong = ~((found >= 0) & (found < LARGEST) & (found == np.trunc(found)))
        if wrong.any():
            raise DataError(f"'{path}': expected ids that are whole numbers from 0, found {found[wrong][0]:g}")
        return np.unique(found.astype(np.int64))

    def _check_known(self, names: list[str], counts: Ints, ids: Ints, known: Ints) -> None:
        unknown = np.flatnonzero((ids >= 0) & ~np.isin(ids, known))
        if len(unknown):
            frame = names[int(np.searchsorted(np.cumsum(counts), unknown[0], side="right"))]
            raise DataError(
                f"'{self.folder / 'annotations' / frame}{ENDING}': person {ids[unknown[0]]} is not in ID_train.mat; "
                "expected training frames to show training identities only"
            )

    def _queries(self, scenes: list[Scene], known: Ints, notes: Notes) -> list[Query]:
        path = self.folder / QUERY_FILES[self.config.queries]
        try:
            lines = mat_files.read_bytes(path, LAYOUT).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"cannot read '{path}' as UTF-8: {error}") from None
        numbers = {scene.name: number for number, scene in enumerate(scenes)}
        labels = {int(person): label for label, person in enumerate(known)}
        queries = []
        for row, line in enumerate(lines, start=1):
            words = line.split()
            if not words:
                continue
            entry = f"'{path}' line {row}"
            try:
                numbers_read = [float(word) for word in words[1:5]]
                if not all(abs(number) < LARGEST for number in numbers_read):
                    raise ValueError
                person, box = int(words[0]), query_box(*numbers_read)
                (name,) = words[5:]
            except (ValueError, TypeError):
                raise DataError(f"{entry}: expected 'id x y w h name', found '{line.strip()}'") from None
            scene = numbers.get(f"{name}.jpg")
            if scene is None:
                raise DataError(f"{entry}: the query's frame '{name}' is not in frame_test.mat; expected a test frame")
            label = labels.get(person, UNLABELLED)
            own = scenes[scene].boxes[scenes[scene].person_ids == label] if label >= 0 else as_boxes([])
            overlap = iou(own, box[None]).max(initial=0)
            if overlap <= 0:
                raise DataError(f"{entry}: the box matches no annotation of person {person} in '{name}.jpg.mat'")
            if overlap < NEAR:
                what = f"{{n}} queries' boxes are not those annotated (IoU below {NEAR}); they are used as they stand"
                notes.add(path, what, f"line {row}")
            queries.append(Query(scene, box, label))
        if not queries:
            raise DataError(f"'{path}' holds no queries; expected lines 'id x y w h name'")
        return queries


def _parse_annotations(contents: Sequence[bytes], paths: Sequence[str]) -> Arrays:
    """``counts`` (F,) of rows per file, and all ``rows`` (R, 5): id, x, y, w, h."""
    tables = []
    for content, path in zip(contents, paths, strict=True):
        table = mat_files.numbers(mat_files.load(content, path, *VARIABLES), path)
        if table.size and (table.ndim != 2 or table.shape[1] != 5):
            raise DataError(f"'{path}': expected rows of id, x, y, w, h, found {table.shape[-1]} columns")
        tables.append(table.reshape(-1, 5))
    return {"counts": np.array([len(table) for table in tables], dtype=np.int64), "rows": np.concatenate(tables)}


def _scene(name: str, boxes: Boxes, labels: Ints) -> Scene:
    match = _NAME.match(name)
    if match is None:
        raise DataError(f"frame name '{name}': expected 'c' and the camera's number first, as in c1s1_000151")
    camera, sequence, frame = match.groups()
    video, time = (None, None) if sequence is None else (f"c{camera}s{sequence}", int(frame) / FRAMES_PER_SECOND)
    return Scene(f"{name}.jpg", boxes, labels, camera=int(camera), sequence=video, time=time)
