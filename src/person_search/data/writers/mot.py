"""MOTChallenge folders: every camera a sequence of one picture per second."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from person_search.data.scene import SplitName
from person_search.data.writers.records import SceneRecord

FRAMES_PER_SECOND = 1


def image_path(number: int, split: SplitName, camera: int, frame: int) -> str:
    """``camera-01/img1/000001.jpg``: camera and frame."""
    return f"{_sequence(camera)}/img1/{frame:06d}.jpg"


def write(root: Path, scenes: Sequence[SceneRecord], min_visibility: float) -> None:
    """``gt/gt.txt`` and ``seqinfo.ini`` per camera.

    Ids count from 1, are the same for every camera (``sharedIds``, which our loader reads) and -1 for people without
    identity; people too hidden get confidence 0 (a region to ignore).
    """
    for camera in sorted({scene.camera for scene in scenes}):
        frames = sorted((scene for scene in scenes if scene.camera == camera), key=lambda scene: scene.frame)
        folder = root / _sequence(camera)
        (folder / "gt").mkdir(parents=True, exist_ok=True)
        rows = [row for scene in frames for row in _rows(scene, min_visibility)]
        (folder / "gt" / "gt.txt").write_text("".join(rows), encoding="utf-8")
        info = {
            "name": folder.name,
            "imDir": "img1",
            "frameRate": FRAMES_PER_SECOND,
            "seqLength": frames[-1].frame,
            "imWidth": frames[0].width,
            "imHeight": frames[0].height,
            "imExt": ".jpg",
            "sharedIds": "true",
        }
        lines = "".join(f"{key}={value}\n" for key, value in info.items())
        (folder / "seqinfo.ini").write_text(f"[Sequence]\n{lines}", encoding="utf-8")


def _sequence(camera: int) -> str:
    return f"camera-{camera:02d}"


def _rows(scene: SceneRecord, min_visibility: float) -> list[str]:
    shown = scene.shown(min_visibility)
    return [
        f"{scene.frame},{person + 1 if person >= 0 else -1},{x},{y},{w},{h},"
        f"{int(shown[row])},1,{scene.visibility[row]:.3f}\n"
        for row, ((x, y, w, h), person) in enumerate(
            zip(scene.boxes_xywh().tolist(), scene.person_ids.tolist(), strict=True)
        )
    ]
