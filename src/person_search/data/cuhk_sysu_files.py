"""CUHK-SYSU's MATLAB files as plain arrays: what is written there, before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from person_search.data import mat_files
from person_search.data.mat_files import Value
from person_search.data.parse_cache import Arrays, parsed
from person_search.data.scene import Ints
from person_search.errors import DataError

Names = NDArray[np.str_]
Xywh = NDArray[np.float64]


@dataclass(frozen=True)
class ImageList:
    """Images.mat: ``boxes`` (B, 4) x, y, w, h; those of image ``names[n]`` are rows ``starts[n]:starts[n + 1]``."""

    names: Names
    starts: Ints
    boxes: Xywh


@dataclass(frozen=True)
class IdentityList:
    """Train.mat: appearance k is ``boxes[k]`` (A, 4) in ``names[k]``; identity n's are ``starts[n]:starts[n + 1]``."""

    starts: Ints
    names: Names
    boxes: Xywh


@dataclass(frozen=True)
class GalleryList:
    """A TestG file: query q is ``query_boxes[q]`` in ``query_names[q]``, its gallery ``starts[q]:starts[q + 1]``.

    Attributes:
        names: (U,) every image once.
        images: (E,) of each gallery entry, its place in ``names``.
        located: (T,) the entries that hold the person, ascending.
        boxes: (T, 4) where.
    """

    query_names: Names
    query_boxes: Xywh
    starts: Ints
    names: Names
    images: Ints
    located: Ints
    boxes: Xywh


def read_images(path: Path, layout: str) -> ImageList:
    """Read Images.mat. Raises DataError."""
    return ImageList(**_read(path, layout, "images 1", _parse_images))


def read_pool(path: Path, layout: str) -> list[str]:
    """Names of the test images in pool.mat. Raises DataError."""
    variable = mat_files.load(mat_files.read_bytes(path, layout), path, "pool")
    return [mat_files.text(cell, path) for cell in mat_files.cells(variable, path)]


def read_identities(path: Path, layout: str) -> IdentityList:
    """Read Train.mat. Raises DataError."""
    return IdentityList(**_read(path, layout, "identities 1", _parse_identities))


def read_galleries(path: Path, layout: str) -> GalleryList:
    """Read a TestG file, whose variable has the file's name. Raises DataError."""
    return GalleryList(**_read(path, layout, f"galleries 1 {path.stem}", _parse_galleries))


def _read(path: Path, layout: str, kind: str, parse: Callable[[bytes, Path], Arrays]) -> Arrays:
    contents = mat_files.read_bytes(path, layout)
    return parsed(f"cuhk-sysu {kind}", [contents], lambda: parse(contents, path))


def _parse_images(contents: bytes, path: Path) -> Arrays:
    imnames, people = mat_files.columns(mat_files.load(contents, path, "Img"), path, "imname", "box")
    names = [mat_files.text(name, path) for name in imnames]
    places = [mat_files.columns(box, path, "idlocate")[0] for box in people]
    for name, boxes in zip(names, places, strict=True):
        if any(box.size != 4 for box in boxes):
            raise DataError(f"'{path}' image '{name}': expected boxes of 4 numbers (x, y, w, h)")
    return {
        "names": _texts(names),
        "starts": _starts(places),
        "boxes": _boxes([box for boxes in places for box in boxes], path),
    }


def _parse_identities(contents: bytes, path: Path) -> Arrays:
    (scenes,) = mat_files.columns(mat_files.load(contents, path, "Train"), path, "scene")
    names: list[list[Value]] = []
    boxes: list[list[Value]] = []
    for number, scene in enumerate(scenes, start=1):
        imname, idlocate = mat_files.columns(scene, path, "imname", "idlocate")
        if any(box.size != 4 for box in idlocate):
            raise DataError(f"'{path}' identity {number}: expected boxes of 4 numbers (x, y, w, h)")
        names.append(imname)
        boxes.append(idlocate)
    return {
        "starts": _starts(names),
        "names": _texts([mat_files.text(name, path) for own in names for name in own]),
        "boxes": _boxes([box for own in boxes for box in own], path),
    }


def _parse_galleries(contents: bytes, path: Path) -> Arrays:
    variable = mat_files.load(contents, path, path.stem)
    queries: list[tuple[Value, Value]] = []
    found: dict[bytes, int] = {}
    names: list[str] = []
    images: list[list[int]] = []
    located: list[int] = []
    boxes: list[Value] = []
    entries = 0
    for number, (query, gallery) in enumerate(zip(*mat_files.columns(variable, path, "Query", "Gallery"), strict=True)):
        asked = list(zip(*mat_files.columns(query, path, "imname", "idlocate"), strict=True))
        if len(asked) != 1 or asked[0][1].size != 4:
            raise DataError(f"'{path}' query {number + 1}: expected one query with a box of 4 numbers (x, y, w, h)")
        queries += asked
        imname, idlocate = mat_files.columns(gallery, path, "imname", "idlocate")
        # The same few thousand names hundreds of thousands of times: they are made into text once.
        keys = [name.tobytes() for name in imname]
        for key, name in zip(keys, imname, strict=True):
            if key not in found:
                found[key] = len(names)
                names.append(mat_files.text(name, path))
        images.append([found[key] for key in keys])
        for entry, box in enumerate(idlocate, start=entries):
            if box.size:
                if box.size != 4:
                    raise DataError(f"'{path}' query {number + 1}: expected boxes of 4 numbers (x, y, w, h) or none")
                located.append(entry)
                boxes.append(box)
        entries += len(imname)
    return {
        "query_names": _texts([mat_files.text(name, path) for name, _ in queries]),
        "query_boxes": _boxes([box for _, box in queries], path),
        "starts": _starts(images),
        "names": _texts(names),
        "images": np.array([image for own in images for image in own], dtype=np.int64),
        "located": np.array(located, dtype=np.int64),
        "boxes": _boxes(boxes, path),
    }


def _texts(values: list[str]) -> Names:
    return np.array(values, dtype=np.str_)


def _starts(lists: Sequence[Sequence[Any]]) -> Ints:
    return np.cumsum([0, *map(len, lists)], dtype=np.int64)


def _boxes(values: list[Value], path: Path) -> Xywh:
    """Arrays of four numbers as (N, 4) float64."""
    if any(value.dtype.kind not in "iuf" for value in values):
        raise mat_files.damaged(path, "expected boxes of numbers, found another kind of value")
    # Small integer types, as MATLAB stores doubles, must not overflow when corners are added.
    flat = np.concatenate([np.zeros(0), *(value.ravel() for value in values)], dtype=np.float64)
    if not np.isfinite(flat).all():
        raise mat_files.damaged(path, "a box holds a number that is not finite")
    return flat.reshape(-1, 4)
