"""The layout of CUHK-SYSU (Xiao et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from person_search.data.scene import SplitName
from person_search.data.writers.matlab import Nested, cell, row_vector, save, struct
from person_search.data.writers.records import QueryRecord, SceneRecord, choose_queries

GALLERY_SIZES = (50, 100, 500, 1000, 2000, 4000)
HARD_BELOW = 0.7
"""People less visible than this are marked ``ishard``."""


def image_path(number: int, split: SplitName, camera: int, frame: int) -> str:
    """``Image/SSM/s1.jpg``, numbered from 1."""
    return f"Image/SSM/s{number + 1}.jpg"


def write(root: Path, scenes: Sequence[SceneRecord], min_visibility: float) -> None:
    """``annotation/``: Images.mat, pool.mat, Train.mat and the TestG files the set is large enough for.

    Validation scenes count as training scenes. People too hidden are left out. TestG50 is always written, with as many
    gallery scenes as there are; every gallery lists the scenes that hold the person first.
    """
    folder = root / "annotation"
    test = [scene for scene in scenes if scene.split == "test"]
    train = [scene for scene in scenes if scene.split != "test"]
    save(
        folder / "Images.mat",
        {"Img": struct([_image(s, min_visibility) for s in scenes], ("imname", "nAppear", "box"))},
    )
    save(folder / "pool.mat", {"pool": cell(scene.name for scene in test).T})
    protocols = folder / "test" / "train_test"
    save(protocols / "Train.mat", {"Train": cell(_train(train, min_visibility)).T})
    searches = _searches(test, min_visibility)
    fit = min((len(search.found) + len(search.without) for search in searches), default=0)
    for size in GALLERY_SIZES:
        if size <= fit or size == GALLERY_SIZES[0]:
            rows = [_row(search, test, size) for search in searches]
            save(protocols / f"TestG{size}.mat", {f"TestG{size}": struct(rows, ("Query", "Gallery"))})


def _image(scene: SceneRecord, min_visibility: float) -> tuple[Any, ...]:
    boxes = scene.boxes_xywh()[scene.shown(min_visibility)]
    return scene.name, float(len(boxes)), struct([(row_vector(box),) for box in boxes], ("idlocate",))


def _train(scenes: Sequence[SceneRecord], min_visibility: float) -> list[Nested]:
    appearances: dict[int, list[tuple[Any, ...]]] = {}
    for scene in scenes:
        for row in np.flatnonzero(scene.shown(min_visibility) & (scene.person_ids >= 0)):
            appearances.setdefault(int(scene.person_ids[row]), []).append(_appearance(scene, int(row)))
    return [
        struct(
            [(_idname(person), float(len(places)), struct(places, ("imname", "idlocate", "ishard")))],
            ("idname", "nAppear", "scene"),
        )
        for person, places in sorted(appearances.items())
    ]


def _appearance(scene: SceneRecord, row: int) -> tuple[Any, ...]:
    return scene.name, row_vector(scene.boxes_xywh()[row]), float(scene.visibility[row] < HARD_BELOW)


def _idname(person: int) -> str:
    return f"p{person + 1}"


@dataclass(frozen=True, slots=True)
class _Search:
    """A query, where its person is found (at most 50 places), and the scenes without the person, in gallery order."""

    query: QueryRecord
    found: list[QueryRecord]
    without: list[int]


def _searches(scenes: Sequence[SceneRecord], min_visibility: float) -> list[_Search]:
    searches = []
    for number, query in enumerate(choose_queries(scenes, min_visibility)):
        person = scenes[query.scene].person_ids[query.row]
        found, without = [], []
        for place, scene in enumerate(scenes):
            rows = np.flatnonzero(scene.person_ids == person)
            if not len(rows):
                without.append(place)
            elif place != query.scene and scene.shown(min_visibility)[rows[0]]:
                found.append(QueryRecord(place, int(rows[0])))
        order = np.random.default_rng([number, len(scenes)]).permutation(len(without))
        searches.append(_Search(query, found[: GALLERY_SIZES[0]], [without[place] for place in order]))
    return searches


def _row(search: _Search, scenes: Sequence[SceneRecord], size: int) -> tuple[Nested, Nested]:
    fields = ("imname", "idlocate", "ishard")
    scene = scenes[search.query.scene]
    person = int(scene.person_ids[search.query.row])
    query = struct([(*_appearance(scene, search.query.row), _idname(person))], (*fields, "idname"))
    found = [_appearance(scenes[place.scene], place.row) for place in search.found]
    others = search.without[: size - len(found)]
    return query, struct([*found, *((scenes[place].name, row_vector(()), 0.0) for place in others)], fields)
