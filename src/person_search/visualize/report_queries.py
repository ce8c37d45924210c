"""Ranking lists of a report: which queries are shown, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from person_search.data.scene import as_boxes
from person_search.visualize.boxes import IDENTITY, QUERY
from person_search.visualize.ranking import frame_color
from person_search.visualize.report_pictures import Pictures
from person_search.visualize.report_scenes import spread

_TRUTHS_SHOWN = 5
_SCENES_SHOWN = 6

Query = Mapping[str, Any]


def choose_queries(queries: Sequence[Query], wanted: int) -> dict[str, list[Query]]:
    """At most ``wanted`` queries, none twice: a third the worst, a third the best, the others spread evenly.

    Worst is the lowest average precision, best the highest and then the most gallery scenes to be found; equal
    ones go by their number. Queries without average precision (nobody to find) are left out.
    """
    scored = [query for query in queries if query.get("ap") is not None and np.isfinite(query["ap"])]
    third = min(wanted, len(scored)) // 3
    worst = sorted(scored, key=lambda query: (query["ap"], query["number"]))[:third]
    rest = sorted((query for query in scored if query not in worst), key=lambda query: query["number"])
    best = sorted(rest, key=lambda query: (-query["ap"], -query["truth_scenes"], query["number"]))[:third]
    rest = [query for query in rest if query not in best]
    chosen = [rest[place] for place in spread(len(rest), min(wanted, len(scored)) - 2 * third)]
    return {"spread": chosen, "best": best, "worst": worst}


def ranking(
    query: Query, pictures: Pictures, cameras: Mapping[str, int | None], *, show_truths: bool
) -> dict[str, Any]:
    """What the page shows of one query: its pictures, its hits and, on request, some it should have found."""
    stem = f"query-{query['number']}"
    hits = [
        {
            "rank": rank,
            "similarity": hit["similarity"],
            "correct": hit["correct"],
            "scene": hit["scene"],
            "camera": cameras.get(hit["scene"]),
            "picture": pictures.person(
                f"{stem}-hit-{rank}", hit["scene"], as_boxes(hit["box"])[0], frame_color(hit["correct"])
            ),
        }
        for rank, hit in enumerate(query["top"], start=1)
    ]
    truths = [
        {
            "scene": truth["scene"],
            "camera": cameras.get(truth["scene"]),
            "picture": pictures.person(f"{stem}-truth-{place}", truth["scene"], as_boxes(truth["box"])[0], IDENTITY),
        }
        for place, truth in enumerate(query["truths"][:_TRUTHS_SHOWN] if show_truths else [])
    ]
    return {
        **query,
        "camera": cameras.get(query["scene"]),
        "picture": pictures.person(stem, query["scene"], as_boxes(query["box"])[0], QUERY),
        "hits": hits,
        "shown_truths": truths,
        "whole_scenes": pictures.whole_scenes(f"{stem}-scenes", query, query["top"][:_SCENES_SHOWN]),
    }
