"""How well people are found again: mAP, top-k, CMC and recall of every query's ranking, exactly.

Two rules meet where similarities are equal. Average precision follows scikit-learn: detections of equal similarity
form one threshold and share its precision. Everything that needs an order (which detection of a scene is tried
first, the rank of a right one, the top-k, the best-matches list) puts the lower row first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from person_search.data.boxes import Floats, iou
from person_search.data.scene import Bools, Boxes, Ints, Protocol, Split
from person_search.errors import DataError
from person_search.evaluation.average_precision import precision_of_hits
from person_search.evaluation.overlaps import first_best, scene_pairs
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.similarity import Block, similarity_blocks

NARROW_FROM, SORT_FROM = 5, 32
"""Hits of one query from which it pays to set aside first what is less similar than the worst of them, and from which
sorting the rest is faster than counting it for each."""
PAIRS = 500_000
"""Pairs of a true box and a detection of its scene that are compared at once (100 MB)."""
CHUNK = 64
"""Most columns whose largest value stands for them when the best few of a row are looked for."""

Rescore = Callable[[Block], None]
"""Changes the similarities of a block in place, before anything is ranked."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What every query found under one protocol.

    Attributes:
        protocol: its name.
        ap: (Q,) float64 average precision x recall; NaN where the person is in no gallery scene.
        recall: (Q,) float64 scenes in which the person was found / true boxes, as counted; NaN likewise.
        found: (Q,) int64 scenes in which the person was found.
        first_rank: (Q,) int64 rank, from 1, of the most similar right detection; 0 where none is right.
        top_rows: (Q, K) int64 most similar detections, best first; -1 after the last.
        top_similarities: (Q, K) float64.
        top_correct: (Q, K) bool.
        cameras: the cameras of the split in rising order; empty where not every scene has one.
        camera_ap: (Q, C) float64, ``ap`` in the gallery scenes of one camera alone; NaN where it has no truth.
    """

    protocol: str
    ap: Floats
    recall: Floats
    found: Ints
    first_rank: Ints
    top_rows: Ints
    top_similarities: Floats
    top_correct: Bools
    cameras: tuple[int, ...]
    camera_ap: Floats

    @property
    def evaluated(self) -> Bools:
        """(Q,) bool: queries whose person is in at least one gallery scene; only they count in means."""
        return ~np.isnan(self.ap)


@dataclass(frozen=True, eq=False)
class _Hits:
    """The right detections of a block, rising by query (number in the block) and row."""

    query: Ints
    row: Ints
    column: Ints
    similarity: Floats


@dataclass(frozen=True, eq=False)
class _Ground:
    """What is true for all blocks: scene of every detection and camera number (-1: unknown) of every scene."""

    predictions: Predictions
    protocol: Protocol
    scene_of: Ints
    camera_of_scene: Ints
    cameras: int
    camera_rows: list[Ints]


def search(
    predictions: Predictions, split: Split, protocol: Protocol, *, rescore: Rescore | None = None, top: int = 10
) -> SearchResult:
    """Rank the gallery of every query and score the rankings.

    In each gallery scene that holds the person, the most similar detection whose IoU with the true box there is at
    least min(0.5, wh / ((w + 10)(h + 10))), w and h of that box, is the scene's one right detection.
    AP = average precision over all detections of the gallery x scenes found / true boxes, each as often as the
    protocol counts it.

    Args:
        predictions: in the split's scene order, already without detections that take no part.
        split: scenes and queries.
        protocol: galleries and truths of ``split.queries``.
        rescore: see :mod:`person_search.evaluation.rescoring`.
        top: length K of the lists of most similar detections.

    Raises:
        DataError: the protocol does not fit the split, or a query's gallery is empty.
    """
    _check(split, protocol)
    queries = len(split.queries)
    ground = _ground(predictions, split, protocol)
    result = SearchResult(
        protocol=protocol.name,
        ap=np.full(queries, np.nan),
        recall=np.full(queries, np.nan),
        found=np.zeros(queries, np.int64),
        first_rank=np.zeros(queries, np.int64),
        top_rows=np.full((queries, top), -1, np.int64),
        top_similarities=np.full((queries, top), -np.inf),
        top_correct=np.zeros((queries, top), dtype=bool),
        cameras=tuple(sorted({scene.camera for scene in split.scenes if scene.camera is not None}))
        if ground.cameras
        else (),
        camera_ap=np.full((queries, ground.cameras), np.nan),
    )
    for block in similarity_blocks(predictions, protocol.in_gallery):
        if rescore is not None:
            rescore(block)
        _score_block(block, ground, result)
    return result


def _check(split: Split, protocol: Protocol) -> None:
    shape = (len(split.queries), len(split.scenes))
    if protocol.in_gallery.shape != shape or len(protocol.truth_offsets) != shape[0] + 1:
        raise DataError(
            f"protocol '{protocol.name}': galleries of shape {protocol.in_gallery.shape}; {split.dataset} {split.name} "
            f"has {shape[0]} queries and {shape[1]} scenes"
        )
    empty = np.flatnonzero(~protocol.in_gallery.any(axis=1))
    if len(empty):
        query = split.queries[empty[0]]
        raise DataError(
            f"protocol '{protocol.name}': the gallery of query {empty[0]} (scene '{split.scenes[query.scene].name}') "
            "is empty; every query needs a scene to search, choose another protocol"
        )
    query_of = np.repeat(np.arange(shape[0]), np.diff(protocol.truth_offsets))
    outside = np.flatnonzero(~protocol.in_gallery[query_of, protocol.truth_scenes])
    if len(outside):
        name = split.scenes[protocol.truth_scenes[outside[0]]].name
        raise DataError(
            f"protocol '{protocol.name}': scene '{name}' holds the person of query {query_of[outside[0]]} "
            "but is not in its gallery"
        )
    cell = query_of * shape[1] + protocol.truth_scenes
    if (np.diff(cell) <= 0).any():
        order = np.argsort(cell, kind="stable")
        again = order[1:][np.diff(cell[order]) == 0]
        if len(again):
            name = split.scenes[protocol.truth_scenes[again[0]]].name
            raise DataError(
                f"protocol '{protocol.name}': query {query_of[again[0]]} has two true boxes in scene '{name}'; "
                "give one, and in truth_counts how often it counts"
            )
    if protocol.truth_counts is not None and (
        protocol.truth_counts.shape != protocol.truth_scenes.shape or (protocol.truth_counts < 1).any()
    ):
        raise DataError(
            f"protocol '{protocol.name}': truth_counts of shape {protocol.truth_counts.shape}; expected "
            f"{protocol.truth_scenes.shape}, one number from 1 for every true box"
        )


def _ground(predictions: Predictions, split: Split, protocol: Protocol) -> _Ground:
    cameras = [-1 if scene.camera is None else scene.camera for scene in split.scenes]
    known = bool(cameras) and all(scene.camera is not None for scene in split.scenes)
    numbers = np.unique(cameras) if known else np.zeros(0, np.int64)
    camera_of_scene = np.searchsorted(numbers, cameras).astype(np.int64)
    scene_of = predictions.scene_of
    rows = [np.flatnonzero(camera_of_scene[scene_of] == camera) for camera in range(len(numbers))]
    return _Ground(predictions, protocol, scene_of, camera_of_scene, len(numbers), rows)


def _score_block(block: Block, ground: _Ground, result: SearchResult) -> None:
    """Fill in the rows of ``result`` that belong to the queries of ``block``."""
    size = len(block.values)
    own = slice(block.first, block.first + size)
    hits = _hits(block, ground)
    at_least, rank = _positions(block, hits)

    truths, truth_query = _truths(block, ground)
    counts = None if ground.protocol.truth_counts is None else ground.protocol.truth_counts[truths]
    held = np.bincount(truth_query, counts, size).astype(np.float64)
    precision = precision_of_hits(hits.query, hits.similarity, at_least)
    result.ap[own] = _share(np.bincount(hits.query, precision, size), held)
    result.found[own] = np.bincount(hits.query, minlength=size)
    result.recall[own] = _share(result.found[own], held)
    first = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(first, hits.query, rank)
    result.first_rank[own] = np.where(first == np.iinfo(np.int64).max, 0, first)

    if ground.cameras:
        camera = ground.camera_of_scene[ground.scene_of[hits.row]]
        cell, cells = hits.query * ground.cameras + camera, size * ground.cameras
        precision = precision_of_hits(cell, hits.similarity, _at_least_in_camera(block, hits, camera, ground))
        truth_camera = ground.camera_of_scene[ground.protocol.truth_scenes[truths]]
        held = np.bincount(truth_query * ground.cameras + truth_camera, counts, cells).astype(np.float64)
        result.camera_ap[own] = _share(np.bincount(cell, precision, cells), held).reshape(size, ground.cameras)

    query, place, row, similarity = most_similar(block, result.top_rows.shape[1])
    result.top_rows[block.first + query, place] = row
    result.top_similarities[block.first + query, place] = similarity
    stride = block.total + 1
    found, listed = hits.query * stride + hits.row, query * stride + row
    at = np.searchsorted(found, listed)  # hits are rising: far faster than a set of what may be millions
    result.top_correct[block.first + query, place] = np.append(found, -1)[at] == listed


def _share(part: Floats | Ints, whole: Floats) -> Floats:
    """``part / whole``, NaN where there is no whole."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _truths(block: Block, ground: _Ground) -> tuple[slice, Ints]:
    """The truth rows of the block's queries, and the query (number in the block) of each."""
    offsets = ground.protocol.truth_offsets[block.first : block.first + len(block.values) + 1]
    return slice(offsets[0], offsets[-1]), np.repeat(np.arange(len(block.values), dtype=np.int64), np.diff(offsets))


def _hits(block: Block, ground: _Ground) -> _Hits:
    """The most similar fitting detection of every gallery scene that holds the query's person."""
    rows, truth_query = _truths(block, ground)
    truth, row = _fitting(ground, rows.start, rows.stop)
    stride = max(block.total, 1)
    query, row = np.divmod(np.sort(truth_query[truth - rows.start] * stride + row), stride)
    column = block.columns(query, row)
    similarity = block.values[query, column]
    best = first_best(query * len(ground.camera_of_scene) + ground.scene_of[row], similarity)
    return _Hits(query[best], row[best], column[best], similarity[best])


def _fitting(ground: _Ground, start: int, end: int) -> tuple[Ints, Ints]:
    """Truth rows in ``start:end`` and detections that overlap them enough, pair by pair, rising by truth and row."""
    scenes = ground.protocol.truth_scenes[start:end]
    pairs = np.cumsum(ground.predictions.counts[scenes])
    cuts = [0, *np.searchsorted(pairs, np.arange(PAIRS, pairs[-1] if len(pairs) else 0, PAIRS)).tolist(), len(scenes)]
    truths, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for low, high in itertools.pairwise(cuts):
        truth, row = scene_pairs(scenes[low:high], ground.predictions.offsets)
        boxes = ground.protocol.truth_boxes[start + low : start + high]
        wide = boxes.astype(np.float64)
        width, height = wide[:, 2] - wide[:, 0], wide[:, 3] - wide[:, 1]
        needed = np.minimum(0.5, width * height / ((width + 10) * (height + 10)))
        near = _touch(boxes[truth], ground.predictions.boxes[row]) | (needed <= 0)[truth]
        truth, row = truth[near], row[near]
        fits = iou(boxes[truth], ground.predictions.boxes[row]) >= needed[truth]
        truths.append(truth[fits] + (start + low))
        rows.append(row[fits])
    return np.concatenate(truths), np.concatenate(rows)


def _touch(first: Boxes, second: Boxes) -> Bools:
    """(P,) bool: whether (P, 4) and (P, 4) boxes share any area: a fifth of the time that their IoU takes."""
    touch: Bools = first[:, 0] < second[:, 2]
    for low, high in ((second[:, 0], first[:, 2]), (first[:, 1], second[:, 3]), (second[:, 1], first[:, 3])):
        touch &= low < high
    return touch


def _positions(block: Block, hits: _Hits) -> tuple[Ints, Ints]:
    """Per hit: how many detections of the gallery are at least as similar, and its rank from 1."""
    at_least, rank = np.zeros(len(hits.query), np.int64), np.zeros(len(hits.query), np.int64)
    for query, own in _runs(hits.query):
        values = block.values[query]
        at_least[own], above = _count(values, hits.similarity[own])
        rank[own] = above + 1
        for hit in np.flatnonzero(at_least[own] - above > 1) + own.start:
            rank[hit] += np.count_nonzero(values[: hits.column[hit]] == hits.similarity[hit])
    return at_least, rank


def _at_least_in_camera(block: Block, hits: _Hits, camera: Ints, ground: _Ground) -> Ints:
    """Per hit: how many detections of the gallery scenes of its own camera are at least as similar."""
    at_least = np.zeros(len(hits.query), np.int64)
    for query, own in _runs(hits.query):
        for number in np.unique(camera[own]):
            same = np.flatnonzero(camera[own] == number) + own.start
            columns = ground.camera_rows[number]
            if not block.dense:
                columns = np.flatnonzero(np.isin(block.rows_of(query), columns))
            at_least[same] = _count(block.values[query][columns], hits.similarity[same])[0]
    return at_least


def _runs(query: Ints) -> list[tuple[int, slice]]:
    """Each query among the rising (N,) ``query`` and the slice it fills."""
    numbers, starts = np.unique(query, return_index=True)
    cuts = itertools.pairwise([*starts.tolist(), len(query)])
    return [(number, slice(start, end)) for number, (start, end) in zip(numbers.tolist(), cuts, strict=True)]


def _count(values: Floats, levels: Floats) -> tuple[Ints, Ints]:
    """How many of ``values`` are at least, and how many above, each of the (N,) ``levels``, N >= 1."""
    if len(levels) >= NARROW_FROM:
        values = values[values >= levels.min()]
    if len(levels) < SORT_FROM:
        at_least = [np.count_nonzero(values >= level) for level in levels]
        above = [np.count_nonzero(values > level) for level in levels]
        return np.array(at_least, np.int64), np.array(above, np.int64)
    values = np.sort(values)
    return (
        len(values) - np.searchsorted(values, levels, side="left"),
        len(values) - np.searchsorted(values, levels, side="right"),
    )


def most_similar(block: Block, count: int) -> tuple[Ints, Ints, Ints, Floats]:
    """The ``count`` most similar detections of every query of ``block``, the lower row first among equals.

    Returns:
        Four (N,) arrays: query (number in the block), place from 0, detection row, similarity.
    """
    values = block.values
    width = values.shape[1]
    if 0 < count < width:
        # At least `count` values reach the count-th largest chunk maximum, so all of the best do.
        chunk = min(max(width // (4 * count), 1), CHUNK)
        whole = width // chunk * chunk
        maxima = values[:, :whole].reshape(len(values), -1, chunk).max(axis=2)
        bound = np.partition(maxima, maxima.shape[1] - count, axis=1)[:, maxima.shape[1] - count]
    else:
        bound = np.full(len(values), -np.inf)
    query, column = np.nonzero((values >= bound[:, None]) & (values > -np.inf))
    similarity = values[query, column]
    order = np.lexsort((column, -similarity, query))
    query, column, similarity = query[order], column[order], similarity[order]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    best = place < count
    query, column = query[best], column[best]
    row = block.rows[column] if block.dense else block.rows[query, column]
    return query, place[best], row, similarity[best]
