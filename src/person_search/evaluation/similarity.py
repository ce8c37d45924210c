"""Similarities of queries and the detections of their galleries, in blocks that fit in memory.

A similarity is the dot product of two embeddings, taken in float64 from their float32 values. Where galleries hold
most scenes, a block is one matrix product with every detection; where they are small, only their own detections are
multiplied. Matrix products round differently from place to place, so detections with equal embeddings take one
common value: a tie in the data stays a tie.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from person_search.data.boxes import Floats
from person_search.data.scene import Bools, Ints
from person_search.evaluation.predictions import Float32s, Predictions

CELLS = 8_000_000
"""Similarities held at once (64 MB); where galleries are small, numbers beside them take as much again."""
SCENE_CELLS = 5
"""Similarities, with the numbers beside them, that take as much memory as one scene of a query's gallery does there."""
GALLERY_ROWS = 4096
"""Gallery rows turned into float64 at once."""
DENSE_SHARE = 0.15
"""Share of query-scene pairs in a gallery from which multiplying everything is faster than picking."""


@dataclass(frozen=True, eq=False)
class Block:
    """The similarities of queries ``first``, ``first + 1``, ...

    Attributes:
        first: number of the first query.
        values: (B, W) float64; -inf where a detection is outside the query's gallery or a column is unused.
        rows: detection of every column, rising: (W,) common to all queries, or (B, W); unused columns hold M.
        total: M, the number of detections.
    """

    first: int
    values: Floats
    rows: Ints
    total: int

    @property
    def dense(self) -> bool:
        """Whether column and detection are the same."""
        return self.rows.ndim == 1

    def rows_of(self, query: int) -> Ints:
        """(W,) detections in the columns of the block's ``query``-th query."""
        return self.rows if self.dense else self.rows[query]

    def columns(self, queries: Ints, rows: Ints) -> Ints:
        """(N,) columns of (N,) detections that lie in the galleries of the (N,) queries of this block."""
        if self.dense:
            return rows
        stride = self.total + 1
        keys = (self.rows + np.arange(len(self.rows), dtype=np.int64)[:, None] * stride).ravel()
        return (np.searchsorted(keys, queries * stride + rows) - queries * self.rows.shape[1]).astype(np.int64)


def similarity_blocks(predictions: Predictions, in_gallery: Bools) -> Iterator[Block]:
    """The similarities of all queries, block by block.

    Args:
        predictions: M detections in S scenes, Q queries.
        in_gallery: (Q, S) bool.
    """
    if in_gallery.size == 0:
        return
    duplicates = _Duplicates.find(predictions.embeddings)
    if np.count_nonzero(in_gallery) >= DENSE_SHARE * in_gallery.size:
        yield from _dense_blocks(predictions, in_gallery, duplicates)
    else:
        yield from _picked_blocks(predictions, in_gallery, duplicates)


def _dense_blocks(predictions: Predictions, in_gallery: Bools, duplicates: _Duplicates) -> Iterator[Block]:
    queries, total = len(in_gallery), len(predictions)
    scene_of = predictions.scene_of
    size = min(queries, max(1, CELLS // max(total, 1)))
    for first in range(0, queries, size):
        block = predictions.query_embeddings[first : first + size].astype(np.float64)
        values = np.empty((len(block), total))
        _multiply(block, predictions.embeddings, values)
        common = duplicates.similarities(block)
        for query, row in enumerate(values):
            row[duplicates.rows] = common[query, duplicates.groups]
            np.copyto(row, -np.inf, where=~in_gallery[first + query][scene_of])
        yield Block(first, values, np.arange(total, dtype=np.int64), total)


def _multiply(queries: Floats, embeddings: Float32s, out: Floats) -> None:
    """``queries`` (B, D) times ``embeddings`` (M, D) transposed into ``out`` (B, M)."""
    for start in range(0, len(embeddings), GALLERY_ROWS):
        part = embeddings[start : start + GALLERY_ROWS].astype(np.float64)
        np.matmul(queries, part.T, out=out[:, start : start + GALLERY_ROWS])


def _picked_blocks(predictions: Predictions, in_gallery: Bools, duplicates: _Duplicates) -> Iterator[Block]:
    for first, end in itertools.pairwise(_cuts(predictions.counts, in_gallery)):
        yield _picked_block(predictions, in_gallery[first:end], first, duplicates)


def _cuts(counts: Ints, in_gallery: Bools) -> list[int]:
    """Where blocks begin and end: each as many queries as fit when all are as wide as the widest of them, at least one.

    ``counts`` are the detections of every scene.
    """
    cuts = [0]
    widest = scenes = 0
    for query, row in enumerate(in_gallery):
        detections, places = int(counts[row].sum()), int(np.count_nonzero(counts[row]))
        widest, scenes = max(widest, detections), scenes + places
        if (query + 1 - cuts[-1]) * widest + SCENE_CELLS * scenes > CELLS and query > cuts[-1]:
            cuts.append(query)
            widest, scenes = detections, places
    return [*cuts, len(in_gallery)]


def _picked_block(predictions: Predictions, in_gallery: Bools, first: int, duplicates: _Duplicates) -> Block:
    """One product per scene with the queries whose gallery holds it: fewer and larger than one per query."""
    counts, total = predictions.counts, len(predictions)
    query, scene = np.divmod(np.flatnonzero(in_gallery & (counts > 0)), len(counts))
    ends = np.cumsum(counts[scene])
    filled = np.append(0, ends)[np.searchsorted(query, np.arange(len(in_gallery) + 1))]
    width = int(np.diff(filled).max())
    block = predictions.query_embeddings[first : first + len(in_gallery)].astype(np.float64)
    values = np.full((len(block), width), -np.inf)
    rows = np.full((len(block), width), total, np.int64)

    cell = query * width + ends - counts[scene] - filled[query]
    by_scene = np.argsort(scene, kind="stable")
    query, scene, cell = query[by_scene], scene[by_scene], cell[by_scene, None]
    cuts = np.append(np.flatnonzero(np.diff(scene, prepend=-1)), len(scene)).tolist()
    flat_values, flat_rows = values.reshape(-1), rows.reshape(-1)
    for start, end in itertools.pairwise(cuts):
        low, high = predictions.offsets[scene[start]], predictions.offsets[scene[start] + 1]
        cells = cell[start:end] + np.arange(high - low)
        gallery = predictions.embeddings[low:high].astype(np.float64)
        flat_values[cells] = block[query[start:end]] @ gallery.T
        flat_rows[cells] = np.arange(low, high)
    duplicates.settle(block, values, rows, total)
    return Block(first, values, rows, total)


@dataclass(frozen=True, eq=False)
class _Duplicates:
    """Detections whose embedding another detection has too.

    ``rows`` (R,) are they, ``groups`` (R,) number their common embeddings, ``embeddings`` (G, D) are those.
    """

    rows: Ints
    groups: Ints
    embeddings: Float32s

    @classmethod
    def find(cls, embeddings: Float32s) -> _Duplicates:
        # Adding zero turns -0.0 into 0.0; sums of the bit patterns are exact, so equal rows have equal sums.
        plain = np.ascontiguousarray(embeddings + np.float32(0))
        if plain.shape[1] == 0:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), plain[:0])
        sums = plain.view(np.uint32).sum(axis=1, dtype=np.uint64)
        _, inverse, counts = np.unique(sums, return_inverse=True, return_counts=True)
        suspects = np.flatnonzero(counts[inverse] > 1)
        _, first, groups, sizes = np.unique(
            plain[suspects], axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        groups = groups.reshape(-1)
        several = sizes > 1
        renumbered = np.cumsum(several) - 1
        real = several[groups]
        return cls(suspects[real], renumbered[groups[real]], plain[suspects[first[several]]])

    def similarities(self, queries: Floats) -> Floats:
        """(B, G) float64 similarities of (B, D) queries and the common embeddings."""
        out = np.empty((len(queries), len(self.embeddings)))
        _multiply(queries, self.embeddings, out)
        return out

    def settle(self, queries: Floats, values: Floats, rows: Ints, total: int) -> None:
        """Give equal embeddings equal similarities in (B, W) ``values`` of detections ``rows``."""
        if len(self.rows) == 0:
            return
        group_of = np.full(total + 1, -1, np.int64)
        group_of[self.rows] = self.groups
        common = self.similarities(queries)
        for query, own in enumerate(rows):
            groups = group_of[own]
            column = np.flatnonzero(groups >= 0)
            values[query, column] = common[query, groups[column]]
