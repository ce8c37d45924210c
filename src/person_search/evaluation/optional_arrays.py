"""Which arrays predictions may hold beside those that they must: whoever needs another one declares it here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from person_search.errors import DataError, nearest

Size = int | str


@dataclass(frozen=True)
class OptionalArray:
    """An array that predictions may hold: what reading, writing, checking and reordering them goes by.

    Attributes:
        name: in the file.
        shape: sizes: numbers, or S scenes, M detections, Q queries, D numbers of an embedding; another letter stands
            for any size, the same in all arrays. The first one says of what there is a row each.
        kind: float32, whose values must be finite; or offsets, which are checked with the rows that they divide.
    """

    name: str
    shape: tuple[Size, ...]
    kind: Literal["float32", "offsets"] = "float32"


OPTIONAL_ARRAYS = {
    array.name: array
    for array in (
        # The people of every query's scene, the query itself first: fields of ``Predictions``, all four or none.
        OptionalArray("query_offsets", ("Q + 1",), "offsets"),
        OptionalArray("query_boxes", ("P", 4)),
        OptionalArray("query_scores", ("P",)),
        OptionalArray("query_context", ("P", "D")),
        # What a scene looks like as a whole, and the scene that every query comes from, or what stands for it; and how
        # a query sees scenes: times its gates, plus its offsets.
        OptionalArray("scene_embeddings", ("S", "E")),
        OptionalArray("query_scene_embeddings", ("Q", "E")),
        OptionalArray("query_scene_gates", ("Q", "E")),
        OptionalArray("query_scene_offsets", ("Q", "E")),
    )
}
CONTEXT = ("query_offsets", "query_boxes", "query_scores", "query_context")
"""Those that are there together or not at all."""


def declared(name: str) -> OptionalArray:
    """The declaration of ``name``. Raises DataError where there is none."""
    if name not in OPTIONAL_ARRAYS:
        raise DataError(
            f"predictions have no optional array '{name}'; known: {', '.join(OPTIONAL_ARRAYS)}; declare a new one in "
            f"evaluation/optional_arrays.py.{nearest(name, OPTIONAL_ARRAYS)}"
        )
    return OPTIONAL_ARRAYS[name]
