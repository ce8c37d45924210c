"""What TensorBoard gets to see: the same validation queries each time, with what was found marked right or wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from person_search.config import Config, EvaluationConfig
from person_search.data.scene import Dataset, ProtocolOptions, Split
from person_search.evaluation.chance import random_ranking
from person_search.evaluation.results import Results
from person_search.training.pictures import RANKINGS, validation_rankings
from person_search.training.trainer import train
from person_search.visualize.boxes import RIGHT, WRONG


@pytest.fixture
def searched(dataset: Dataset) -> tuple[Results, Split]:
    split = dataset.split("val")
    return random_ranking(split, [dataset.protocol(split, ProtocolOptions())], EvaluationConfig()), split


def shows(picture: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((picture == color).all(-1).any())


def test_hits_are_marked_right_and_wrong(searched: tuple[Results, Split]) -> None:
    results, split = searched
    asked = [query for query in results.queries if query.truths]
    pictures = validation_rankings(results, split, wanted=99)
    assert len(pictures) == len(asked) > 1
    for query, picture in zip(asked, pictures, strict=True):
        assert shows(picture, RIGHT) == any(hit.correct for hit in query.top)
        assert shows(picture, WRONG) == any(not hit.correct for hit in query.top)


def test_the_same_queries_are_shown_whatever_was_found(searched: tuple[Results, Split]) -> None:
    results, split = searched
    nothing = dataclasses.replace(
        results, queries=[dataclasses.replace(query, top=[], ap=0.0) for query in results.queries]
    )
    full, empty = (validation_rankings(r, split, wanted=2) for r in (results, nothing))
    assert len(full) == len(empty) == 2
    for one, other in zip(full, empty, strict=True):
        assert other.shape[1] < one.shape[1]
        query = other[:160, : other.shape[1] - 12]
        assert np.array_equal(one[: query.shape[0], : query.shape[1]], query)


def test_a_displayed_run_has_pictures_and_curves_in_tensorboard(
    make_config: Callable[..., Config], dataset: Dataset, tmp_path: Path
) -> None:
    config = make_config(max_epochs=2, display=True, validate_every=1, search_threshold=0.0)
    train(config, dataset=dataset, show_progress=False)
    written = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0}).Reload()
    names = written.Tags()["images"]
    lists = [name for name in names if name.startswith("ranking/")]
    assert 1 < len(lists) <= RANKINGS
    for name in lists:
        assert [event.step for event in written.Images(name)] == [4, 8]
    assert any(name.startswith("proposals/") for name in names)
    scalars = set(written.Tags()["scalars"])
    assert {"loss", "loss/reid", "identity_accuracy", "rois_foreground", "rois_background", "val/map"} <= scalars
    assert any(name.startswith("lr") for name in scalars)
