"""Predictions in, numbers out: every metric of a test split, and ``results.json``, the file they are kept in.

All shares are fractions in 0..1; None stands for a mean over nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from person_search.config import Config, EvaluationConfig
from person_search.data.boxes import Floats
from person_search.data.scene import Bools, Boxes, Protocol, Split, as_boxes
from person_search.errors import DataError, as_settings
from person_search.evaluation.detection import DetectionResult, detection_metrics
from person_search.evaluation.gallery_filter import FilterMetrics, filter_metrics
from person_search.evaluation.ignore import without_ignored
from person_search.evaluation.plausibility import doubts_about_detections, doubts_about_embeddings, doubts_about_search
from person_search.evaluation.predictions import Predictions, align
from person_search.evaluation.rescoring import GALLERY_FILTER, RESCORERS, Rescorer, rescore_as_asked
from person_search.evaluation.search import SearchResult, search
from person_search.runtime.files import output_file

CMC_RANKS = 50
CURVE_POINTS = 200
"""Most points of a precision-recall curve that are kept."""
TRUTHS_KEPT = 10
"""Most true boxes of a query that are kept: all of them would be queries times sightings, gigabytes for a video."""

Share = float | None
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class PeopleMetrics:
    """Detection of ``boxes`` true boxes: share matched, and average precision x recall."""

    recall: Share
    ap: Share
    boxes: int


@dataclass(frozen=True)
class Curve:
    """Precision and recall at falling thresholds."""

    precision: list[float]
    recall: list[float]


@dataclass(frozen=True)
class DetectionMetrics:
    """Detection of ``all`` people and of ``labelled`` people, by detections of at least ``threshold``."""

    threshold: float
    all: PeopleMetrics
    labelled: PeopleMetrics
    curve: Curve


@dataclass(frozen=True)
class SubsetMetrics:
    """Search by some of the queries."""

    map: Share
    top1: Share
    queries: int


@dataclass(frozen=True)
class CameraPair:
    """Search by the queries of one camera in the gallery scenes of one camera."""

    query: int
    gallery: int
    map: float
    queries: int


@dataclass(frozen=True)
class SearchMetrics:
    """Search under one protocol.

    ``queries`` count in the means; ``left_out`` do not, their person being in no gallery scene. ``cmc[k - 1]`` is the
    share of queries with a right detection among the first k. ``seen`` and ``unseen`` split by whether the person is
    in the training split too, where that is known; ``camera_pairs`` is empty where cameras are not;
    ``gallery_filter`` is there where its scores were asked for.
    """

    protocol: str
    map: Share
    top1: Share
    top5: Share
    top10: Share
    recall: Share
    queries: int
    left_out: int
    cmc: list[float]
    seen: SubsetMetrics | None
    unseen: SubsetMetrics | None
    camera_pairs: list[CameraPair]
    gallery_filter: FilterMetrics | None = None


@dataclass(frozen=True)
class SceneBox:
    """A box, xyxy in pixels, in a scene, by name."""

    scene: str
    box: Box


@dataclass(frozen=True)
class Match:
    """One of a query's most similar detections; ``correct`` for the one right detection of its scene."""

    scene: str
    box: Box
    similarity: float
    correct: bool


@dataclass(frozen=True)
class QueryResult:
    """One query: its number in the dataset's order, what it asked, what it found.

    ``truth_scenes`` gallery scenes hold the person, who was found in ``found_scenes``; ``truths`` are the true boxes in
    the first of them.
    """

    number: int
    scene: str
    box: Box
    person_id: int
    ap: Share
    recall: Share
    rank_of_first: int | None
    truth_scenes: int
    found_scenes: int
    truths: list[SceneBox]
    top: list[Match]


@dataclass(frozen=True)
class Results:
    """Content of ``results.json``. ``queries`` belong to the first protocol.

    ``notes`` say, one line each, what in the gallery lists is read otherwise than written, and where the numbers may
    mean something else than they seem to: nothing reaches a threshold, embeddings differ in length.
    """

    dataset: str
    split: str
    scenes: int
    detections: int
    detection: DetectionMetrics
    search: list[SearchMetrics]
    queries: list[QueryResult]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As plain dicts, lists, numbers and strings."""
        return _ADAPTER.dump_python(self, mode="json")


_ADAPTER = TypeAdapter(Results)


def score(
    predictions: Predictions,
    split: Split,
    protocols: Sequence[Protocol],
    config: Config | EvaluationConfig,
    *,
    rescorers: Sequence[Rescorer] = RESCORERS,
) -> Results:
    """All metrics of ``predictions`` on ``split``; of a whole ``config`` its section ``evaluation`` counts.

    Detections on ignore regions take no part. Those below ``config.detection_threshold`` are no detections, those
    below ``config.search_threshold`` are not searched. With ``config.cws`` the embedding of each one searched counts
    times its score (confidence-weighted similarity, Chen et al., CVPR 2020). Those of the ``rescorers`` that ``config``
    asks for then change the similarities. Raises DataError when predictions and split do not fit, or a re-scorer needs
    arrays that are not there.
    """
    return score_with_rankings(predictions, split, protocols, config, rescorers=rescorers)[0]


def score_with_rankings(
    predictions: Predictions,
    split: Split,
    protocols: Sequence[Protocol],
    config: Config | EvaluationConfig,
    *,
    rescorers: Sequence[Rescorer] = RESCORERS,
) -> tuple[Results, list[SearchResult]]:
    """:func:`score`, and what every query found under every protocol."""
    if isinstance(config, Config):
        config = config.evaluation
    aligned = align(predictions, split)
    given = without_ignored(aligned, split)
    searched = given.keep(given.scores >= np.float32(config.search_threshold))
    doubted = searched
    if config.cws:
        searched = searched.weighted_by_score()
    rescore = rescore_as_asked(searched, split, config, rescorers)
    rankings = [search(searched, split, protocol, rescore=rescore) for protocol in protocols]
    detection = _detection(given, split, config.detection_threshold)
    metrics = [_search(ranking, split) for ranking in rankings]
    if GALLERY_FILTER in rescorers and config.gfn_scores:
        filtered = [filter_metrics(searched, protocol) for protocol in protocols]
        metrics = [replace(each, gallery_filter=found) for each, found in zip(metrics, filtered, strict=True)]
    notes = [line for protocol in protocols for line in protocol.notes]
    notes += doubts_about_detections(aligned, given, split, config, detection)
    if protocols:
        notes += doubts_about_embeddings(doubted, split, context=config.cbgm)
    notes += doubts_about_search(searched, split, metrics)
    results = Results(
        dataset=split.dataset,
        split=split.name,
        scenes=len(split.scenes),
        detections=len(given),
        detection=detection,
        search=metrics,
        queries=_queries(rankings[0], searched, split, protocols[0]) if rankings else [],
        notes=list(dict.fromkeys(notes)),
    )
    return results, rankings


def results_text(results: Results) -> bytes:
    """Content of ``results.json``, whose notes name settings as YAML does."""
    return _ADAPTER.dump_json(replace(results, notes=[as_settings(note) for note in results.notes]))


def write_results(results: Results, path: Path) -> None:
    """Write ``results.json``, whole or not at all. Raises DataError."""
    with output_file(path, "results") as file:
        file.write(results_text(results))


def read_results(path: Path) -> Results:
    """Read ``results.json`` back. Raises DataError for a missing or damaged file."""
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read results '{path}': {error.strerror}; score again to write them") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise DataError(f"results '{path}': {where}: {first['msg']}; score again to write the file anew") from None


def _number(value: float) -> Share:
    return None if np.isnan(value) else float(value)


def _mean(values: Floats | Bools) -> Share:
    return float(values.mean()) if len(values) else None


def _boxes(boxes: Boxes) -> list[Box]:
    """(N, 4) boxes; thousandths of a pixel are enough to find one again, and keep the file short."""
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in np.round(boxes.astype(np.float64), 3).tolist()]


def _detection(predictions: Predictions, split: Split, threshold: float) -> DetectionMetrics:
    everyone = detection_metrics(predictions, split, threshold=threshold, labelled=False)
    labelled = detection_metrics(predictions, split, threshold=threshold, labelled=True)
    points = len(everyone.curve_recall)
    kept = np.unique(np.linspace(0, max(points - 1, 0), min(points, CURVE_POINTS)).round().astype(np.int64))
    curve = Curve(everyone.curve_precision[kept].tolist(), everyone.curve_recall[kept].tolist())
    return DetectionMetrics(threshold, _people(everyone), _people(labelled), curve)


def _people(result: DetectionResult) -> PeopleMetrics:
    return PeopleMetrics(_number(result.recall), _number(result.ap), result.boxes)


def _search(ranking: SearchResult, split: Split) -> SearchMetrics:
    evaluated = ranking.evaluated
    first = ranking.first_rank[evaluated]
    within = [_mean((first > 0) & (first <= rank)) for rank in range(1, CMC_RANKS + 1)]
    seen = unseen = None
    if split.seen_identities is not None:
        known = split.seen_identities[np.array([query.person_id for query in split.queries], dtype=np.int64)]
        seen, unseen = _subset(ranking, evaluated & known), _subset(ranking, evaluated & ~known)
    return SearchMetrics(
        protocol=ranking.protocol,
        map=_mean(ranking.ap[evaluated]),
        top1=within[0],
        top5=within[4],
        top10=within[9],
        recall=_mean(ranking.recall[evaluated]),
        queries=len(first),
        left_out=len(evaluated) - len(first),
        cmc=[share for share in within if share is not None],
        seen=seen,
        unseen=unseen,
        camera_pairs=_camera_pairs(ranking, split),
    )


def _subset(ranking: SearchResult, chosen: Bools) -> SubsetMetrics:
    return SubsetMetrics(_mean(ranking.ap[chosen]), _mean(ranking.first_rank[chosen] == 1), int(chosen.sum()))


def _camera_pairs(ranking: SearchResult, split: Split) -> list[CameraPair]:
    if not ranking.cameras:
        return []
    asked = np.array([split.scenes[query.scene].camera for query in split.queries], dtype=np.int64)
    pairs = []
    for camera in ranking.cameras:
        for column, gallery in enumerate(ranking.cameras):
            values = ranking.camera_ap[asked == camera, column]
            values = values[~np.isnan(values)]
            if len(values):
                pairs.append(CameraPair(camera, gallery, float(values.mean()), len(values)))
    return pairs


def _queries(ranking: SearchResult, searched: Predictions, split: Split, protocol: Protocol) -> list[QueryResult]:
    scene_of = searched.scene_of
    boxes = _boxes(searched.boxes)
    asked = _boxes(as_boxes([query.box for query in split.queries]))
    results = []
    for number, query in enumerate(split.queries):
        start, end = protocol.truth_offsets[number : number + 2].tolist()
        kept = slice(start, min(end, start + TRUTHS_KEPT))
        rows = ranking.top_rows[number][ranking.top_rows[number] >= 0]
        rank = int(ranking.first_rank[number])
        results.append(
            QueryResult(
                number=number,
                scene=split.scenes[query.scene].name,
                box=asked[number],
                person_id=query.person_id,
                ap=_number(ranking.ap[number]),
                recall=_number(ranking.recall[number]),
                rank_of_first=rank or None,
                truth_scenes=end - start,
                found_scenes=int(ranking.found[number]),
                truths=[
                    SceneBox(split.scenes[scene].name, box)
                    for scene, box in zip(
                        protocol.truth_scenes[kept].tolist(), _boxes(protocol.truth_boxes[kept]), strict=True
                    )
                ],
                top=[
                    Match(split.scenes[scene].name, boxes[row], similarity, correct)
                    for scene, row, similarity, correct in zip(
                        scene_of[rows].tolist(),
                        rows.tolist(),
                        ranking.top_similarities[number].tolist(),
                        ranking.top_correct[number].tolist(),
                        strict=False,  # the list ends with the rows
                    )
                ],
            )
        )
    return results
