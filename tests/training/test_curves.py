"""The rows of a run, and that resuming leaves each step there once."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from person_search.errors import PersonSearchError
from person_search.training.curves import Curves, RunningMeans


def rows(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_rows_hold_finite_values(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    curves.add(step=1, epoch=1, values={"loss": 2.5, "identity_accuracy": math.nan})
    curves.close()
    assert rows(tmp_path) == [{"step": 1, "epoch": 1, "loss": 2.5}]
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_resuming_drops_what_came_after_and_what_was_cut(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    for step in (1, 2, 3):
        curves.add(step=step, epoch=1, values={"loss": step})
    curves.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    curves = Curves(tmp_path, from_step=2)
    curves.add(step=3, epoch=1, values={"loss": 30})
    curves.close()
    assert [(row["step"], row["loss"]) for row in rows(tmp_path)] == [(1, 1), (2, 2), (3, 30)]


def test_a_new_run_starts_with_no_rows(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    Curves(tmp_path).close()
    assert rows(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PersonSearchError, match="cannot write the curves"):
        Curves(tmp_path / "gone")


def test_running_means_start_anew_when_taken() -> None:
    means = RunningMeans()
    means.add({"a": 1.0, "b": 5.0})
    means.add({"a": 3.0})
    assert means.take() == {"a": 2.0, "b": 5.0}
    means.add({"a": 7.0})
    assert means.take() == {"a": 7.0}
