"""What a run goes on with: its own settings, images not yet shown, the data it was trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TinyDataset
from person_search.checkpoints.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from person_search.config import Config, load_config, method_settings, with_settings
from person_search.config.sections import flat, leaves
from person_search.data.scene import Dataset
from person_search.errors import CheckpointError, UsageError
from person_search.registry import datasets, methods
from person_search.training.resuming import ACCEPTED, REFUSED, own_config
from person_search.training.run import TrainingOutcome
from person_search.training.step import TrainingStep
from person_search.training.trainer import train

MakeConfig = Callable[..., Config]


def run(config: Config, dataset: Dataset, *, resume: bool = False) -> TrainingOutcome:
    return train(config, resume=resume, dataset=dataset, show_progress=False)


def rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, bool]]]:
    """The images of every step taken: scene number, and whether mirrored."""
    steps: list[list[tuple[int, bool]]] = []
    call = TrainingStep.__call__

    def noted(self: TrainingStep, batches: Any, **options: Any) -> Any:
        steps.append([image for batch in batches for image in zip(batch.scenes, batch.mirror, strict=True)])
        return call(self, batches, **options)

    monkeypatch.setattr(TrainingStep, "__call__", noted)
    return steps


EVERYTHING = sorted((scene, mirrored) for scene in range(4) for mirrored in (False, True))


def test_of_every_setting_is_known_whether_it_may_change() -> None:
    known = {leaf.name for name in datasets.names() for leaf in leaves(with_settings(Config(), dataset=name))}
    assert {*ACCEPTED, *REFUSED} == known - flat(Config().model).keys()
    assert not ACCEPTED.keys() & {leaf.name for name in methods.names() for leaf in leaves(method_settings(name))}


# The position.


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"accumulate": 2}, {"batch_size": 1}])
def test_after_whole_epochs_all_later_ones_are_trained(
    make_config: MakeConfig, dataset: Dataset, shown: list[list[tuple[int, bool]]], change: dict[str, int]
) -> None:
    assert run(make_config(max_epochs=2), dataset).step == 8
    outcome = run(make_config(max_epochs=3, **change), dataset, resume=True)
    assert sorted(chain(*shown[8:])) == EVERYTHING
    assert (outcome.epoch, outcome.step) == (3, 8 + (8 if "batch_size" in change and change["batch_size"] == 1 else 2))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("taken", "batch"), [(1, 3), (1, 4), (3, 3), (2, 1), (3, 8)])
def test_the_rest_of_the_running_epoch_is_shown_whatever_the_batch(
    make_config: MakeConfig,
    dataset: Dataset,
    shown: list[list[tuple[int, bool]]],
    taken: int,
    batch: int,
    grouped: bool,
) -> None:
    settings = {"max_epochs": 3, "group_by_aspect_ratio": grouped, "warmup_epochs": 2}
    run(make_config(max_steps=taken, **settings), dataset)
    outcome = run(make_config(batch_size=batch, **settings), dataset, resume=True)
    sizes = list(map(len, shown))
    rest, steps = 8 - 2 * taken, 8 // batch
    expected = [2] * taken + [batch] * (rest // batch) + ([rest % batch] if rest % batch else []) + [batch] * 2 * steps
    assert sizes == expected
    first = taken + -(-rest // batch)
    assert sorted(chain(*shown[:first])) == EVERYTHING
    later = shown[first : first + steps]
    assert len(set(chain(*later))) == steps * batch
    assert (outcome.step, outcome.epoch) == (len(expected), 3)
    # Steps are logged one by one, and the learning rate rises over two epochs, however many steps these have.
    logged = [row for row in rows(outcome.last.parent) if "loss" in row]
    assert [row["step"] for row in logged] == list(range(1, len(expected) + 1))
    assert [row["epoch"] for row in logged] == [1] * first + [2] * steps + [3] * steps
    assert [row["lr/detection"] for row in logged[first:]] == pytest.approx(
        [0.003 * (0.01 + 0.99 * min((steps + step + 1) / (2 * steps), 1)) for step in range(2 * steps)]
    )
    assert logged[taken]["lr/detection"] == pytest.approx(
        0.003 * (0.01 + 0.99 * min((2 * taken // batch + 1) / (2 * steps), 0.5))
    )


def test_an_epoch_interrupted_again_after_the_change_ends_as_if_it_were_not(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path
) -> None:
    def with_batch(name: str, batch: int, **settings: Any) -> Config:
        return make_config(run_dir=tmp_path / name, batch_size=batch, group_by_aspect_ratio=True, **settings)

    run(with_batch("once", 1, max_steps=1), dataset)
    shutil.copytree(tmp_path / "once", tmp_path / "twice")
    run(with_batch("once", 2), dataset, resume=True)
    run(with_batch("twice", 2, max_steps=3), dataset, resume=True)
    run(with_batch("twice", 2), dataset, resume=True)
    one, other = (read_checkpoint(tmp_path / name / "last.pt") for name in ("once", "twice"))
    assert all(torch.equal(value, other.model[name]) for name, value in one.model.items())
    assert rows(tmp_path / "once") == rows(tmp_path / "twice")


def test_max_steps_counts_steps_taken_and_validation_follows_the_epochs(
    make_config: MakeConfig, dataset: Dataset
) -> None:
    settings = {"max_epochs": 3, "validate_every": 1}
    run(make_config(max_steps=3, **settings), dataset)
    outcome = run(make_config(max_steps=5, batch_size=4, **settings), dataset, resume=True)
    assert (outcome.step, outcome.epoch) == (5, 1)
    validated = [(row["epoch"], row["step"]) for row in rows(outcome.last.parent) if "val/map" in row]
    assert validated == [(0, 3), (1, 4), (1, 5)]
    with pytest.raises(UsageError, match=r"`max_steps` 4: '.*last\.pt' has taken 5 already"):
        run(make_config(max_steps=4, batch_size=4, **settings), dataset, resume=True)


# The settings.


def test_accepted_changes_are_listed(
    make_config: MakeConfig, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_config(max_epochs=1), dataset)
    config = make_config(max_epochs=2, batch_size=4, display=True, checkpoint_every=5)
    assert run(config, dataset, resume=True).epoch == 2
    assert [record.message for record in caplog.records if record.message.startswith("resuming")] == [
        "resuming with batch_size: 2 -> 4",
        "resuming with max_epochs: 1 -> 2",
        "resuming with checkpoint_every: None -> 5",
        "resuming with display: False -> True",
    ]
    assert load_config(config.training.run_dir / "config.yaml") == config


def test_nothing_is_listed_where_nothing_changes(
    make_config: MakeConfig, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_config(max_epochs=1), dataset)
    run(make_config(max_epochs=1), dataset, resume=True)
    assert caplog.records == []


def test_refused_changes_are_listed_and_nothing_is_touched(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_steps=1)
    run(config, dataset)
    before = contents(config.training.run_dir)
    changed = make_config(max_epochs=1, lr=0.1, search_threshold=0.4, anchor_sizes=(20, 40), workers=1)
    with pytest.raises(UsageError) as caught:
        run(changed, dataset, resume=True)
    told = str(caught.value)
    assert "anchor_sizes: [24.0, 40.0] -> [20.0, 40.0], max_epochs: 2 -> 1, lr: 0.003 -> 0.1" in told
    assert "search_threshold: 0.5 -> 0.4; " in told
    assert "workers" not in told
    assert "`max_steps`" in told
    assert "\n" not in told
    assert contents(config.training.run_dir) == before


def test_a_run_without_its_settings_is_not_guessed_at(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_steps=1)
    run(config, dataset)
    (config.training.run_dir / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"holds checkpoints but no config\.yaml"):
        run(config, dataset, resume=True)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_settings_edited_by_hand_are_changes_like_any_other(
    make_config: MakeConfig, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(max_steps=1)
    run(config, dataset)
    path = config.training.run_dir / "config.yaml"
    edit(path, "\n  momentum: 0.9", "\n  momentum: 0.5")
    edit(path, "max_steps: 1", "max_steps: 2")
    edited = own_config(config.training.run_dir)
    assert edited is not None
    before = contents(path.parent)
    with pytest.raises(UsageError, match=r"other settings than it was trained with: momentum: 0\.9 -> 0\.5; leave"):
        run(edited, dataset, resume=True)
    assert contents(path.parent) == before
    edit(path, "\n  momentum: 0.5", "\n  momentum: 0.9")
    edited = own_config(config.training.run_dir)
    assert edited is not None
    assert run(edited, dataset, resume=True).step == 2
    assert "resuming with max_steps: 1 -> 2" in caplog.text


def test_of_an_older_run_edited_model_settings_are_noticed(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_steps=1)
    as_version_0_1_0(run(config, dataset).last)
    edit(config.training.run_dir / "config.yaml", "score_threshold: 0.05", "score_threshold: 0.5")
    with pytest.raises(CheckpointError, match=r"last\.pt' was trained with other model settings.*: score_threshold;"):
        run(make_config(max_steps=2, score_threshold=0.5), dataset, resume=True)


# The data.


def other_person(dataset: Dataset) -> None:
    """Have the first labelled box of ``dataset`` belong to somebody else."""
    split = dataset.split

    def changed(name: Any) -> Any:
        made = split(name)
        made.scenes[0].person_ids[0] = 1
        return made

    dataset.split = changed  # type: ignore[method-assign]


def test_data_moved_elsewhere_goes_on_and_other_data_is_refused(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(make_config(max_steps=1), dataset)
    moved = TinyDataset(tmp_path / "moved")
    run(make_config(max_steps=2, data_root=tmp_path / "moved"), moved, resume=True)
    assert f"data_root: data/synthetic -> {tmp_path}/moved" in caplog.text
    before = contents(tmp_path / "run")
    other_person(moved)
    config = make_config(max_steps=3, data_root=tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"other data: 4 scenes, 8 boxes, 4 identities then, as many now, but"):
        run(config, moved, resume=True)
    assert contents(tmp_path / "run") == before


def test_counts_of_other_data_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    fewer = TinyDataset(tmp_path / "data")
    run(make_config(max_steps=1), fewer)
    split = fewer.split

    def three(name: Any) -> Any:
        made = split(name)
        del made.scenes[3:]
        return made

    fewer.split = three  # type: ignore[method-assign]
    with pytest.raises(CheckpointError, match=r"4 scenes, 8 boxes, 4 identities then, 3 scenes, 6 boxes, 4 identities"):
        run(make_config(max_steps=2), fewer, resume=True)


def as_version_0_1_0(path: Path) -> None:
    """Make the checkpoint what version 0.1.0 wrote."""
    checkpoint = read_checkpoint(path)
    training = dict(checkpoint.training or {})
    del training["settings"]
    training["position"] = {k: v for k, v in training["position"].items() if k not in ("images_per_step", "parts")}
    save_checkpoint(path, Checkpoint(checkpoint.model_config, checkpoint.num_identities, checkpoint.model, training))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_run_of_version_0_1_0_goes_on_and_it_is_said(
    make_config: MakeConfig,
    dataset: Dataset,
    shown: list[list[tuple[int, bool]]],
    caplog: pytest.LogCaptureFixture,
    grouped: bool,
) -> None:
    outcome = run(make_config(max_steps=1, group_by_aspect_ratio=grouped), dataset)
    as_version_0_1_0(outcome.last)
    path = outcome.last.parent / "config.yaml"
    path.write_text(path.read_text().replace("  keep_checkpoints: 3\n", ""))
    settings = {"batch_size": 3, "group_by_aspect_ratio": grouped}
    run(make_config(max_steps=2, **settings), dataset, resume=True)
    # Steps were of two images, as nothing but the settings says.
    assert read_checkpoint(outcome.last).training["position"]["parts"] == [(2, 2)]
    run(make_config(**settings), dataset, resume=True)
    assert "last.pt' does not say what it was trained on (version 0.1.0" in caplog.text
    assert sorted(chain(*shown[:3])) == EVERYTHING
    assert (read_checkpoint(outcome.last).data or {})["scenes"] == 4


def test_the_best_model_remembers_its_data_too(make_config: MakeConfig, dataset: Dataset) -> None:
    outcome = run(make_config(max_epochs=1, validate_every=1), dataset)
    assert outcome.best is not None
    best = read_checkpoint(outcome.best)
    assert best.training is None
    assert best.data is not None
    assert best.data == read_checkpoint(outcome.last).data


# Which checkpoint.


def test_with_the_best_model_alone_nothing_is_started_over(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_steps=1, validate_every=1)
    outcome = run(config, dataset)
    for path in outcome.last.parent.glob("*.pt"):
        if path.name != "best.pt":
            path.unlink()
    before = contents(outcome.last.parent)
    with pytest.raises(CheckpointError, match=r"holds best\.pt but no last\.pt.*nothing was started.*`init_from`"):
        run(config, dataset, resume=True)
    assert contents(outcome.last.parent) == before


def test_a_model_alone_in_place_of_a_checkpoint_is_told(
    make_config: MakeConfig, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = run(make_config(max_steps=1, validate_every=1), dataset)
    outcome.last.write_bytes((outcome.last.parent / "best.pt").read_bytes())
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is good"):
        run(make_config(max_steps=1, validate_every=1), dataset, resume=True)
    assert "last.pt' holds a model alone" in caplog.text


def epochs(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.glob("epoch-*.pt"))


@pytest.mark.parametrize(("keep", "kept"), [(1, [5]), (3, [3, 4, 5]), (None, [1, 2, 3, 4, 5])])
def test_the_last_few_checkpoints_of_epochs_are_kept(
    make_config: MakeConfig, dataset: Dataset, keep: int | None, kept: list[int]
) -> None:
    outcome = run(make_config(max_epochs=5, batch_size=8, keep_checkpoints=keep), dataset)
    assert epochs(outcome.last.parent) == [f"epoch-{number:03d}.pt" for number in kept]


def test_what_is_kept_serves_when_newer_ones_are_damaged(
    make_config: MakeConfig, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run(make_config(run_dir=tmp_path / "whole", max_epochs=6, batch_size=8), dataset)
    run(make_config(run_dir=tmp_path / "parts", max_epochs=6, batch_size=8, max_steps=5), dataset)
    for name in ("last.pt", "epoch-005.pt", "epoch-004.pt"):
        (tmp_path / "parts" / name).write_bytes(b"PK half")
    again = run(make_config(run_dir=tmp_path / "parts", max_epochs=6, batch_size=8), dataset, resume=True)
    assert sum("skipping a checkpoint" in record.message for record in caplog.records) == 3
    assert epochs(tmp_path / "parts") == epochs(tmp_path / "whole")
    one, other = (read_checkpoint(outcome.last).model for outcome in (whole, again))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_that_kept_all_checkpoints_goes_on_so(make_config: MakeConfig, dataset: Dataset) -> None:
    config = make_config(max_epochs=1)
    run(config, dataset)
    path = config.training.run_dir / "config.yaml"
    path.write_text(path.read_text().replace("  keep_checkpoints: 3\n", ""))
    own = own_config(config.training.run_dir)
    assert own is not None
    assert own.training.keep_checkpoints is None
    assert own.training.lr == config.training.lr
