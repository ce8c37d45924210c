"""Curves of training and of results, as SVG or PNG by the file's suffix.

SVG files follow the reader's light or dark theme and keep their text as text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Row = Mapping[str, Any]

# Readable on white and on near-black alike; the line styles tell them apart without colour.
_COLORS = ("#2f7de1", "#d9730d", "#2e9e5b", "#b35bd6", "#d64550", "#0f9aa8", "#8a7a5c")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (7, 2)), (0, (2, 1)))
_INK, _GRID = "#1f2934", "#d3d8de"
_THEME = f"""<style>
:root {{ --ink: {_INK}; --grid: {_GRID} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #d7dde4; --grid: #3a434d }} }}
text {{ font-family: system-ui, "Segoe UI", Roboto, sans-serif }}
</style>"""
_PUBLISHED_RANKS = (1, 5, 10)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a ``metrics.jsonl``, in the order of their steps; [] when there is no such file.

    A resumed run repeats the steps after its checkpoint: the later row of a step counts. Lines cut short by a
    killed process are left out.
    """
    if not path.is_file():
        return []
    latest: dict[tuple[float, bool], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict) and _finite(row.get("step")):
            latest[float(row["step"]), any(key.startswith("val/") for key in row)] = row
    return [latest[key] for key in sorted(latest)]


def loss_curves(rows: Sequence[Row], path: Path) -> bool:
    """Total loss and its parts (``loss/...``) over steps. False, and no file, when no row has a loss."""
    parts = sorted({key for row in rows for key in row if key.startswith("loss/")})
    series = _series(rows, ["loss", *parts])
    names = {
        "loss": "total",
        **{part: part.removeprefix("loss/").replace("_", " ").replace("reid", "re-ID") for part in parts},
    }
    return _plot_series(series, names, path, ylabel="loss", bold="loss")


def learning_rates(rows: Sequence[Row], path: Path) -> bool:
    """Learning rates (``lr/...``) over steps. False, and no file, when no row has one."""
    keys = sorted({key for row in rows for key in row if key.startswith("lr/")})
    names = {key: key.removeprefix("lr/").replace("reid", "re-ID") for key in keys}
    return _plot_series(_series(rows, keys), names, path, ylabel="learning rate")


def accuracy_curves(rows: Sequence[Row], path: Path) -> bool:
    """Identity accuracy in training and the validation metrics (``val/...``), per cent, over steps.

    False, and no file, when no row has any of them.
    """
    names = {
        "identity_accuracy": "identity accuracy (training)",
        "val/detection_ap": "detection AP (validation)",
        "val/map": "mAP (validation)",
        "val/top1": "top-1 (validation)",
    }
    return _plot_series(_series(rows, list(names), scale=100), names, path, ylabel="%", ylim=(0, 102))


def precision_recall_curve(precision: Sequence[float], recall: Sequence[float], path: Path) -> bool:
    """The detector's precision over recall, both (K,) in 0..1. False, and no file, without any points."""
    points = [(r, p) for r, p in zip(recall, precision, strict=True) if _finite(r) and _finite(p)]
    if not points:
        return False
    with _axes(path, "recall, %", "precision, %") as axes:
        by_recall = np.array(sorted(points, key=lambda point: (point[0], -point[1]))) * 100
        axes.plot(by_recall[:, 0], by_recall[:, 1], color=_COLORS[0], linewidth=2)
        axes.fill_between(by_recall[:, 0], by_recall[:, 1], color=_COLORS[0], alpha=0.12, linewidth=0)
        axes.set(xlim=(0, 102), ylim=(0, 102))
    return True


def cmc_curve(curves: Mapping[str, Sequence[float]], path: Path) -> bool:
    """Share of queries found among the k most similar people, over k = 1, 2, ...; one line per protocol.

    Args:
        curves: protocol name -> (K,) shares in 0..1.

    False, and no file, when all are empty.
    """
    drawn = {name: 100 * np.asarray(shares, float) for name, shares in curves.items() if len(shares)}
    if not drawn:
        return False
    with _axes(path, "k", "queries found within k, %") as axes:
        for number, (name, shares) in enumerate(drawn.items()):
            ranks = np.arange(1, len(shares) + 1)
            marked = [rank - 1 for rank in _PUBLISHED_RANKS if rank <= len(shares)]
            axes.plot(ranks, shares, label=name, marker="o", markersize=4, markevery=marked, **_look(number))
        longest = max(len(shares) for shares in drawn.values())
        axes.set_xticks([rank for rank in (1, *range(5, longest + 1, max(5, longest // 10))) if rank <= longest])
        axes.set(xlim=(0.5, max(longest, 2) + 0.5), ylim=(_floor(drawn.values()), 102))
        if len(drawn) > 1:
            axes.legend(frameon=False, loc="lower right")
    return True


def gallery_sizes(search: Sequence[Row], whole: int | None = None) -> list[tuple[int, float, float]]:
    """(size, mAP, top-1) of the protocols named ``gallery N`` or ``whole set``, smallest first.

    ``whole`` is the number of scenes that the whole set stands for; without it that protocol is left out.
    """
    points = []
    for row in search:
        name = str(row.get("protocol"))
        numbered = re.fullmatch(r"gallery (\d+)", name)
        size = int(numbered[1]) if numbered else whole if name == "whole set" else None
        if size and _finite(row.get("map")) and _finite(row.get("top1")):
            points.append((size, row["map"], row["top1"]))
    return sorted(points)


def gallery_size_curve(search: Sequence[Row], path: Path, *, whole: int | None = None) -> bool:
    """mAP and top-1 over the gallery size. False, and no file, without two sizes (see ``gallery_sizes``)."""
    points = gallery_sizes(search, whole)
    if len(points) < 2:
        return False
    sizes = [size for size, _, _ in points]
    lines = {"mAP": [100 * value for _, value, _ in points], "top-1": [100 * value for _, _, value in points]}
    with _axes(path, "scenes in the gallery", "%") as axes:
        for number, (name, values) in enumerate(lines.items()):
            axes.plot(sizes, values, label=name, marker="so"[number], markersize=5, **_look(number))
        axes.set_xscale("log")
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.set_ylim(_floor(np.array(values) for values in lines.values()), 102)
        axes.legend(frameon=False)
    return True


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _series(rows: Sequence[Row], keys: Sequence[str], scale: float = 1) -> dict[str, Any]:
    """Key -> (K, 2) steps and values of the rows that have a finite one; keys without any are left out."""
    points = {key: [(row["step"], scale * row[key]) for row in rows if _finite(row.get(key))] for key in keys}
    return {key: np.array(found, float) for key, found in points.items() if found}


def _plot_series(
    series: Mapping[str, Any],
    names: Mapping[str, str],
    path: Path,
    *,
    ylabel: str,
    ylim: tuple[float, float] | None = None,
    bold: str = "",
) -> bool:
    if not series:
        return False
    with _axes(path, "step", ylabel) as axes:
        for number, (key, points) in enumerate(series.items()):
            look = _look(number)
            if key == bold:
                look["linewidth"] = 2.5
            if len(points) > 60:
                # Single steps are noise that hides the course: shown faintly beneath their running mean.
                axes.plot(points[:, 0], points[:, 1], color=look["color"], alpha=0.2, linewidth=0.8)
            smooth = _running_mean(points[:, 1], window=max(1, len(points) // 30))
            marker = "o" if len(points) < 12 else ""
            axes.plot(points[:, 0], smooth, label=names[key], marker=marker, markersize=4, **look)
        axes.set_ylim(*(ylim or (0, None)))
        axes.legend(frameon=False, fontsize=9)
    return True


def _running_mean(values: Any, window: int) -> Any:
    """Mean of the last ``window`` values at each place, of fewer at the start; (K,) -> (K,)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(0, stop - window)
    return (total[stop] - total[start]) / (stop - start)


def _look(number: int) -> dict[str, Any]:
    return {
        "color": _COLORS[number % len(_COLORS)],
        "linestyle": _STYLES[number % len(_STYLES)],
        "linewidth": 1.8,
    }


def _floor(curves: Any) -> float:
    """Where the axis of percentages starts: 0, or 10 below the lowest value when all are high."""
    lowest = min(float(np.nanmin(curve)) for curve in curves)
    return max(0.0, 10 * np.floor(lowest / 10) - 10)


@contextmanager
def _axes(path: Path, xlabel: str, ylabel: str) -> Iterator[Any]:
    """One pair of axes, written to ``path`` when the block ends."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # A fixed salt and no date: the same numbers give the same file.
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": "person-search",
        "font.size": 10,
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(5.6, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.set_xlabel(xlabel, color=_INK)
        axes.set_ylabel(ylabel, color=_INK)
        axes.grid(True, color=_GRID, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(color=_GRID, labelcolor=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_GRID)
        yield axes
        legend = axes.get_legend()
        for text in legend.get_texts() if legend else []:
            text.set_color(_INK)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".svg":
            figure.savefig(path, transparent=True, metadata={"Date": None, "Creator": None})
            _follow_theme(path)
        else:
            figure.savefig(path, dpi=150)


def _follow_theme(path: Path) -> None:
    """Let the SVG's ink and grid be those of the reader's light or dark theme."""
    svg = path.read_text(encoding="utf-8")
    svg = svg.replace(_INK, "var(--ink)").replace(_GRID, "var(--grid)")
    head, tag, body = svg.partition("<defs>")
    path.write_text(head + _THEME + tag + body, encoding="utf-8")
