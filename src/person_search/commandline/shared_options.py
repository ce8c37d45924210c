"""Options that several commands share, and how they become settings."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import BaseModel

from person_search.checkpoints.named_models import is_name
from person_search.commandline.flags import flags_for, flags_like, given_in, settings_in, take_option, values_of
from person_search.config import (
    Config,
    DataConfig,
    EvaluationConfig,
    change_settings,
    chosen_names,
    load_config,
    method_settings,
    owner_hint,
    plugins_imported,
    with_settings,
)
from person_search.config.sections import leaves
from person_search.errors import UsageError
from person_search.registry import methods

log = logging.getLogger(__name__)


def described(kind: Any, text: str) -> Any:
    """``kind`` as a flag with the help ``text``."""
    return Annotated[kind, tyro.conf.arg(help=text)]


def setting(section: type[BaseModel], key: str) -> tuple[str, Any, Any]:
    """One setting of a section as a flag with its own help and default."""
    field = section.model_fields[key]
    return key, described(field.annotation, field.description or ""), field.get_default()


CONFIG = ("config", described(Path | None, "YAML file of settings; flags go on top"), None)
CHECKPOINT = described(
    str | None,
    "checkpoint file, run folder (its best, else last, checkpoint), or name of a released model (person-search models)",
)
PLUGINS = setting(DataConfig, "plugins")
JSON = ("json", described(Path | None, "write the results to this JSON file"), None)


def sections_of(config: Config, *names: str) -> list[tuple[str, Any, Any]]:
    """Flags for whole sections of ``config``, showing its values as defaults."""
    instances = [flags_like(getattr(config, name)) for name in names]
    return [(name, type(instance), instance) for name, instance in zip(names, instances, strict=True)]


def running_sections(config: Config) -> list[tuple[str, Any, Any]]:
    """Flags for running a trained model: data, evaluation, device, and what may differ from training."""
    running = ("device", "devices", "nodes", "precision", "channels_last", "compile")
    parts = [at_test(config), ("training", flags_like(config.training, running))]
    return [*sections_of(config, "data", "evaluation"), *((name, type(flags), flags) for name, flags in parts)]


def at_test(config: Config) -> tuple[str, Any]:
    """Flags, unset, for the settings of the model that may differ between training and test.

    Where ``config`` says nothing of the model, as beside a checkpoint that lies alone, they are those of all methods.
    """
    known = config.model != Config().model
    kinds = [config.model] if known else [method_settings(name) for name in methods.names()]
    found = {leaf.name: leaf for kind in kinds for leaf in leaves(kind) if leaf.key in leaf.section.at_test}
    return "model", flags_for(found.values(), "Model", type(kinds[0]).__doc__ if known else "The model.", unset=True)


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
        base = (over or Config()) if path is None else load_config(Path(path), over=over)
        return _as_chosen(base, rest), rest
    checkpoint = take_option(arguments, beside)[0]
    if path is None and checkpoint is not None and not is_name(checkpoint):
        folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
        if (folder / "config.yaml").is_file():
            path = str(folder / "config.yaml")
    # What a training was spread over says nothing of the machine that its model runs on.
    alone = {"devices": 1, "nodes": 1, "sync_batch_norm": False, "compile": False}
    base = with_settings(Config() if path is None else load_config(Path(path)), **alone)
    return _as_chosen(base, rest), rest


def _as_chosen(base: Config, arguments: Sequence[str]) -> Config:
    """``base`` with the dataset, method and so on that ``arguments`` name: they say which other options there are.

    Options may stand in any order, so these are read first. What ``base`` has that is left out by this is said.
    """
    chosen: dict[str, str] = {}
    # The list of plug-ins may end with words that are none; that is known when all options are read.
    with plugins_imported(values_of(arguments, ["plugins"]).get("plugins", ())):
        # What is chosen may have something to choose itself.
        while new := {
            name: words[0]
            for name, words in values_of(arguments, chosen_names(base)).items()
            if words and name not in chosen
        }:
            base, left_out = change_settings(base, new)
            chosen |= new
            for name, value in left_out.items():
                _warn_left_out(name, str(value), owner_hint(name, base))
    return base


@functools.cache
def _warn_left_out(name: str, value: str, whose_setting: str) -> None:
    log.warning("'%s: %s' of the configuration is left out.%s", name, value, whose_setting)


def running_config(base: Config, options: Any, arguments: Sequence[str]) -> Config:
    """``base`` with the flags of ``running_sections`` in ``arguments`` on top, the model's excepted.

    Of the evaluation only what is given is: what a checkpoint says of it stands between that and the defaults.
    Raises UsageError.
    """
    given = settings_from(options, "training", given_only=True)
    return with_settings(base, **settings_from(options, "data"), **given, **given_evaluation(options, arguments))


def given_evaluation(options: Any, arguments: Sequence[str]) -> dict[str, Any]:
    """The settings of the evaluation that ``arguments`` give, by name."""
    values = settings_in(getattr(options, "evaluation", options))
    return {name: values[name] for name in given_in(arguments, EvaluationConfig.model_fields) if name in values}


def required(value: Any, name: str) -> Any:
    """``value``, or UsageError where the option ``name`` was not given."""
    if value is None:
        raise UsageError(f"{name} is needed; see --help")
    return value
