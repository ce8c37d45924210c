"""What a model produced on a test split, and the file it is kept in: the only thing that scoring reads."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from person_search.data.scene import Bools, Boxes, Ints, Split
from person_search.errors import DataError
from person_search.evaluation.optional_arrays import CONTEXT, OPTIONAL_ARRAYS, declared
from person_search.evaluation.overlaps import offsets_of, scene_pairs
from person_search.runtime.files import output_file

Float32s = NDArray[np.float32]
Names = NDArray[np.str_]

REQUIRED = ("scene_names", "offsets", "boxes", "scores", "embeddings", "query_embeddings")
MODEL_ID = "model_id"
SCORES_DIFFER, ROUNDED = 1.05, 1.001
"""Largest over smallest number from which numbers differ, and up to which they are the same but for rounding."""
NUMPY_STARTS = (b"PK", b"\x93NUMPY")
"""First bytes of an archive of arrays and of a single array."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """Detections of every scene of a test split and the embedding of every query.

    Attributes:
        scene_names: (S,) str, paths relative to the image root, each once.
        offsets: (S + 1,) int64; the detections of scene i are rows ``offsets[i]:offsets[i + 1]``.
        boxes: (M, 4) float32 xyxy, pixels of the original image.
        scores: (M,) float32 in 0..1.
        embeddings: (M, D) float32.
        query_embeddings: (Q, D) float32, in the dataset's query order.
        query_offsets, query_boxes, query_scores, query_context: (Q + 1,) int64, (P, 4), (P,), (P, D) float32, the
            people of each query's scene, the query itself first; all four or none. CBGM needs them.
        arrays: other optional arrays by name: see ``optional_arrays.OPTIONAL_ARRAYS``.
        model_id: the id of the model that made them, where it is known.
        source: what errors call these predictions; names the file they were read from.
    """

    scene_names: Names
    offsets: Ints
    boxes: Boxes
    scores: Float32s
    embeddings: Float32s
    query_embeddings: Float32s
    query_offsets: Ints | None = None
    query_boxes: Boxes | None = None
    query_scores: Float32s | None = None
    query_context: Float32s | None = None
    arrays: Mapping[str, Float32s] = field(default_factory=dict)
    model_id: str | None = None
    source: str = "predictions"

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def counts(self) -> Ints:
        """(S,) int64, detections per scene."""
        return np.diff(self.offsets)

    @property
    def scene_of(self) -> Ints:
        """(M,) int64, the scene number of every detection."""
        return np.repeat(np.arange(len(self.scene_names), dtype=np.int64), self.counts)

    def optional(self, name: str) -> Any:
        """The optional array of this name, None where it is not there."""
        return getattr(self, name) if name in CONTEXT else self.arrays.get(name)

    def require(self, names: Sequence[str], *, by: str, advice: str) -> None:
        """Raise DataError, saying that ``by`` needs them and what to do, unless these optional arrays are there."""
        missing = [name for name in names if self.optional(name) is None]
        if missing:
            *others, last = missing
            listed = f"arrays {', '.join(others)} and {last}" if others else f"array {last}"
            verb = "are" if others else "is"
            raise DataError(f"{self.source}: {by} needs the {listed}, which {verb} not there; {advice}")

    def reordered(self, scenes: Ints | None, detections: Ints | Bools) -> dict[str, Float32s]:
        """``arrays`` with rows of scenes (None: as they are) and of detections chosen, by number or mask."""
        chosen = {"S": slice(None) if scenes is None else scenes, "M": detections}
        return {
            name: value[chosen.get(str(declared(name).shape[0]), slice(None))] for name, value in self.arrays.items()
        }

    def keep(self, mask: Bools) -> Predictions:
        """The same scenes and queries with the detections of ``mask``, (M,) bool, only."""
        if mask.all():
            return self
        counts = np.bincount(self.scene_of[mask], minlength=len(self.scene_names))
        return replace(
            self,
            offsets=offsets_of(counts),
            boxes=self.boxes[mask],
            scores=self.scores[mask],
            embeddings=self.embeddings[mask],
            arrays=self.reordered(None, mask),
        )

    def weighted_by_score(self) -> Predictions:
        """The same with the embedding of every detection times its score; queries and the people beside them stay.

        Raises DataError where the embeddings have the score in them already.
        """
        if self._has_scores_in_lengths():
            raise DataError(
                f"{self.source}: the embeddings are weighted by the scores already, as predict --cws of version 0.1.0 "
                "wrote them; leave `cws` out to score them so, or predict again"
            )
        return replace(self, embeddings=self.embeddings * self.scores[:, None])

    def _has_scores_in_lengths(self) -> bool:
        """Whether scores differ and embeddings are as long as their score times one number."""
        lengths = np.linalg.norm(self.embeddings[self.scores > 0], axis=1)
        scores = self.scores[self.scores > 0]
        if len(scores) < 2 or scores.max() < SCORES_DIFFER * scores.min():
            return False
        ratio = lengths / scores
        return bool(ratio.max() < ROUNDED * ratio.min())

    def validate(self) -> None:
        """Raise DataError, with ``source``, array, shape and rule, for the first rule that is violated."""
        _Check(self).run()

    def write(self, file: BinaryIO) -> None:
        """Write the contents of a predictions file. Raises DataError when they are not valid, OSError."""
        self.validate()
        arrays = {name: value for name in (*REQUIRED, *CONTEXT) if (value := getattr(self, name)) is not None}
        arrays |= self.arrays
        if self.model_id is not None:
            arrays[MODEL_ID] = np.array(self.model_id)
        np.savez(file, **arrays)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Raises DataError when it cannot be written or is not valid."""
        with output_file(path, "predictions") as file:
            self.write(file)

    @classmethod
    def load(cls, path: Path) -> Predictions:
        """Read and check a file. Nothing in it is executed. Raises DataError naming the array and the rule."""
        if not path.is_file():
            raise DataError(f"predictions '{path}': no such file; write one with 'person-search predict'")
        arrays = _read(path)
        missing = [name for name in REQUIRED if name not in arrays]
        if missing:
            raise DataError(f"predictions '{path}': array '{missing[0]}' is missing; needed: {', '.join(REQUIRED)}")
        found = [name for name in CONTEXT if name in arrays]
        if found and len(found) < len(CONTEXT):
            lacking = next(name for name in CONTEXT if name not in arrays)
            raise DataError(
                f"predictions '{path}': '{found[0]}' without '{lacking}'; give all of {', '.join(CONTEXT)} or none"
            )
        predictions = cls(
            **{name: arrays[name] for name in (*REQUIRED, *found)},
            arrays={name: arrays[name] for name in arrays if name in OPTIONAL_ARRAYS and name not in CONTEXT},
            model_id=_text(arrays[MODEL_ID], path) if MODEL_ID in arrays else None,
            source=f"predictions '{path}'",
        )
        predictions.validate()
        integers = {n: getattr(predictions, n).astype(np.int64) for n in ("offsets", "query_offsets") if n in arrays}
        return replace(predictions, **integers)


def _read(path: Path) -> dict[str, Any]:
    """The known arrays of an npz file."""
    expected = "expected a NumPy .npz archive of plain arrays"
    name = ""
    try:
        with path.open("rb") as file:
            start = file.read(len(NUMPY_STARTS[1]))
        if not start.startswith(NUMPY_STARTS):
            raise DataError(f"predictions '{path}': found something else; {expected}")
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"predictions '{path}': found a single array; {expected}")
        with archive:
            arrays = {}
            for name in archive.files:
                if name in (*REQUIRED, *OPTIONAL_ARRAYS, MODEL_ID):
                    arrays[name] = archive[name]
            return arrays
    except OSError as error:
        raise DataError(f"cannot read predictions '{path}': {error.strerror or error}") from None
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        where = f"array '{name}' " if name else ""
        if "allow_pickle" in str(error) or "pickled" in str(error):
            raise DataError(
                f"predictions '{path}': {where}holds pickled objects; {expected}, save it without pickles"
            ) from None
        raise DataError(
            f"predictions '{path}': {where}cannot be read ({error}); {expected}, write the file again"
        ) from None


def _text(value: Any, path: Path) -> str:
    """The text in the array of the model id."""
    if value.dtype.kind != "U" or value.size != 1:
        raise DataError(
            f"predictions '{path}': array '{MODEL_ID}' has type {value.dtype} and shape {value.shape}; expected one "
            "text, or leave it out"
        )
    return str(value.item())


class _Check:
    """The rules of the file, each with an error that names array, shape and rule."""

    def __init__(self, predictions: Predictions):
        self.p = predictions

    def value(self, name: str) -> Any:
        return getattr(self.p, name) if name in REQUIRED else self.p.optional(name)

    def fail(self, name: str, rule: str) -> DataError:
        value = self.value(name)
        return DataError(f"{self.p.source}: '{name}' {value.dtype} of shape {value.shape}: {rule}")

    def run(self) -> None:
        p = self.p
        if p.scene_names.dtype.kind != "U" or p.scene_names.ndim != 1:
            raise self.fail("scene_names", "expected (S,) of unicode strings, not bytes or objects")
        names, counts = np.unique(p.scene_names, return_counts=True)
        if (counts > 1).any():
            twice = names[np.argmax(counts > 1)]
            raise self.fail("scene_names", f"scene '{twice}' is listed {counts.max()} times; list each scene once")
        self.floats("boxes", (None, 4))
        rows = len(p.boxes)
        self.floats("scores", (rows,))
        self.floats("embeddings", (rows, None))
        self.floats("query_embeddings", (None, p.embeddings.shape[1]))
        self.groups("offsets", len(p.scene_names), rows, "scenes")
        self.people("boxes", "scores")
        self.optional_floats()
        if p.query_offsets is None or p.query_boxes is None:
            return
        rows = len(p.query_boxes)
        self.groups("query_offsets", len(p.query_embeddings), rows, "queries")
        self.people("query_boxes", "query_scores")
        empty = np.flatnonzero(np.diff(p.query_offsets) == 0)
        if len(empty):
            raise self.fail("query_offsets", f"query {empty[0]} has no people; the query itself comes first")

    def optional_floats(self) -> None:
        """Those that are there, each of the shape that it is declared with."""
        p = self.p
        for name in p.arrays:
            declared(name)
            if name in CONTEXT:
                raise DataError(
                    f"{p.source}: '{name}' is a field of predictions; give it as such, not among the arrays"
                )
        sizes = {"S": len(p.scene_names), "M": len(p), "Q": len(p.query_embeddings), "D": p.embeddings.shape[1]}
        for name, array in OPTIONAL_ARRAYS.items():
            value = p.optional(name)
            if value is None or array.kind != "float32":
                continue
            self.floats(name, [size if isinstance(size, int) else sizes.get(size) for size in array.shape])
            named = zip(array.shape, value.shape, strict=True)
            sizes |= {size: found for size, found in named if isinstance(size, str)}

    def floats(self, name: str, shape: Sequence[int | None]) -> None:
        """float32, of this shape (None: any), and finite."""
        value = self.value(name)
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        if value.dtype != np.float32:
            raise self.fail(name, "expected float32")
        if value.ndim != len(shape) or any(s is not None and s != n for s, n in zip(shape, value.shape, strict=True)):
            raise self.fail(name, f"expected shape ({wanted})")
        if not np.isfinite(value).all():
            row = int(np.flatnonzero(~np.isfinite(value.reshape(len(value), -1)).all(axis=1))[0])
            raise self.fail(name, f"row {row} holds NaN or infinity; every value must be finite")

    def groups(self, name: str, groups: int, rows: int, what: str) -> None:
        """Offsets of ``groups`` groups over ``rows`` rows: from 0, never falling, to the end."""
        value = getattr(self.p, name)
        if value.dtype.kind not in "iu":
            raise self.fail(name, "expected int64")
        if value.shape != (groups + 1,):
            raise self.fail(name, f"expected shape ({groups + 1},), one more than the {groups} {what}")
        falls = np.flatnonzero(value[1:] < value[:-1])
        if len(falls):
            at = int(falls[0])
            raise self.fail(name, f"falls from {value[at]} to {value[at + 1]} at {at + 1}; offsets must never fall")
        if value[0] != 0 or value[-1] != rows:
            raise self.fail(name, f"runs from {value[0]} to {value[-1]}; expected from 0 to the {rows} rows")

    def people(self, boxes_name: str, scores_name: str) -> None:
        """Boxes whose corners are in order, scores in 0..1."""
        boxes, scores = getattr(self.p, boxes_name), getattr(self.p, scores_name)
        bad = np.flatnonzero((boxes[:, 2] < boxes[:, 0]) | (boxes[:, 3] < boxes[:, 1]))
        if len(bad):
            found = boxes[bad[0]].tolist()
            raise self.fail(boxes_name, f"row {bad[0]} is {found}; expected x1, y1, x2, y2 with x1 <= x2 and y1 <= y2")
        bad = np.flatnonzero((scores < 0) | (scores > 1))
        if len(bad):
            raise self.fail(scores_name, f"row {bad[0]} is {scores[bad[0]]}; scores lie in 0..1")


def align(predictions: Predictions, split: Split) -> Predictions:
    """``predictions`` with scenes in the order of ``split.scenes``.

    Raises DataError, saying which, when scenes are unknown or missing, or the number of queries differs: nothing is
    scored on less data than the split asks for.
    """
    number = {scene.name: i for i, scene in enumerate(split.scenes)}
    names = predictions.scene_names.tolist()
    what = f"{split.dataset} {split.name}"
    unknown = [name for name in names if name not in number]
    if names and len(unknown) == len(names):
        example = f", there it is '{split.scenes[0].name}'" if split.scenes else ""
        raise DataError(
            f"{predictions.source}: none of the {len(names)} scenes is in {what} (first: '{unknown[0]}'{example}); "
            "they seem to be of another dataset or split"
        )
    if unknown:
        raise DataError(
            f"{predictions.source}: {len(unknown)} scenes are not in {what}, the first is '{unknown[0]}'; remove them"
        )
    if len(names) < len(split.scenes):
        present = set(names)
        missing = [scene.name for scene in split.scenes if scene.name not in present]
        raise DataError(
            f"{predictions.source}: {len(missing)} of the {len(split.scenes)} scenes of {what} are missing, "
            f"the first is '{missing[0]}'; list every scene, also those without detections"
        )
    if len(predictions.query_embeddings) != len(split.queries):
        raise DataError(
            f"{predictions.source}: 'query_embeddings' holds {len(predictions.query_embeddings)} queries, {what} has "
            f"{len(split.queries)}; give one embedding per query, in the dataset's order"
        )
    order = np.argsort([number[name] for name in names]).astype(np.int64)
    if np.array_equal(order, np.arange(len(order))):
        return predictions
    rows = scene_pairs(order, predictions.offsets)[1]
    return replace(
        predictions,
        scene_names=predictions.scene_names[order],
        offsets=offsets_of(predictions.counts[order]),
        boxes=predictions.boxes[rows],
        scores=predictions.scores[rows],
        embeddings=predictions.embeddings[rows],
        arrays=predictions.reordered(order, rows),
    )
