"""What an evaluation asks of a model: the split, and who is searched where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from person_search.config import Config, load_config
from person_search.config.sections import flat
from person_search.data.catalogue import open_split
from person_search.data.fingerprint import data_difference, data_record, fingerprint
from person_search.data.holdout import hold_out, validation_protocol, validation_split
from person_search.data.scene import Dataset, Protocol, ProtocolOptions, Split
from person_search.errors import PersonSearchError, UsageError

WITHOUT_EFFECT_ON_SCENES = {"data_root", "workers", "skip_unreadable", "plugins"}
"""Settings of the data that do not change which scenes a share of them is."""


def split_to_test(dataset: Dataset, name: str, config: Config) -> Split:
    """The split called ``name``, what was held out of training being made again with its share and seed.

    Raises UsageError for a name that is none, and where there is no such split.
    """
    if name not in ("test", "val"):
        raise UsageError(f"`split` {name}: expected test or val")
    if name == "test":
        return open_split(dataset, "test")
    return validation_split(dataset, config.data.validation_share, config.training.seed)


def as_published(config: Config, evaluation: Mapping[str, Any]) -> tuple[Config, str | None]:
    """``config`` with the ``evaluation`` settings of a checkpoint where it says nothing, and what they are, in words.

    Its settings count as said if they were given, were it as they are by default. None where nothing changes.
    """
    now = config.evaluation
    changed = {
        key: evaluation[key]
        for key in type(now).model_fields
        if key in evaluation and key not in now.model_fields_set and getattr(now, key) != evaluation[key]
    }
    if not changed:
        return config, None
    options = ", ".join(f"`{key}`" if value is True else f"`{key}` {value}" for key, value in changed.items())
    line = f"tested with {options}, as the published numbers of this checkpoint were; what you say of these counts more"
    return config.model_copy(update={"evaluation": now.model_copy(update=changed)}), line


def protocols_of(dataset: Dataset, split: Split, config: Config) -> list[Protocol]:
    """One protocol per gallery size asked for, or the dataset's standard one."""
    evaluation = config.evaluation
    protocol = validation_protocol if split.name == "val" else type(dataset).protocol
    return [
        protocol(dataset, split, ProtocolOptions(gallery_size=size, cross_camera=evaluation.cross_camera))
        for size in evaluation.gallery_size or (None,)
    ]


def refuse_other_holdout(dataset: Dataset, config: Config, checkpoint: Path, trained_on: dict[str, Any] | None) -> None:
    """Raise UsageError where ``config`` would hold out other scenes than the training of ``checkpoint`` did.

    What a model was trained on would pass for held out. It is told by the settings in the run folder, and by
    ``trained_on``, what the checkpoint remembers of its scenes; where neither is there it cannot be told.
    """
    if dataset.has_validation():
        return
    path = checkpoint.parent / "config.yaml"
    if path.is_file():
        _refuse_other_settings(config, load_config(path), checkpoint.parent)
    share, seed = config.data.validation_share, config.training.seed
    if trained_on is not None and share and fingerprint(hold_out(dataset, share, seed)[0]) != trained_on["fingerprint"]:
        raise UsageError(
            f"`split` val: of '{config.data.data_root}' validation_share {share:g} with seed {seed} leaves other "
            f"scenes for training than '{checkpoint}' was trained on, so that some of those could pass for held out; "
            "give the data and settings of its training, or use `split` test"
        )


def other_training_data(
    dataset: Dataset, config: Config, checkpoint: Path, trained_on: dict[str, Any] | None
) -> str | None:
    """What is to be said where the training scenes of ``dataset`` are not those that ``checkpoint`` was trained on.

    ``trained_on`` is what the checkpoint remembers of its scenes. None where they are the same, where that cannot be
    told, and where the run folder says that the model was trained on a dataset of another name, which is then tested
    on purpose.
    """
    path = checkpoint.parent / "config.yaml"
    if trained_on is None or not path.is_file():
        return None
    try:
        if load_config(path).data.dataset != config.data.dataset:
            return None
        share = 0 if dataset.has_validation() else config.data.validation_share
        train = hold_out(dataset, share, config.training.seed)[0] if share else open_split(dataset, "train")
    except PersonSearchError:
        return None
    difference = data_difference(trained_on, data_record(train))
    if difference is None:
        return None
    return (
        f"'{checkpoint}' was trained on other data than is in '{config.data.data_root}' now: {difference} in training; "
        "the test scenes may be others too, so compare with no earlier evaluation of it, or give the data of its "
        "training by `data_root`"
    )


def _refuse_other_settings(config: Config, run: Config, run_dir: Path) -> None:
    given = flat(config.data)
    differing = [
        f"{key} {given[key]} (the run: {old})"
        for key, old in flat(run.data).items()
        if key in given and key not in WITHOUT_EFFECT_ON_SCENES and given[key] != old
    ]
    if config.training.seed != run.training.seed:
        differing.append(f"seed {config.training.seed} (the run: {run.training.seed})")
    if differing:
        raise UsageError(
            f"`split` val is what '{run_dir}' held out of its training, and these settings hold out other scenes: "
            f"{', '.join(differing)}; leave them out"
        )
