"""COCO-style JSON: ``{train,val,test}.json`` beside ``images/``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from person_search.data.scene import SplitName
from person_search.data.writers.records import SceneRecord, choose_queries

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


def image_path(number: int, split: SplitName, camera: int, frame: int) -> str:
    """``images/c1/000001.jpg``: camera and frame."""
    return f"images/c{camera}/{frame:06d}.jpg"


def write(root: Path, scenes: Sequence[SceneRecord], min_visibility: float) -> None:
    """One file per split that has scenes; people too hidden become regions to ignore (``"iscrowd": 1``)."""
    for split in SPLITS:
        own = [scene for scene in scenes if scene.split == split]
        if own:
            (root / f"{split}.json").write_text(json.dumps(_tree(own, split, min_visibility)), encoding="utf-8")


def _tree(scenes: Sequence[SceneRecord], split: SplitName, min_visibility: float) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes, start=1):
        images.append(
            {
                "id": number,
                "file_name": scene.path.removeprefix("images/"),
                "width": scene.width,
                "height": scene.height,
                "camera": scene.camera,
            }
        )
        shown = scene.shown(min_visibility).tolist()
        for row, box in enumerate(scene.boxes_xywh().tolist()):
            # Whoever reads a crowd region with a person's id may take it for that person.
            identity = {"person_id": int(scene.person_ids[row])} if shown[row] else {}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0 if shown[row] else 1,
                    **identity,
                    "visibility": round(float(scene.visibility[row]), 3),
                }
            )
    tree: dict[str, Any] = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "person"}],
    }
    if split != "train":
        tree["queries"] = [
            {
                "image_id": query.scene + 1,
                "bbox": scenes[query.scene].boxes_xywh()[query.row].tolist(),
                "person_id": int(scenes[query.scene].person_ids[query.row]),
            }
            for query in choose_queries(scenes, min_visibility)
        ]
    return tree
