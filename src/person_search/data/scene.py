"""What is in the pictures and which search is asked: the plain types that every dataset loader returns."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from person_search.config import DataConfig
from person_search.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

UNLABELLED = -1
"""Person id of a person without identity."""

Boxes = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
SplitName = Literal["train", "val", "test"]


def as_boxes(values: object) -> Boxes:
    """``values`` as an (N, 4) float32 array; an empty sequence gives (0, 4)."""
    return np.asarray(values, dtype=np.float32).reshape(-1, 4)


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """One whole picture and the people annotated in it.

    Attributes:
        name: path of the image relative to the split's ``image_root``, with forward slashes.
        boxes: (N, 4) float32, ``(x1, y1, x2, y2)`` in pixels of the original image (after EXIF rotation), unclipped.
        person_ids: (N,) int64, identity 0..num_identities-1 or ``UNLABELLED``.
        camera: camera number, or None where the dataset does not say.
        ignore: (K, 4) float32 regions that count neither for nor against a detection and are no training target.
        sequence, time: the video the scene belongs to and its time in seconds there; None for single pictures.
        size: (width, height) in pixels that the annotations give the picture as it is seen; None where they do not say.
    """

    name: str
    boxes: Boxes
    person_ids: Ints
    camera: int | None = None
    ignore: Boxes = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    sequence: str | None = None
    time: float | None = None
    size: tuple[int, int] | None = None

    @property
    def has_identity(self) -> bool:
        """Whether any person here has an identity."""
        return bool((self.person_ids >= 0).any())


@dataclass(frozen=True, eq=False, slots=True)
class Query:
    """One search: the person in ``box`` ((4,) float32 xyxy) of scene number ``scene`` of the same split."""

    scene: int
    box: Boxes
    person_id: int


@dataclass(frozen=True, eq=False)
class Split:
    """The scenes of one part of a dataset and, for testing, the searches asked in it.

    Attributes:
        dataset, name: the dataset's registered name; ``"train"``, ``"val"`` or ``"test"``.
        image_root: folder that scene names are relative to.
        scenes: the pictures.
        num_identities: person ids in ``scenes`` are below this; ids are the split's own.
        queries: searches, in the dataset's order; empty for training.
        seen_identities: (num_identities,) bool: also in the training split; None where identities are disjoint.
        identity_names: what the files call each identity, its id as written; empty where they have no ids of people.
        notes: what its files hold and the program does not use, or reads otherwise than written: one line each.
    """

    dataset: str
    name: SplitName
    image_root: Path
    scenes: list[Scene]
    num_identities: int
    queries: list[Query] = field(default_factory=list)
    seen_identities: Bools | None = None
    identity_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    # Everything that looks at a picture asks here, so that a subclass can take its scenes from elsewhere than one file
    # each. Imports are late: decoding needs PyTorch, scoring does not.

    def path(self, scene: Scene) -> Path:
        """The file that the picture of ``scene`` is in: what messages name."""
        return self.image_root / scene.name

    def read(self, scene: Scene) -> Tensor:
        """The picture of ``scene``, (3, H, W) uint8 RGB, turned as its EXIF orientation says.

        Raises UnreadableImageError, the one error that ``--skip-unreadable`` passes over. Whether it has the size that
        the annotations say is looked at by the caller.
        """
        from person_search.data.decode import read_image

        return read_image(self.path(scene))

    def read_size(self, scene: Scene) -> tuple[int, int]:
        """(width, height) in pixels of the picture that ``read`` gives, without decoding it.

        Raises UnreadableImageError.
        """
        from person_search.data.image_sizes import read_size

        return read_size(self.path(scene))


@dataclass(frozen=True, eq=False)
class Protocol:
    """Which scenes each query is searched in, and where its person is in them.

    A scene is in a query's gallery once or not at all, however often a list names it. ``truth_*`` holds, for query
    q, rows ``truth_offsets[q]:truth_offsets[q + 1]``: one for each scene of its gallery that holds the person.

    Attributes:
        name: what a table calls it, such as ``"gallery 100"`` or ``"cross-camera"``.
        in_gallery: (Q, S) bool over queries and scenes of the split.
        truth_offsets: (Q + 1,) int64.
        truth_scenes: (T,) int64, scene numbers.
        truth_boxes: (T, 4) float32 xyxy.
        truth_counts: (T,) int64, how often each counts among what is to be found; None: once each.
        notes: what the galleries' files hold and the program reads otherwise than written: one line each.
    """

    name: str
    in_gallery: Bools
    truth_offsets: Ints
    truth_scenes: Ints
    truth_boxes: Boxes
    truth_counts: Ints | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ProtocolOptions:
    """What a user may ask of a protocol; a dataset refuses what has no meaning for it.

    Attributes:
        gallery_size: CUHK-SYSU: gallery scenes per query, -1 for the whole test set; None: the dataset's standard.
        cross_camera: only scenes of other cameras than the query's.
    """

    gallery_size: int | None = None
    cross_camera: bool = False


class Dataset(abc.ABC):
    """A dataset on disk. Subclasses register a name and read annotations without opening any image.

    ``root`` is the folder the user gave; errors name the missing file and the layout expected. ``config`` holds the
    settings, those of the dataset's own (query list, time split and so on) included.
    """

    summary: ClassVar[str] = ""
    """One line for lists: what the dataset is and the folder layout it wants."""
    fixed_queries: ClassVar[bool] = False
    """Whether the test queries are a published list that galleries belong to, from which none can be left out."""

    Settings: ClassVar[type[DataConfig]] = DataConfig
    """Which settings there are where the dataset is chosen."""

    def __init__(self, root: Path, config: DataConfig | None = None):
        self.root = root
        self.config = config or self.Settings()

    @abc.abstractmethod
    def split(self, name: SplitName) -> Split:
        """Read one split. Raises DataError for missing or damaged files, UsageError if there is no such split."""

    def has_validation(self) -> bool:
        """Whether the dataset comes with its own ``"val"`` split."""
        return False

    def notes(self) -> tuple[str, ...]:
        """What is to be said of the dataset as a whole, whichever split is used: one line each. See ``Split.notes``."""
        return ()

    def protocol(self, split: Split, options: ProtocolOptions) -> Protocol:
        """Galleries and truths of ``split.queries``. Default: every scene but the query's own.

        Scenes of video that were held out of training are asked for too, with ``held_out_queries``.
        """
        if options.gallery_size is not None:
            raise UsageError(f"dataset '{split.dataset}' has no gallery sizes; leave `gallery_size` out")
        return every_other_scene(split, cross_camera=options.cross_camera)

    def held_out_queries(self, scenes: Sequence[Scene], num_identities: int) -> list[Query]:
        """Searches in training ``scenes`` held out for validation, person ids being below ``num_identities``.

        Default: the first box of everybody in two scenes or more.
        """
        # Imported here because those queries are made of the types above.
        from person_search.data.queries import first_box_queries

        return first_box_queries(scenes, num_identities)


def refuse_validation(dataset: str, name: SplitName) -> None:
    """Raise UsageError where ``"val"`` is asked of a dataset that has no such split."""
    if name == "val":
        raise UsageError(f"{dataset} has no split 'val'; hold one out of training with `validation_share`")


def every_other_scene(split: Split, *, cross_camera: bool = False, allowed: Bools | None = None) -> Protocol:
    """The protocol whose gallery is every scene of ``split`` but the query's own.

    ``cross_camera`` leaves out scenes of the query's camera. ``allowed``, (Q, S) bool, narrows the galleries further.
    Raises UsageError for ``cross_camera`` where a scene's camera is unknown.
    """
    query_scenes = np.array([query.scene for query in split.queries], dtype=np.int64)
    in_gallery = np.ones((len(split.queries), len(split.scenes)), dtype=bool)
    in_gallery[np.arange(len(query_scenes)), query_scenes] = False
    if cross_camera:
        if any(scene.camera is None for scene in split.scenes):
            raise UsageError(f"`cross_camera` needs a camera number on every scene; '{split.dataset}' lacks some")
        cameras = np.array([scene.camera for scene in split.scenes])
        in_gallery &= cameras[query_scenes][:, None] != cameras[None, :]
    if allowed is not None:
        in_gallery &= allowed
    return with_truths("cross-camera" if cross_camera else "all scenes", split, in_gallery)


def with_truths(name: str, split: Split, in_gallery: Bools) -> Protocol:
    """Complete ``in_gallery`` with the first annotated box of each query's person in each of its gallery scenes."""
    ids = np.concatenate([scene.person_ids for scene in split.scenes] or [np.zeros(0, np.int64)])
    boxes = np.concatenate([scene.boxes for scene in split.scenes] or [np.zeros((0, 4), np.float32)])
    scenes = np.repeat(np.arange(len(split.scenes)), [len(scene.boxes) for scene in split.scenes])
    by_id = np.argsort(ids, kind="stable")
    # Rows of one identity are in scene order: a box whose scene is that of the box before it is not the first there.
    by_id = by_id[np.diff(ids[by_id], prepend=-2).astype(bool) | np.diff(scenes[by_id], prepend=-1).astype(bool)]
    starts = np.searchsorted(ids[by_id], np.arange(split.num_identities + 1))
    rows: list[Ints] = []
    for number, query in enumerate(split.queries):
        own = by_id[starts[query.person_id] : starts[query.person_id + 1]]
        rows.append(own[in_gallery[number, scenes[own]]])
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    rows.clear()  # in a long video with few people these are the largest arrays of all
    return Protocol(name, in_gallery, offsets, scenes[flat].astype(np.int64), boxes[flat])
