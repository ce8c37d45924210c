"""Curves show the numbers they are given, and only those there are."""

import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.visualize import curves


def write_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_metrics_keep_the_later_row_of_a_repeated_step(tmp_path):
    path = write_rows(
        tmp_path / "metrics.jsonl",
        {"step": 10, "loss": 3.0},
        {"step": 20, "loss": 2.0},
        {"step": 30, "loss": 9.0},
        {"step": 20, "val/map": 0.5},
        {"step": 30, "loss": 1.0},
        {"step": 25, "loss": 1.5},
    )
    rows = curves.read_metrics(path)
    assert [(row["step"], row.get("loss")) for row in rows] == [
        (10, 3.0),
        (20, 2.0),
        (20, None),
        (25, 1.5),
        (30, 1.0),
    ]


def test_metrics_leave_out_lines_cut_short(tmp_path):
    path = write_rows(tmp_path / "metrics.jsonl", {"step": 1, "loss": 3.0})
    with path.open("a") as file:
        file.write('{"step": 2, "lo\n[1]\n{"loss": 1}\n{"step": 3, "loss": 2.0}\n{"st')
    assert [row["step"] for row in curves.read_metrics(path)] == [1, 3]


def test_no_metrics_file_means_no_rows(tmp_path):
    assert curves.read_metrics(tmp_path / "metrics.jsonl") == []


@settings(deadline=None, derandomize=True)
@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=40), window=st.integers(1, 50))
def test_running_mean_is_the_mean_of_the_last_values(values, window):
    expected = [np.mean(values[max(0, stop - window) : stop]) for stop in range(1, len(values) + 1)]
    np.testing.assert_allclose(curves._running_mean(np.array(values), window), expected, atol=1e-9)


def texts(svg):
    root = ElementTree.parse(svg).getroot()
    return [" ".join("".join(node.itertext()).split()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def longest_path(svg, color):
    """Points of the longest line drawn in ``color``, (K, 2) in SVG coordinates (y downwards)."""
    root = ElementTree.parse(svg).getroot()
    lines = [
        re.findall(r"[ML] (\S+) (\S+)", node.get("d"))
        for node in root.iter("{http://www.w3.org/2000/svg}path")
        if f"stroke: {color}" in (node.get("style") or "") and node.get("clip-path")
    ]
    return np.array(max(lines, key=len), float)


def test_losses_name_the_total_and_every_part(tmp_path):
    rows = [{"step": s, "loss": 4 - s, "loss/rpn_box": 1.0, "loss/reid": 2.0, "lr/reid": 1e-3} for s in range(3)]
    assert curves.loss_curves(rows, tmp_path / "loss.svg")
    assert {"total", "rpn box", "re-ID", "step", "loss"} <= set(texts(tmp_path / "loss.svg"))
    points = longest_path(tmp_path / "loss.svg", curves._COLORS[0])
    assert (np.diff(points[:, 1]) > 0).all(), "a falling loss is drawn falling"


def test_learning_rates_and_accuracy_take_their_own_columns(tmp_path):
    rows = [{"step": 1, "lr/detection": 0.1, "lr/reid": 0.2, "identity_accuracy": 0.5}, {"step": 2, "val/map": 0.4}]
    assert curves.learning_rates(rows, tmp_path / "lr.svg")
    assert {"detection", "re-ID"} <= set(texts(tmp_path / "lr.svg"))
    assert curves.accuracy_curves(rows, tmp_path / "accuracy.svg")
    found = texts(tmp_path / "accuracy.svg")
    assert {"identity accuracy (training)", "mAP (validation)"} <= set(found)
    assert "top-1 (validation)" not in found


def test_values_that_are_not_finite_are_left_out(tmp_path):
    rows = [{"step": 0, "loss": 2.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 1.0}]
    assert curves.loss_curves(rows, tmp_path / "loss.svg")
    assert len(longest_path(tmp_path / "loss.svg", curves._COLORS[0])) == 2


def test_nothing_to_draw_draws_nothing(tmp_path):
    path = tmp_path / "curve.svg"
    assert not curves.loss_curves([{"step": 1, "epoch": 0}], path)
    assert not curves.learning_rates([], path)
    assert not curves.accuracy_curves([{"step": 1, "loss": 1.0}], path)
    assert not curves.precision_recall_curve([], [], path)
    assert not curves.cmc_curve({"all scenes": []}, path)
    assert not curves.gallery_size_curve([{"protocol": "gallery 50", "map": 0.5, "top1": 0.6}], path)
    assert not path.exists()


def test_precision_recall_goes_from_low_to_high_recall(tmp_path):
    assert curves.precision_recall_curve([0.5, 0.8, 1.0], [0.9, 0.6, 0.2], tmp_path / "pr.svg")
    points = longest_path(tmp_path / "pr.svg", curves._COLORS[0])
    assert (np.diff(points[:, 0]) > 0).all()
    assert (np.diff(points[:, 1]) > 0).all()


def test_precision_and_recall_must_be_as_many(tmp_path):
    with pytest.raises(ValueError, match="longer"):
        curves.precision_recall_curve([0.5, 0.8], [0.9], tmp_path / "pr.svg")


def test_cmc_has_a_line_per_protocol_and_takes_any_name(tmp_path):
    named = {"gallery 50": [0.5, 0.7, 0.8], "<all> & $\\x$": [0.2, 0.3]}
    assert curves.cmc_curve(named, tmp_path / "cmc.svg")
    assert set(named) <= set(texts(tmp_path / "cmc.svg"))


def test_gallery_sizes_are_read_from_the_names():
    scores = {"gallery 1000": 0.5, "gallery 50": 0.8, "cross-camera": 0.1, "whole set": 0.3}
    rows = [{"protocol": name, "map": score, "top1": score / 2} for name, score in scores.items()]
    assert curves.gallery_sizes(rows) == [(50, 0.8, 0.4), (1000, 0.5, 0.25)]
    assert curves.gallery_sizes(rows, whole=6977)[-1] == (6977, 0.3, 0.15)
    assert curves.gallery_sizes([{"protocol": "gallery 50", "map": None, "top1": 0.1}]) == []


def test_gallery_curve_has_a_tick_for_every_size(tmp_path):
    rows = [{"protocol": f"gallery {size}", "map": 0.8, "top1": 0.9} for size in (50, 100, 4000)]
    assert curves.gallery_size_curve(rows, tmp_path / "gallery.svg")
    assert {"50", "100", "4000", "mAP", "top-1"} <= set(texts(tmp_path / "gallery.svg"))


def test_svg_follows_the_theme_and_is_the_same_every_time(tmp_path):
    for name in ("a.svg", "b.svg"):
        curves.cmc_curve({"all scenes": [0.5, 0.7, 0.8]}, tmp_path / name)
    svg = (tmp_path / "a.svg").read_text()
    assert svg == (tmp_path / "b.svg").read_text()
    assert "prefers-color-scheme: dark" in svg
    body = svg.partition("</style>")[2]
    assert "var(--ink)" in body
    assert "var(--grid)" in body
    assert curves._INK not in body


def test_png_is_a_picture(tmp_path):
    import cv2

    assert curves.cmc_curve({"all scenes": [0.5, 0.7, 0.8]}, tmp_path / "sub" / "cmc.png")
    assert cv2.imread(str(tmp_path / "sub" / "cmc.png")).shape == (540, 840, 3)
