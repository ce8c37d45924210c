"""One written picture and the people in it: what every layout's writer starts from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import Bools, Ints, SplitName


@dataclass(frozen=True, eq=False, slots=True)
class SceneRecord:
    """A picture on disk with its people, hidden ones included.

    Attributes:
        split: which part of the dataset it belongs to.
        camera: from 1.
        frame: from 1, counted per camera in order of time.
        path: of the image, relative to the dataset's folder, with forward slashes.
        width, height: pixels.
        boxes: (N, 4) int64 ``(x1, y1, x2, y2)``, whole pixels inside the image.
        person_ids: (N,) int64, the dataset's identities from 0, or -1.
        visibility: (N,) float64, share of the person's pixels that can be seen.
    """

    split: SplitName
    camera: int
    frame: int
    path: str
    width: int
    height: int
    boxes: Ints
    person_ids: Ints
    visibility: NDArray[np.float64]

    @property
    def name(self) -> str:
        """File name of the image."""
        return self.path.rpartition("/")[2]

    def boxes_xywh(self) -> Ints:
        """(N, 4) int64 ``(x, y, w, h)``."""
        return np.concatenate([self.boxes[:, :2], self.boxes[:, 2:] - self.boxes[:, :2]], axis=1)

    def shown(self, min_visibility: float) -> Bools:
        """(N,) which people can be seen well enough to be annotated."""
        return self.visibility >= min_visibility


@dataclass(frozen=True, slots=True)
class QueryRecord:
    """A search: the person ``row`` of scene number ``scene`` of a list of records."""

    scene: int
    row: int


def choose_queries(scenes: Sequence[SceneRecord], min_visibility: float) -> list[QueryRecord]:
    """One query for every identity shown in two of ``scenes`` or more, by rising person id.

    Boxes at least 75 % visible go first, then those whose person is also shown by another camera; of these the one of
    middle height is taken, so that queries are neither the easiest nor the hardest.
    """
    seen: dict[int, list[QueryRecord]] = {}
    for number, scene in enumerate(scenes):
        for row in np.flatnonzero(scene.shown(min_visibility) & (scene.person_ids >= 0)).tolist():
            seen.setdefault(int(scene.person_ids[row]), []).append(QueryRecord(number, row))
    queries = []
    for _, places in sorted(seen.items()):
        if len({place.scene for place in places}) < 2:
            continue
        clear = [p for p in places if scenes[p.scene].visibility[p.row] >= 0.75] or places
        per_camera = Counter(scenes[p.scene].camera for p in places)
        matched = [p for p in clear if per_camera[scenes[p.scene].camera] < len(places)] or clear
        matched.sort(key=lambda p: int(scenes[p.scene].boxes[p.row, 3] - scenes[p.scene].boxes[p.row, 1]))
        queries.append(matched[len(matched) // 2])
    return queries
