"""Runs whose steps are mostly skipped, and checkpoints that are not finite."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from person_search.checkpoints.checkpoint import newest_checkpoint, read_checkpoint
from person_search.checkpoints.loading import load_model
from person_search.config import Config
from person_search.data.scene import Dataset
from person_search.errors import CheckpointError
from person_search.runtime.stopping import InterruptedRunError
from person_search.training.divergence import DOUBTFUL, SkippedSteps, TrainingDivergedError
from person_search.training.trainer import train

MakeConfig = Callable[..., Config]


def noted(steps: str, config: Config) -> SkippedSteps:
    """After steps taken (.) and skipped (x)."""
    watch = SkippedSteps(config)
    for step in steps:
        watch.note(step == "x")
    return watch


@pytest.mark.parametrize("steps", ["xxxx", "." * 50 + "xxxx", "xx.xx.xx", ".xxx.x.xx"])
def test_most_steps_skipped_is_an_error_even_with_good_ones_between(make_config: MakeConfig, steps: str) -> None:
    config = make_config(max_skipped_steps=4, lr=7, precision="bf16", init_from=Path("old.pt"))
    noted(steps[:-1], config)
    with pytest.raises(TrainingDivergedError, match=r"lr 7,.*precision bf16.*init_from old\.pt.*pictures"):
        noted(steps, config)


def test_steps_skipped_now_and_then_are_none(make_config: MakeConfig) -> None:
    noted("x." * 100, make_config(max_skipped_steps=2)).at_end()
    noted("x" * 100, make_config(max_skipped_steps=0)).at_end()
    noted("xxxxx.....", make_config()).at_end()


def test_a_run_too_short_for_the_limit_is_lost_at_its_end(make_config: MakeConfig) -> None:
    with pytest.raises(TrainingDivergedError, match="5 of 6 steps"):
        noted(".xxxxx", make_config()).at_end()


def test_a_lost_run_keeps_the_checkpoint_from_before(
    make_config: MakeConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = train(make_config(max_epochs=1), dataset=dataset, show_progress=False)
    before = read_checkpoint(good.last)
    monkeypatch.setattr(
        "person_search.training.step.LossModule.forward",
        lambda self, batch: {"reid": math.nan * sum(p.sum() for p in self.parameters())},
    )
    longer = make_config(max_epochs=4, max_skipped_steps=10)
    with pytest.raises(TrainingDivergedError, match="10 of 10 steps"):
        train(longer, resume=True, dataset=dataset, show_progress=False)
    after = read_checkpoint(good.last)
    assert after.training["position"] == before.training["position"]
    assert all(torch.equal(after.model[name], value) for name, value in before.model.items())
    assert DOUBTFUL < 4 == before.training["position"]["step"]


def test_a_broken_checkpoint_is_refused_by_name(make_config: MakeConfig, dataset: Dataset) -> None:
    outcome = train(make_config(max_epochs=1), dataset=dataset, show_progress=False)
    contents = torch.load(outcome.last, weights_only=True)
    name = next(key for key, value in contents["model"].items() if value.ndim == 4)
    contents["model"][name].view(-1)[:3] = torch.tensor([math.nan, math.inf, 1.0])
    torch.save(contents, outcome.last)
    wanted = rf"'{name}' \(2 of {contents['model'][name].numel()} values\)"
    with pytest.raises(CheckpointError, match=wanted):
        load_model(outcome.last)
    with pytest.raises(CheckpointError, match=rf"cannot start from.*{wanted}"):
        train(
            make_config(init_from=outcome.last, run_dir=outcome.last.parent.parent / "other"),
            dataset=dataset,
            show_progress=False,
        )
    newest = newest_checkpoint(outcome.last.parent)
    assert newest is not None
    assert newest[0].name == "epoch-001.pt"


def test_the_first_signal_ends_the_wait_for_data(
    make_config: MakeConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = dataset.split("train")
    for scene in made.scenes:
        (dataset.root / scene.name).unlink()
        os.mkfifo(dataset.root / scene.name)
    monkeypatch.setattr(dataset, "split", lambda name: made)
    config = make_config(workers=1)

    def interrupt() -> None:
        while not multiprocessing.active_children():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(InterruptedRunError, match="stopped after step 0"):
        train(config, dataset=dataset, show_progress=False)
