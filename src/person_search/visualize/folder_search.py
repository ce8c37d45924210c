"""One search in any folder of pictures: who in there looks most like the person in a box."""

from __future__ import annotations

import heapq
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from person_search.data.decode import read_image
from person_search.data.image_header import IMAGE_SUFFIXES
from person_search.data.notes import Notes
from person_search.data.scene import Boxes
from person_search.data.unreadable import UnreadableImageError
from person_search.errors import DataError, UsageError
from person_search.models.inference import prepare_for_inference
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.streaming import boxes_outside, detections_of
from person_search.runtime.files import output_file
from person_search.visualize.boxes import Image
from person_search.visualize.ranking import Hit, ranking_list

DRAWN_SUFFIXES = (".png", ".jpg", ".jpeg")
"""Files that can be drawn."""


@dataclass(frozen=True, eq=False, slots=True)
class Found:
    """A person in a picture of the gallery.

    Attributes:
        path: the picture.
        box: (4,) float32 xyxy, pixels of the picture.
        score: of the detection, 0..1.
        similarity: to the query.
    """

    path: Path
    box: Boxes
    score: float
    similarity: float


@dataclass(eq=False, slots=True)
class FolderRanking:
    """The most similar people of a gallery, best first, how many were compared, and what could not be read."""

    hits: list[Found] = field(default_factory=list)
    people: int = 0
    unreadable: list[DataError] = field(default_factory=list)


def images_in(folder: Path, *, without: Path | None = None, notes: Notes | None = None) -> list[Path]:
    """The pictures in ``folder`` and the folders in it, by name; the file ``without`` is left out.

    ``notes`` is told what else is there, by kind: files that are not read, hidden pictures, links to folders, and
    folders that cannot be opened. Raises DataError where there is no such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise DataError(f"the gallery '{folder}' is not a folder; give a folder of pictures")
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    closed: list[OSError] = []
    for place, folders, files in os.walk(folder, onerror=closed.append):
        left_out["linked folders"] += sum(os.path.islink(os.path.join(place, name)) for name in folders)
        for name in files:
            path = Path(place, name)
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                # What systems hide in folders (.DS_Store) nobody put there to be searched.
                left_out[path.suffix.lower() or "without an ending"] += not hidden
            elif hidden:
                left_out["hidden pictures"] += 1
            elif path.is_file() and not (without is not None and without.exists() and path.samefile(without)):
                found.append(path)
            elif not path.is_file():
                left_out["broken links"] += 1
    left_out["folders that cannot be opened"] += len(closed)
    others = ", ".join(f"{kind} {count}" for kind, count in left_out.most_common() if count)
    if not found:
        besides = " besides the query's own" if without is not None else ""
        raise DataError(
            f"no pictures in '{folder}'{besides}; expected {', '.join(IMAGE_SUFFIXES)} files there, "
            f"found {others or 'nothing'}"
        )
    if others and notes is not None:
        notes.add(folder, f"left out, by kind: {others}; convert to JPEG or PNG what is to be searched")
    return sorted(found)


def parse_box(text: str) -> Boxes:
    """``"x1,y1,x2,y2"`` as (4,) float32. Raises UsageError for anything but four finite numbers in order."""
    try:
        box = np.array([float(part) for part in text.split(",")], np.float32)
    except ValueError:
        box = np.zeros(0, np.float32)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise UsageError(f"`box` {text}: expected x1,y1,x2,y2, pixels of the query's picture, such as 120,40,180,210")
    if box[0] >= box[2] or box[1] >= box[3]:
        raise UsageError(
            f"`box` {text}: expected x1,y1,x2,y2 with x1 < x2 and y1 < y2, corners and not width and height"
        )
    return box


def check_inside(box: Boxes, image: Tensor) -> None:
    """Raise UsageError unless some of ``box`` ((4,) xyxy) lies in the (3, H, W) ``image``."""
    if bool(boxes_outside(torch.from_numpy(box)[None], image)):
        height, width = image.shape[1:]
        given = ",".join(f"{value:g}" for value in box)
        raise UsageError(f"`box` {given} lies outside the query's picture, which is {width} x {height} pixels")


def search_folder(
    model: PersonSearchModel,
    query: Tensor,
    box: Boxes,
    images: Sequence[Path],
    *,
    top: int,
    score_threshold: float,
    cws: bool = False,
    batch_size: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> FolderRanking:
    """The ``top`` people of ``images`` most similar to the one in ``box`` of ``query``.

    Args:
        model: in evaluation mode, on the device to use.
        query: (3, H, W) uint8 RGB.
        box: (4,) xyxy, pixels of ``query``.
        images: files; one that cannot be read is noted and left out.
        top: hits kept, at least 1; equally similar ones in the order of the files.
        score_threshold: detections below this score are left out.
        cws: similarities count times the score (confidence-weighted similarity).
        batch_size: images in one pass.
        progress: called with the images done and their number.

    Raises DataError when no picture can be read, or nobody is found in any.
    """
    model = prepare_for_inference(model)
    asked = detections_of(model, [query], with_boxes=[torch.from_numpy(box)[None]], detect=False)
    wanted = next(asked).given[0].embedding.double()
    ranking = FolderRanking()
    read: deque[Path] = deque()
    with detections_of(model, _readable(images, read, ranking.unreadable), batch_size=batch_size) as results:
        for number, result in enumerate(results, start=1):
            path, found = read.popleft(), result.detections
            embeddings = found.embeddings * found.scores[:, None] if cws else found.embeddings
            people = zip(
                found.boxes.numpy(), found.scores.tolist(), (embeddings.double() @ wanted).tolist(), strict=True
            )
            kept = [Found(path, *person) for person in people if person[1] >= score_threshold]
            ranking.people += len(kept)
            ranking.hits = heapq.nsmallest(top, [*ranking.hits, *kept], key=lambda hit: -hit.similarity)
            if progress:
                progress(number + len(ranking.unreadable), len(images))
    if len(ranking.unreadable) == len(images):
        raise DataError(f"none of {len(images)} pictures can be read; the first: {ranking.unreadable[0]}")
    if not ranking.hits:
        raise DataError(
            f"nobody found in {len(images)} pictures at a score of {score_threshold:g}; lower `search_threshold`"
        )
    return ranking


def draw_ranking(query: Tensor, box: Boxes, ranking: FolderRanking, *, query_name: str, whole_scenes: bool) -> Image:
    """The ranking list as (H, W, 3) uint8 RGB; nobody judges the hits, so their frames are grey."""
    hits = [
        Hit(_pixels(read_image(found.path)), found.box, found.similarity, None, found.path.name)
        for found in ranking.hits
    ]
    return ranking_list(_pixels(query), box, hits, query_name=query_name, whole_scenes=whole_scenes)


def check_picture_name(path: Path) -> None:
    """Raise UsageError unless a picture can be written under this name."""
    if path.suffix.lower() not in DRAWN_SUFFIXES:
        raise UsageError(f"`out` {path}: expected a name that ends in {', '.join(DRAWN_SUFFIXES)}")


def write_picture(path: Path, picture: Image) -> None:
    """Write an (H, W, 3) uint8 RGB picture, whole or not at all. Raises DataError."""
    _, data = cv2.imencode(path.suffix, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    with output_file(path, "picture") as file:
        file.write(data.tobytes())


def _readable(paths: Iterable[Path], read: deque[Path], unreadable: list[DataError]) -> Iterator[Tensor]:
    """The pictures that can be read; their paths go to ``read``, and why the others cannot to ``unreadable``."""
    for path in paths:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            unreadable.append(error)
        else:
            read.append(path)
            yield image


def _pixels(image: Tensor) -> Image:
    return image.permute(1, 2, 0).numpy()
