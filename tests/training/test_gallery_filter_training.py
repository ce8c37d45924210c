"""Training a gallery filter network: what it remembers is where a run goes on from, and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from conftest import TinyDataset, tiny_config
from person_search.checkpoints.checkpoint import read_checkpoint
from person_search.config import Config
from person_search.data.loading import Item, TrainingScenes
from person_search.data.scene import Dataset, Split, SplitName
from person_search.errors import DataError, UsageError
from person_search.training.trainer import train

MakeConfig = Callable[..., Config]
GFN = {"method": "oim", "gfn": True}


def test_resumed_it_ends_as_if_it_had_not_been_stopped(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    train(make_config(**GFN, run_dir=whole), dataset=dataset, show_progress=False)
    train(make_config(**GFN, run_dir=stopped, max_steps=3), dataset=dataset, show_progress=False)
    half = read_checkpoint(stopped / "last.pt").training["scene_memory"]
    assert len(half["numbers"]) > 0
    train(make_config(**GFN, run_dir=stopped), resume=True, dataset=dataset, show_progress=False)
    one, other = (read_checkpoint(folder / "last.pt") for folder in (whole, stopped))
    assert all(torch.equal(value, other.model[name]) for name, value in one.model.items())
    kept, again = (each.training["scene_memory"] for each in (one, other))
    assert sorted(kept["numbers"].tolist()) == [0, 1, 2, 3]
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    # The memory matters: without it the same steps end elsewhere.
    forgetful = tmp_path / "forgetful"
    train(make_config(**GFN, run_dir=forgetful, gfn_memory=False), dataset=dataset, show_progress=False)
    bare = read_checkpoint(forgetful / "last.pt")
    assert not all(torch.equal(value, bare.model[name]) for name, value in one.model.items())
    assert "scene_memory" not in bare.training


def test_only_the_newest_checkpoint_holds_the_memory(make_config: MakeConfig, dataset: Dataset, tmp_path: Path) -> None:
    train(make_config(**GFN, validate_every=1), dataset=dataset, show_progress=False)
    held = {path.name: read_checkpoint(path).training for path in (tmp_path / "run").glob("*.pt")}
    assert held.keys() == {"last.pt", "best.pt", "epoch-001.pt", "epoch-002.pt"}
    assert held["best.pt"] is None
    assert {name for name, training in held.items() if training and "scene_memory" in training} == {"last.pt"}


def test_switched_off_it_is_not_kept_and_that_is_said(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config(**GFN, checkpoint_memory=False, max_steps=3), dataset=dataset, show_progress=False)
    last = tmp_path / "run" / "last.pt"
    assert "scene_memory" not in read_checkpoint(last).training
    with caplog.at_level(logging.WARNING):
        train(make_config(**GFN), resume=True, dataset=dataset, show_progress=False)
    assert f"'{last}' does not hold the scenes that the gallery filter network remembers" in caplog.text
    assert "scene_memory" in read_checkpoint(last).training


def test_without_identities_there_is_nothing_to_train(make_config: MakeConfig, tmp_path: Path) -> None:
    class Nobody(TinyDataset):
        def split(self, name: SplitName) -> Split:
            split = super().split(name)
            for scene in split.scenes:
                scene.person_ids[:] = -1
            return replace(split, num_identities=0)

    with pytest.raises(DataError, match="none of the 4 training scenes of 'tiny' holds a person with an identity"):
        train(make_config(**GFN), dataset=Nobody(tmp_path / "nobody"), show_progress=False)
    assert not (tmp_path / "run" / "last.pt").exists()


def test_targets_say_of_which_scene_they_are(dataset: Dataset) -> None:
    """Both pictures of a scene, as it is and mirrored, are of one."""
    scenes = TrainingScenes(dataset.split("train"))
    for scene in range(4):
        assert {scenes[Item(scene, mirrored, seed=5)][1].scene for mirrored in (False, True)} == {scene}


def test_scene_scores_of_a_model_without_a_filter_are_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the model predicts no scene_embeddings, which the gallery filter needs"):
        train(tiny_config(tmp_path, gfn_scores=True), dataset=TinyDataset(tmp_path), show_progress=False)
