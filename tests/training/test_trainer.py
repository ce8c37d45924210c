"""Whole runs of a tiny model: what they leave, and that stopping and resuming changes nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from forked import run_forked
from person_search.checkpoints.checkpoint import read_checkpoint, save_checkpoint
from person_search.config import Config, load_config, to_yaml, with_settings
from person_search.data.scene import Dataset
from person_search.errors import DataError, UsageError
from person_search.runtime.stopping import InterruptedRunError
from person_search.training import trainer
from person_search.training.run import TrainingOutcome
from person_search.training.run_folder import how_to_go_on, scenes_to_train_on
from person_search.training.step import TrainingStep
from person_search.training.trainer import train
from person_search.training.validation import Validation

MakeConfig = Callable[..., Config]


def run(config: Config, dataset: Dataset, *, resume: bool = False) -> TrainingOutcome:
    return train(config, resume=resume, dataset=dataset, show_progress=False)


def rows(config: Config) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (config.training.run_dir / "metrics.jsonl").read_text().splitlines()]


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    """Every tensor and plain value of a nested structure, by path."""
    if isinstance(value, dict):
        value = value.items()
    elif isinstance(value, list | tuple):
        value = enumerate(value)
    else:
        return {name: value}
    return {k: v for key, part in value for k, v in flattened(part, f"{name}/{key}").items()}


def assert_same_state(one: Path, other: Path) -> None:
    """Model, optimisers, schedules, position and random numbers, bit for bit; time spent and settings excepted."""
    first, second = ({**flattened(c.model), **flattened(c.training)} for c in map(read_checkpoint, (one, other)))
    assert set(first) == set(second)
    for name, value in first.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, second[name]), name
        elif name != "/position/seconds" and not name.startswith("/settings/"):
            assert value == second[name], name


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Have something happen just before a step, counted from 1."""

    def arrange(number: int, happen: Callable[[], None]) -> None:
        call, taken = TrainingStep.__call__, []

        def counted(self: TrainingStep, *arguments: Any, **options: Any) -> Any:
            taken.append(1)
            if len(taken) == number:
                happen()
            return call(self, *arguments, **options)

        monkeypatch.setattr(TrainingStep, "__call__", counted)

    return arrange


def test_a_run_leaves_checkpoints_curves_and_its_config(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(validate_every=1, display=True, workers=1, precision="bf16")
    outcome = run(config, dataset)
    run_dir = config.training.run_dir
    assert (outcome.step, outcome.epoch, outcome.skipped) == (8, 2, 0)
    assert outcome.last == run_dir / "last.pt"
    assert outcome.best == run_dir / "best.pt"
    assert {p.name for p in run_dir.glob("*.pt")} == {"last.pt", "best.pt", "epoch-001.pt", "epoch-002.pt"}
    assert not list(run_dir.glob(".*"))
    assert load_config(run_dir / "config.yaml") == config
    training = [row for row in rows(config) if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 9))
    assert [row["epoch"] for row in training] == [1] * 4 + [2] * 4
    assert {"loss/reid", "loss/box", "lr/detection", "lr/reid", "identity_accuracy", "skipped"} <= set(training[0])
    assert training[3]["lr/detection"] == 0.003
    assert training[0]["lr/detection"] == pytest.approx(0.003 * (0.01 * 0.75 + 0.25))
    validation = [row for row in rows(config) if "val/map" in row]
    assert [(row["epoch"], row["step"]) for row in validation] == [(1, 4), (2, 8)]
    assert read_checkpoint(run_dir / "best.pt").training is None
    assert not torch.equal(read_checkpoint(outcome.last).model["reid_loss.C5.lut"], torch.zeros(4, 256))


def test_validation_comes_after_the_epochs_asked_for_and_the_last(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_epochs=4, flip=False, validate_epochs=(2,))
    assert run(config, dataset).best is not None
    assert [row["epoch"] for row in rows(config) if "val/map" in row] == [2, 4]


@pytest.mark.slow
def test_it_learns(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_epochs=8, optimizer="adamw", lr=0.003, lr_decay_epochs=(7,))
    run(config, dataset)
    losses = [row["loss/classification"] + row["loss/rpn_objectness"] for row in rows(config)]
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])


KILLED = """
    import os, signal, sys, torch
    sys.path.insert(0, {tests!r})
    torch.set_num_threads({threads})
    from pathlib import Path
    from conftest import TinyDataset
    from person_search.config import load_config
    from person_search.training.step import TrainingStep
    from person_search.training.trainer import train

    backward = TrainingStep._update
    taken = []

    def killed(self, norm):
        taken.append(1)
        if len(taken) == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        backward(self, norm)

    TrainingStep._update = killed
    train(load_config(Path({config!r})), dataset=TinyDataset(Path({data!r})), show_progress=False)
"""


@pytest.mark.slow
def test_killed_in_the_middle_of_an_epoch_and_resumed_it_ends_the_same(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    settings = {"max_epochs": 3, "checkpoint_every": 2, "shorter_side": (48, 64), "workers": 1}
    whole = make_config(run_dir=tmp_path / "whole", **settings)
    killed = make_config(run_dir=tmp_path / "killed", **settings)
    run(whole, dataset)

    (tmp_path / "killed.yaml").write_text(to_yaml(killed))
    program = textwrap.dedent(KILLED).format(
        tests=str(Path(__file__).parent),
        threads=torch.get_num_threads(),
        config=str(tmp_path / "killed.yaml"),
        data=str(dataset.root),
    )
    ended = run_forked(exec, program, {"__name__": "__main__"}, timeout=600)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    position = read_checkpoint(tmp_path / "killed" / "last.pt").training["position"]
    assert (position["epoch"], position["images"], position["step"]) == (1, 4, 6)

    torch.rand(5)
    run(killed, dataset, resume=True)
    for name in ("last.pt", "epoch-002.pt", "epoch-003.pt"):
        assert_same_state(tmp_path / "whole" / name, tmp_path / "killed" / name)
    assert rows(whole) == rows(killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_says_how_to_resume(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, at_step: Callable, number: int
) -> None:
    whole = make_config(run_dir=tmp_path / "whole")
    stopped = make_config(run_dir=tmp_path / "stopped")
    run(whole, dataset)
    at_step(3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(InterruptedRunError, match=rf"step \d of 8.*--run-dir {tmp_path}/stopped --resume"):
        run(stopped, dataset)
    # The signal came after the question whether one had come, so the next step is the last.
    assert read_checkpoint(tmp_path / "stopped" / "last.pt").training["position"]["step"] in (3, 4)
    run(stopped, dataset, resume=True)
    assert_same_state(tmp_path / "whole" / "last.pt", tmp_path / "stopped" / "last.pt")
    assert rows(whole) == rows(stopped)


def test_a_second_signal_stops_at_once_and_says_what_is_kept(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, at_step: Callable
) -> None:
    config = make_config(run_dir=tmp_path / "run", max_epochs=1)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(1, twice)
    with pytest.raises(InterruptedRunError, match="No checkpoint was written yet") as stopped:
        run(config, dataset)
    assert not stopped.value.is_failure


def test_what_is_said_of_a_run_that_ended_before_its_time(tmp_path: Path) -> None:
    command = f"person-search train --run-dir {tmp_path} --resume"
    assert how_to_go_on(tmp_path) == "No checkpoint was written yet; start it again"
    (tmp_path / "metrics.jsonl").touch()
    assert how_to_go_on(tmp_path) == f"No checkpoint was written yet; start from the beginning with: {command}"
    (tmp_path / "last.pt").touch()
    assert how_to_go_on(tmp_path) == f"Checkpoints are kept; continue with: {command}"


def test_a_stop_during_validation_loses_nothing(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_config(run_dir=tmp_path / "whole", validate_every=1)
    stopped = make_config(run_dir=tmp_path / "stopped", validate_every=1)
    run(whole, dataset)
    validate = Validation.run

    def interrupted(self: Validation, *arguments: Any, **options: Any) -> dict[str, float]:
        monkeypatch.setattr(Validation, "run", validate)
        os.kill(os.getpid(), signal.SIGINT)
        return validate(self, *arguments, **options)

    monkeypatch.setattr(Validation, "run", interrupted)
    with pytest.raises(InterruptedRunError):
        run(stopped, dataset)
    run(stopped, dataset, resume=True)
    assert_same_state(tmp_path / "whole" / "last.pt", tmp_path / "stopped" / "last.pt")
    assert rows(whole) == rows(stopped)


def test_a_damaged_newest_checkpoint_is_passed_over(make_config: MakeConfig, dataset: Dataset, tmp_path: Path) -> None:
    whole = make_config(run_dir=tmp_path / "whole", max_epochs=2)
    run(whole, dataset)
    short = make_config(run_dir=tmp_path / "short", max_steps=6)
    run(short, dataset)
    damaged = tmp_path / "short" / "last.pt"
    damaged.write_bytes(damaged.read_bytes()[:5000])
    run(make_config(run_dir=tmp_path / "short"), dataset, resume=True)
    assert_same_state(tmp_path / "whole" / "last.pt", damaged)


def test_max_steps_ends_the_run_and_more_continue_it(make_config: MakeConfig, dataset: Dataset, tmp_path: Path) -> None:
    config = make_config(max_steps=3, validate_every=1)
    outcome = run(config, dataset)
    assert (outcome.step, outcome.epoch) == (3, 0)
    assert [row["step"] for row in rows(config) if "val/map" in row] == [3]
    again = run(config, dataset, resume=True)
    assert again.step == 3
    assert run(make_config(max_steps=5), dataset, resume=True).step == 5


def test_accumulating_makes_fewer_steps(make_config: MakeConfig, dataset: Dataset) -> None:
    outcome = run(make_config(batch_size=1, accumulate=3, max_epochs=1), dataset)
    assert outcome.step == 2


def test_everything_for_speed_and_memory_together_trains_and_resumes(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    fast = {"channels_last": True, "checkpoint_trunk": True, "group_by_aspect_ratio": True, "workers": 1}
    whole = make_config(run_dir=tmp_path / "whole", **fast)
    run(whole, dataset)
    run(make_config(run_dir=tmp_path / "parts", max_steps=3, **fast), dataset)
    noted = tmp_path / "parts" / "aspect_ratios.json"
    assert json.loads(noted.read_text()) == {f"train{number}.jpg": 1.5 for number in range(4)}
    run(make_config(run_dir=tmp_path / "parts", **fast), dataset, resume=True)
    assert_same_state(tmp_path / "whole" / "last.pt", tmp_path / "parts" / "last.pt")
    noted.write_text("{}")
    with pytest.raises(DataError, match=r"aspect_ratios\.json.*train0\.jpg"):
        run(make_config(run_dir=tmp_path / "parts", max_epochs=3, **fast), dataset, resume=True)


def test_one_optimiser_and_a_method_without_reid_parameters(make_config: MakeConfig, dataset: Dataset) -> None:
    outcome = run(make_config(method="oim", max_steps=1), dataset)
    assert list(read_checkpoint(outcome.last).training["optimizers"]) == ["detection"]


# Refused, before or instead of work.


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_used_folder_is_left_alone(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_steps=1)
    run(config, dataset)
    before = contents(config.training.run_dir)
    with pytest.raises(UsageError, match=r"already holds a run.*`resume`"):
        run(config, dataset)
    assert contents(config.training.run_dir) == before


def test_resuming_where_nothing_is_starts_at_the_beginning(
    make_config: MakeConfig, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    assert run(make_config(max_steps=1), dataset, resume=True).step == 1
    assert "no checkpoint" in caplog.text


@pytest.mark.parametrize("change", [{"width": 0.25}, {"method": "nae"}, {"optimizer": "adamw"}, {"uni_optim": True}])
def test_going_on_with_another_training_is_refused(
    make_config: MakeConfig, dataset: Dataset, change: dict[str, Any]
) -> None:
    config = make_config(max_steps=1)
    run(config, dataset)
    before = contents(config.training.run_dir)
    ((key, value),) = change.items()
    with pytest.raises(UsageError, match=rf"cannot resume '.*run' with other settings.*: {key}: \w.* -> {value}; "):
        run(make_config(max_steps=2, **change), dataset, resume=True)
    assert contents(config.training.run_dir) == before


def test_an_unreadable_image_stops_the_run_unless_told_otherwise(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = dataset.split("train")
    broken = dataset.root / split.scenes[3].name
    dataset.split = lambda name: split  # The fixture would draw the pictures anew.
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(DataError, match=str(broken)):
        run(make_config(run_dir=tmp_path / "strict", max_epochs=1), dataset)
    config = make_config(run_dir=tmp_path / "lenient", max_epochs=1, skip_unreadable=True, batch_size=3)
    assert run(config, dataset).step == 2
    assert str(broken) in caplog.text
    assert (tmp_path / "lenient" / "unreadable.txt").read_text() == f"{broken.name}\n"


def test_images_without_an_identity_train_where_that_is_asked(make_config: MakeConfig, dataset: Dataset) -> None:
    split = dataset.split("train")
    for number, ids in ((1, [-1, -1]), (2, [])):
        scene = split.scenes[number]
        split.scenes[number] = replace(scene, boxes=scene.boxes[: len(ids)], person_ids=np.array(ids, np.int64))
    folder = make_config().training.run_dir
    assert scenes_to_train_on(folder, split, all_images=False) == [0, 3]
    assert scenes_to_train_on(folder, split, all_images=True) == [0, 1, 2, 3]
    dataset.split = lambda name: split
    config = make_config(method="nae-plus", batch_size=1, max_epochs=1, all_images=True, flip_at_random=True)
    assert run(config, dataset).step == 4


@pytest.mark.parametrize("part", ["train", "val"])
def test_pictures_of_another_size_than_declared_stop_it_before_it_starts(
    make_config: MakeConfig, dataset: Dataset, part: str
) -> None:
    splits = {name: dataset.split(name) for name in ("train", "val")}
    splits[part].scenes[-1] = replace(splits[part].scenes[-1], size=(10, 10))
    dataset.split = lambda name: splits[name]
    config = make_config(validate_every=1)
    with pytest.raises(DataError, match=rf"{part}\d.jpg' is 96 x 64 pixels .* say 10 x 10"):
        run(config, dataset)
    assert not config.training.run_dir.exists()


def test_starting_from_another_checkpoint(make_config: MakeConfig, dataset: Dataset, tmp_path: Path) -> None:
    # One row a person: the four people without identity of an epoch are in the first queue, two at most in the second.
    first = run(make_config(run_dir=tmp_path / "first", max_epochs=1, pk_per_person=1), dataset)
    tiny = {"pk_per_person": 1, "lr": 1e-12, "reid_lr": 1e-12, "weight_decay": 0, "reid_weight_decay": 0}
    second = run(
        make_config(run_dir=tmp_path / "second", init_from=tmp_path / "first", max_steps=1, seed=9, **tiny), dataset
    )
    old, new = read_checkpoint(first.last).model, read_checkpoint(second.last).model
    assert torch.allclose(old["trunk.conv1.weight"], new["trunk.conv1.weight"], atol=1e-9)
    assert int(old["reid_loss.C5.queue_count"]) == 4
    assert int(new["reid_loss.C5.queue_count"]) <= 2


def test_skipped_steps_are_counted_and_warned_of(
    make_config: MakeConfig, dataset: Dataset, at_step: Callable, caplog: pytest.LogCaptureFixture, monkeypatch
) -> None:
    config = make_config(max_steps=3)
    forward = trainer.build_model

    def build(*arguments: Any, **options: Any) -> torch.nn.Module:
        model = forward(*arguments, **options)
        losses = model.roi_losses
        spoiled = {"roi_losses": lambda *given: {name: loss * math.nan for name, loss in losses(*given).items()}}
        at_step(2, lambda: model.__dict__.update(spoiled))
        return model

    monkeypatch.setattr(trainer, "build_model", build)
    outcome = run(config, dataset)
    assert outcome.skipped == 2
    assert "step 2: the loss is not finite; the batch was skipped (1 so far)" in caplog.text
    assert [row["skipped"] for row in rows(config)] == [0, 1, 2]
    assert all(torch.isfinite(value).all() for value in read_checkpoint(outcome.last).model.values())


def test_the_best_checkpoint_is_the_one_that_validated_best(
    make_config: MakeConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = iter([0.5, 0.2])
    monkeypatch.setattr(Validation, "run", lambda self, *given, **options: {"val/map": next(results)})
    config = make_config(max_epochs=2, validate_every=1)
    outcome = run(config, dataset)
    assert outcome.best_result == 0.5
    first, best = (read_checkpoint(config.training.run_dir / name).model for name in ("epoch-001.pt", "best.pt"))
    assert all(torch.equal(value, first[name]) for name, value in best.items())


def test_resuming_takes_up_random_numbers_and_schedules(
    make_config: MakeConfig, dataset: Dataset, at_step: Callable[[int, Callable[[], None]], None], tmp_path: Path
) -> None:
    """Nothing of ours draws from the global numbers, and only one schedule keeps anything: so both are moved here."""
    config = make_config(max_epochs=1, lr_policy="plateau", lr_decay_epochs=(0,), warmup_epochs=0)
    at_step(1, lambda: torch.rand(7))
    last = run(config, dataset).last
    saved = read_checkpoint(last)
    assert saved.training is not None
    saved.training["schedules"]["detection"]["value"] = 0.25
    save_checkpoint(last, saved)
    drawn: list[torch.Tensor] = []
    at_step(1, lambda: drawn.append(torch.get_rng_state()))
    run(with_settings(config, max_epochs=2), dataset, resume=True)
    assert torch.equal(drawn[0], saved.training["randomness"][0]["cpu"])
    assert rows(config)[-1]["lr/detection"] == pytest.approx(0.25 * config.training.lr)
