"""The report page of a run: ``index.html`` and its pictures, to be opened from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml

from person_search.data.scene import Split
from person_search.errors import PersonSearchError, UsageError
from person_search.evaluation.record import Record
from person_search.runtime.files import atomic_folder
from person_search.visualize import curves
from person_search.visualize.report_pictures import Pictures, ReadScene
from person_search.visualize.report_queries import choose_queries, ranking
from person_search.visualize.report_scenes import Scored, detection_scenes, proposal_scenes

_OURS = {"index.html", "pictures", "curves"}
_GENERATOR = "person-search report"
_SUMMARY = (
    ("model.method", "method"),
    ("model.backbone.name", "backbone"),
    ("model.backbone.weights", "weights"),
    ("model.loss.name", "re-ID loss"),
    ("model.levels", "levels"),
    ("model.images.shorter_side", "shorter side"),
    ("training.max_epochs", "epochs"),
    ("training.batch_size", "batch size"),
    ("training.lr", "learning rate"),
    ("training.seed", "seed"),
)


def write_report(
    run_dir: Path,
    out: Path,
    *,
    split: Split,
    results: Mapping[str, Any],
    predictions: Scored,
    proposals: Scored | None,
    reference_rows: Sequence[Mapping[str, Any]],
    record: Record,
    read_scene: ReadScene,
    max_queries: int = 24,
) -> Path:
    """Write the report into the folder ``out``, whole or not at all, and return its ``index.html``.

    What is not there (no ``metrics.jsonl``, no proposals, one camera) leaves out its section; a picture that cannot
    be read is shown as a placeholder and listed.

    Args:
        run_dir: folder of the run, read for how it was trained: ``config.yaml`` and ``metrics.jsonl``.
        out: folder to write; replaced if it holds an earlier report.
        split: the scenes and queries that were evaluated.
        results: content of ``results.json``; all values are shares in 0..1.
        predictions: scene name -> detections, boxes (N, 4) xyxy in pixels of the scene and scores (N,).
        proposals: the same for proposals of the first stage, for some scenes or none.
        reference_rows: rows ``name``, ``map``, ``top1``, ``top5``, ``top10`` to compare with, such as a random ranking.
        record: what was evaluated, with which settings.
        read_scene: a scene of ``split`` -> (H, W, 3) uint8 RGB; what it raises makes it unreadable.
        max_queries: ranking lists shown, at most.

    Raises UsageError when ``out`` holds anything but an earlier report, PersonSearchError when it cannot be written.
    """
    target = out.resolve()
    try:
        _refuse_foreign(target, out)
        with atomic_folder(target) as folder:
            pictures = Pictures(folder, split.scenes, read_scene)
            page = {
                "generator": _GENERATOR,
                "run": run_dir.resolve().name,
                "results": results,
                "search": list(results.get("search") or []),
                "references": list(reference_rows),
                "record": record,
                "config": _config(run_dir / "config.yaml", record),
                "curves": _curves(curves.read_metrics(run_dir / "metrics.jsonl"), results, folder),
                "cameras": _camera_tables(results),
                "scenes": detection_scenes(split, predictions, pictures, threshold=_threshold(results)),
                "proposals": proposal_scenes(split, proposals or {}, pictures),
                "rankings": _rankings(split, results, pictures, max_queries),
                "unreadable": pictures.unreadable,
            }
            html = _environment().get_template("index.html.j2").render(page)
            (folder / "index.html").write_text(html, encoding="utf-8")
    except OSError as error:
        raise PersonSearchError(
            f"cannot write report '{out}': {error.strerror or error}; free space there or choose another folder"
        ) from None
    return out / "index.html"


def percent(share: float | None) -> str:
    """A share as per cent with one decimal; a dash for None and NaN."""
    return "\N{EN DASH}" if share is None or not np.isfinite(share) else f"{100 * share:.1f}"


def _refuse_foreign(target: Path, named: Path) -> None:
    """Raise UsageError where replacing ``target`` would delete what no report wrote."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"expected a folder for the report, found the file '{named}'; choose another name")
    found = {entry.name for entry in target.iterdir()}
    index = target / "index.html"
    ours = index.is_file() and _GENERATOR in index.read_text(encoding="utf-8", errors="replace")[:2000]
    if found and (found - _OURS or not ours):
        foreign = min(found - _OURS, default="index.html")
        raise UsageError(
            f"folder '{named}' is not an earlier report, it holds '{foreign}'; choose a new or empty folder"
        )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("person_search.visualize"),
        autoescape=True,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: percent(share if isinstance(share, float | int) else None)
    return environment


def _config(path: Path, record: Record) -> dict[str, Any]:
    """All settings evaluated with, those of the training in ``path``, if it is there, and the most telling ones."""
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        tree = None
    trained = tree.get("training") if isinstance(tree, dict) else None
    training = {**(trained if isinstance(trained, dict) else {}), **record.settings["training"]}
    sections = {**record.settings, "training": training}
    summary = []
    for path_of_value, label in _SUMMARY:
        value = _value_at(sections, path_of_value)
        if value is not None:
            summary.append((label, ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return {"text": yaml.safe_dump(sections, sort_keys=False, allow_unicode=True), "summary": summary}


def _value_at(tree: Any, path: str) -> Any:
    """The value at ``"a.b.c"``, or None: not every method has every setting."""
    for key in path.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _threshold(results: Mapping[str, Any]) -> float:
    return float((results.get("detection") or {}).get("threshold", 0.5))


def _curves(rows: Sequence[Mapping[str, Any]], results: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Draw every curve there are numbers for: its name -> its file, relative to the page."""
    search = list(results.get("search") or [])
    detector = (results.get("detection") or {}).get("curve") or {"precision": [], "recall": []}
    ranks = {row["protocol"]: row.get("cmc") or [] for row in search}
    files = {
        name: folder / "curves" / f"{name}.svg"
        for name in ("loss", "accuracy", "rates", "precision-recall", "cmc", "gallery")
    }
    drawn = {
        "loss": curves.loss_curves(rows, files["loss"]),
        "accuracy": curves.accuracy_curves(rows, files["accuracy"]),
        "rates": curves.learning_rates(rows, files["rates"]),
        "precision-recall": curves.precision_recall_curve(
            detector["precision"], detector["recall"], files["precision-recall"]
        ),
        "cmc": curves.cmc_curve(ranks, files["cmc"]),
        "gallery": curves.gallery_size_curve(search, files["gallery"], whole=int(results.get("scenes", 0)) - 1),
    }
    return {name: files[name].relative_to(folder).as_posix() for name, there in drawn.items() if there}


def _camera_tables(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per protocol with camera pairs: the cameras and mAP and queries of each pair."""
    tables = []
    for row in results.get("search") or []:
        pairs = row.get("camera_pairs") or []
        if pairs:
            tables.append(
                {
                    "protocol": row["protocol"],
                    "query": sorted({pair["query"] for pair in pairs}),
                    "gallery": sorted({pair["gallery"] for pair in pairs}),
                    "cells": {(pair["query"], pair["gallery"]): pair for pair in pairs},
                }
            )
    return tables


def _rankings(
    split: Split, results: Mapping[str, Any], pictures: Pictures, wanted: int
) -> dict[str, list[dict[str, Any]]]:
    cameras = {scene.name: scene.camera for scene in split.scenes}
    chosen = choose_queries(list(results.get("queries") or []), wanted)
    return {
        kind: [ranking(query, pictures, cameras, show_truths=kind == "worst") for query in queries]
        for kind, queries in chosen.items()
    }
