"""The pictures of a report: read from the dataset, drawn on, written beside the page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from person_search.data.scene import Boxes, Scene
from person_search.errors import PersonSearchError
from person_search.visualize.boxes import Color, Image, check_image, draw_boxes, draw_text, text_width
from person_search.visualize.ranking import Hit, crop_person, fit_height, ranking_list

ReadScene = Callable[[Scene], Any]

_QUALITY = 88
_CROP_HEIGHT = 240
_SCENE_WIDTH = 960


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture file of the report: its address relative to the page, its size in pixels, what became of it."""

    src: str
    width: int
    height: int
    readable: bool = True


class Pictures:
    """Writes pictures into ``root/pictures`` and remembers which scenes could not be read.

    Args:
        root: folder of the page.
        scenes: those that may be asked for, by name.
        read_scene: a scene -> (H, W, 3) uint8 RGB; what it raises makes the scene unreadable.
    """

    def __init__(self, root: Path, scenes: Iterable[Scene], read_scene: ReadScene):
        self.unreadable: dict[str, str] = {}
        self._root = root
        self._scenes = {scene.name: scene for scene in scenes}
        self._read_scene = read_scene
        (root / "pictures").mkdir(parents=True, exist_ok=True)
        # Scenes come back as hits of several queries; a few large ones are all that memory should hold.
        self.scene = lru_cache(maxsize=12)(self._read)

    def scene_with(self, stem: str, name: str, layers: Sequence[Layer]) -> Picture:
        """The whole scene, at most 960 pixels wide, with layers of boxes, the last on top."""
        image = self.scene(name)
        if image is None:
            return self._save_placeholder(stem, 640, 360)
        scale = min(1.0, _SCENE_WIDTH / image.shape[1])
        drawn = fit_height(image, max(1, round(image.shape[0] * scale)))
        for layer in layers:
            drawn = draw_boxes(
                drawn,
                layer.boxes * np.float32(scale),
                layer.color,
                layer.labels,
                thickness=layer.thickness,
                dashed=layer.dashed,
            )
        return self.save(stem, drawn)

    def person(self, stem: str, name: str, box: Boxes, color: Color) -> Picture:
        """The person in ``box`` ((4,) xyxy) with some of the surroundings, 240 pixels high."""
        image = self.scene(name)
        if image is None or not np.isfinite(box).all():
            return self._save_placeholder(stem, _CROP_HEIGHT // 2, _CROP_HEIGHT)
        crop, inside = crop_person(image, box)
        resized = fit_height(crop, _CROP_HEIGHT)
        outline = inside * np.float32(_CROP_HEIGHT / crop.shape[0])
        return self.save(stem, draw_boxes(resized, outline, color, thickness=1))

    def whole_scenes(self, stem: str, query: Mapping[str, Any], hits: Sequence[Mapping[str, Any]]) -> Picture | None:
        """Query and hits in their whole scenes, as one picture; None where the query's is unreadable."""
        image = self.scene(query["scene"])
        if image is None:
            return None
        shown: list[Hit] = []
        for hit in hits:
            scene, box = self.scene(hit["scene"]), np.array(hit["box"], np.float32)
            if scene is None:
                scene, box = placeholder(image.shape[1], image.shape[0]), np.full(4, np.nan, np.float32)
            shown.append(Hit(scene, box, hit["similarity"], hit["correct"], hit["scene"]))
        box = np.array(query["box"], np.float32)
        picture = ranking_list(image, box, shown, query_name=query["scene"], whole_scenes=True, columns=3)
        return self.save(stem, picture)

    def save(self, stem: str, image: Image) -> Picture:
        """Write ``image`` as ``pictures/STEM.jpg``. Raises OSError."""
        encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        (self._root / "pictures" / f"{stem}.jpg").write_bytes(encoded.tobytes())
        return Picture(f"pictures/{stem}.jpg", image.shape[1], image.shape[0])

    def _save_placeholder(self, stem: str, width: int, height: int) -> Picture:
        return replace(self.save(stem, placeholder(width, height)), readable=False)

    def _read(self, name: str) -> Image | None:
        if name in self.unreadable:
            return None
        try:
            image = np.asarray(self._read_scene(self._scenes[name]))
            check_image(image)
        except (PersonSearchError, OSError, ValueError, RuntimeError) as error:
            self.unreadable[name] = _reason(error)
            return None
        return image


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """Boxes of one meaning: (N, 4) xyxy in pixels of the scene, their colour and N labels."""

    boxes: Boxes
    color: Color
    labels: Sequence[str] | None = None
    thickness: int | None = None
    dashed: bool = False


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def placeholder(width: int, height: int) -> Image:
    """A grey picture that says that there is none."""
    image = np.full((height, width, 3), 107, np.uint8)
    size = max(10, height // 20)
    for line, text in enumerate(("cannot", "be read")):
        left = (width - text_width(text, size)) // 2
        draw_text(image, text, left, height // 2 + 2 * size * line, (255, 255, 255), size)
    return image
