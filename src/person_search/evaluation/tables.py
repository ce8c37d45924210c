"""Results for people and spreadsheets: tables in per cent and one line per query."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from person_search.evaluation.gallery_filter import FilterMetrics
from person_search.evaluation.results import Results, Share
from person_search.runtime.files import output_file


def percent(share: Share) -> str:
    """A share in 0..1 as per cent with one decimal; a dash for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def metrics_table(rows: Sequence[tuple[str, Results]], title: str = "Results, per cent") -> Table:
    """One row per named result and protocol; below it, where known, seen and unseen identities apart.

    What a gallery filter would leave out stands below the table.
    """
    protocols = {metrics.protocol for _, results in rows for metrics in results.search}
    table = Table(
        title=f"{title} ({protocols.pop()})" if len(protocols) == 1 else title,
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("", no_wrap=True)
    for heading in ("det.\nrecall", "det.\nAP", "mAP", "top-1", "top-5", "top-10", "queries"):
        table.add_column(heading, justify="right")
    for label, results in rows:
        found = [percent(results.detection.all.recall), percent(results.detection.all.ap)]
        if len(results.search) != 1:
            table.add_row(label, *found)
        for metrics in results.search:
            first = [label, *found] if len(results.search) == 1 else [f"  {metrics.protocol}", "", ""]
            shares = [percent(value) for value in (metrics.map, metrics.top1, metrics.top5, metrics.top10)]
            left_out = f" ({metrics.left_out} left out)" if metrics.left_out else ""
            table.add_row(*first, *shares, f"{metrics.queries}{left_out}")
            for name, subset in (("seen", metrics.seen), ("unseen", metrics.unseen)):
                if subset is not None:
                    values = [percent(subset.map), percent(subset.top1)]
                    table.add_row(f"    {name} in training", "", "", *values, "", "", str(subset.queries))
    filters = [
        f"{label} ({metrics.protocol}): {filter_line(metrics.gallery_filter)}"
        for label, results in rows
        for metrics in results.search
        if metrics.gallery_filter is not None
    ]
    if filters:
        table.caption, table.caption_justify = "\n".join(filters), "left"
    return table


def filter_line(metrics: FilterMetrics) -> str:
    """Which scenes a gallery filter would leave out by the threshold that keeps 99 % of those with the person."""
    return (
        f"scores below {metrics.threshold:.4f} have {percent(metrics.filtered)} % of scenes without the person, "
        f"{percent(1 - metrics.kept)} % of those with"
    )


def write_per_query(results: Results, path: Path) -> None:
    """One CSV line per query of the first protocol; AP and recall in 0..1, empty if left out. Raises DataError."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["number", "scene", "x1", "y1", "x2", "y2", "person_id", "ap", "recall", "rank_of_first"])
    for query in results.queries:
        writer.writerow(
            [query.number, query.scene, *query.box, query.person_id, query.ap, query.recall, query.rank_of_first]
        )
    with output_file(path, "per-query results") as file:
        file.write(text.getvalue().encode())
