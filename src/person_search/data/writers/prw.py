"""The layout of PRW (Zheng et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import SplitName
from person_search.data.writers.matlab import cell, row_vector, save
from person_search.data.writers.records import QueryRecord, SceneRecord, choose_queries

VARIABLES = ("box_new", "anno_file", "anno_previous")
"""Names of the annotation variable; the published files use all three."""
WITHOUT_IDENTITY = -2


def image_path(number: int, split: SplitName, camera: int, frame: int) -> str:
    """``frames/c1s1_000001.jpg``: camera, sequence 1, frame."""
    return f"frames/c{camera}s1_{frame:06d}.jpg"


def write(root: Path, scenes: Sequence[SceneRecord], min_visibility: float) -> None:
    """``annotations/``, ``frame_{train,test}.mat``, ``ID_train.mat`` and the query lists.

    Validation scenes count as training scenes. People too hidden are left out. Ids count from 1. PRW-mini's list is
    every second query.
    """
    for number, scene in enumerate(scenes):
        variable = VARIABLES[number % len(VARIABLES)]
        save(root / "annotations" / f"{scene.name}.mat", {variable: _table(scene, min_visibility)})
    test = [scene for scene in scenes if scene.split == "test"]
    train = [scene for scene in scenes if scene.split != "test"]
    for name, frames in (("train", train), ("test", test)):
        save(root / f"frame_{name}.mat", {f"img_index_{name}": cell(_stem(scene) for scene in frames).T})
    shown = [scene.person_ids[scene.shown(min_visibility)] for scene in train]
    ids = np.unique(np.concatenate(shown))
    save(root / "ID_train.mat", {"ID_train": row_vector((ids[ids >= 0] + 1).tolist())})
    queries = [_query(test, query) for query in choose_queries(test, min_visibility)]
    (root / "query_info.txt").write_bytes("".join(queries).encode())
    (root / "prwmini_query_info.txt").write_bytes("".join(queries[::2]).encode())


def _stem(scene: SceneRecord) -> str:
    return scene.name.removesuffix(".jpg")


def _table(scene: SceneRecord, min_visibility: float) -> NDArray[np.float64]:
    ids = np.where(scene.person_ids >= 0, scene.person_ids + 1, WITHOUT_IDENTITY)
    table = np.concatenate([ids[:, None], scene.boxes_xywh()], axis=1)[scene.shown(min_visibility)]
    return table.astype(np.float64)


def _query(scenes: Sequence[SceneRecord], query: QueryRecord) -> str:
    scene = scenes[query.scene]
    box = " ".join(str(value) for value in scene.boxes_xywh()[query.row].tolist())
    return f"{scene.person_ids[query.row] + 1} {box} {_stem(scene)}\r\n"
