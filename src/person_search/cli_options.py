"""Options that several commands share, and how they become settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel

from person_search.config import Config, DataConfig, ModelConfig, TrainingConfig, load_config, with_settings
from person_search.errors import UsageError
from person_search.flags import flags_like, flags_of, settings_in, take_option

TEST_TIME = (
    "shorter_side",
    "longer_side",
    "rpn_pre_nms_test",
    "rpn_post_nms_test",
    "score_threshold",
    "nms_threshold",
    "max_detections",
    "cws",
)
"""Model settings that may differ between training and test."""


def described(kind: Any, text: str) -> Any:
    """``kind`` as a flag with the help ``text``."""
    return Annotated[kind, tyro.conf.arg(help=text)]


def setting(section: type[BaseModel], key: str) -> tuple[str, Any, Any]:
    """One setting of a section as a flag with its own help and default."""
    field = section.model_fields[key]
    return key, described(field.annotation, field.description or ""), field.get_default()


CONFIG = ("config", described(Path | None, "YAML file of settings; flags go on top"), None)
CHECKPOINT = described(Path | None, "checkpoint file, or run folder (its best, else last, checkpoint)")
PLUGINS = setting(DataConfig, "plugins")
JSON = ("json", described(Path | None, "write the results to this JSON file"), None)


def sections_of(config: Config, *names: str) -> list[tuple[str, Any, Any]]:
    """Flags for whole sections of ``config``, showing its values as defaults."""
    instances = [flags_like(getattr(config, name)) for name in names]
    return [(name, type(instance), instance) for name, instance in zip(names, instances, strict=True)]


def running_sections(config: Config) -> list[tuple[str, Any, Any]]:
    """Flags for running a trained model: data, evaluation, device, and what may differ from training."""
    at_test = flags_of(ModelConfig, TEST_TIME)
    running = flags_of(TrainingConfig, ("device", "devices", "nodes", "precision", "channels_last", "compile"))
    return [*sections_of(config, "data", "evaluation"), ("model", at_test, at_test()), ("training", running, running())]


def settings_from(options: Any, *sections: str, given_only: bool = False) -> dict[str, Any]:
    """Values of the flags in ``sections`` by name; ``given_only`` leaves out those that were not set."""
    return {
        key: value
        for section in sections
        for key, value in settings_in(getattr(options, section), given_only=given_only).items()
    }


def base_config(
    arguments: Sequence[str], beside: str | None = None, *, over: Config | None = None
) -> tuple[Config, list[str]]:
    """The config that flags go on top of: ``--config``, else the one beside the checkpoint, else the defaults.

    What the file ``--config`` leaves out is as in ``over`` (None: the defaults).
    """
    path, rest = take_option(arguments, "--config")
    if beside is None:
        return (over or Config()) if path is None else load_config(Path(path), over=over), rest
    checkpoint = take_option(arguments, beside)[0]
    if path is None and checkpoint is not None:
        folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
        if (folder / "config.yaml").is_file():
            path = str(folder / "config.yaml")
    # What a training was spread over says nothing of the machine that its model runs on.
    alone = {"devices": 1, "nodes": 1, "sync_batch_norm": False, "compile": False}
    return with_settings(Config() if path is None else load_config(Path(path)), **alone), rest


def running_config(base: Config, options: Any) -> Config:
    """``base`` with the flags of ``running_sections`` on top, the model's excepted. Raises UsageError."""
    given = settings_from(options, "training", given_only=True)
    return with_settings(base, **settings_from(options, "data", "evaluation"), **given)


def required(value: Any, name: str) -> Any:
    """``value``, or UsageError where the option ``name`` was not given."""
    if value is None:
        raise UsageError(f"{name} is needed; see --help")
    return value
