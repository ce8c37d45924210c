"""One function per command: each reads its options, those of the chosen method and dataset, and calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from person_search.commandline.flags import Hint, parse_flags, parse_with_files
from person_search.commandline.options import OPTIONS
from person_search.commandline.shared_options import (
    base_config,
    given_evaluation,
    required,
    running_config,
    settings_from,
)
from person_search.config import Config, owner_hint, to_yaml, with_settings
from person_search.errors import UsageError
from person_search.training.resuming import own_config


def _read(
    command: str, arguments: Sequence[str], beside: str | None = None, *, over: Config | None = None
) -> tuple[Config, Any]:
    """The settings that the options of ``command`` go on top of (see ``base_config``), and the options."""
    base, rest = base_config(arguments, beside, over=over)
    options = parse_flags(OPTIONS[command](base), rest, prog=f"person-search {command}", hint=_hint(base))
    return base, options


def _hint(base: Config) -> Hint:
    return lambda name: owner_hint(name, base)


def train(arguments: Sequence[str]) -> None:
    """Train a model, or go on with a run."""
    base, options = _read("train", arguments)
    if options.resume:
        # The run's own settings take the place of the defaults; what is given goes on top as without --resume.
        base, options = _read("train", arguments, over=own_config(options.training.run_dir))
    config = with_settings(base, **settings_from(options, "data", "model", "training", "evaluation"))
    if options.print_config:
        print(to_yaml(config), end="")
        return
    from person_search.commandline.commands import run_training

    run_training(config, resume=options.resume)


def evaluate(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and score it."""
    base, options = _read("evaluate", arguments, "--checkpoint")
    from person_search.commandline.commands import run_evaluation

    run_evaluation(
        required(options.checkpoint, "--checkpoint"),
        running_config(base, options, arguments),
        overrides=settings_from(options, "model", given_only=True),
        out=options.out,
        split_name=options.split,
        references=options.references,
    )


def predict(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and write its predictions file."""
    base, options = _read("predict", arguments, "--checkpoint")
    from person_search.commandline.commands import run_prediction

    run_prediction(
        required(options.checkpoint, "--checkpoint"),
        running_config(base, options, arguments),
        overrides=settings_from(options, "model", given_only=True),
        out=options.predictions,
        split_name=options.split,
    )


def score(arguments: Sequence[str]) -> None:
    """Score a predictions file, whoever made it; needs annotations but no images and no model."""
    base, options = _read("score", arguments)
    from person_search.commandline.commands import run_scoring

    run_scoring(
        required(options.predictions, "--predictions"),
        with_settings(base, **settings_from(options, "data", "evaluation")),
        split_name=options.split,
        json=options.json,
        per_query=options.per_query,
    )


def compare(arguments: Sequence[str]) -> None:
    """Score two predictions files and say where they differ."""
    base, rest = base_config(arguments)
    options, files = parse_with_files(
        OPTIONS["compare"](base), rest, prog="person-search compare", files=2, hint=_hint(base)
    )
    if len(files) != 2:
        raise UsageError("compare wants two predictions files: person-search compare A.npz B.npz [options]")
    from person_search.commandline.commands import run_comparison

    run_comparison(
        Path(files[0]),
        Path(files[1]),
        with_settings(base, **settings_from(options, "data", "evaluation")),
        split_name=options.split,
        samples=options.samples,
        changed=options.changed,
        json=options.json,
    )


def info(arguments: Sequence[str]) -> None:
    """Count what is in a dataset, and compare it with the published numbers."""
    base, options = _read("info", arguments)
    from person_search.commandline.commands import run_info

    run_info(with_settings(base, **settings_from(options, "data")))


def convert(arguments: Sequence[str]) -> None:
    """Write a checkpoint of another project, or a run's model alone, in this program's format."""
    options, files = parse_with_files(OPTIONS["convert"](Config()), arguments, prog="person-search convert", files=1)
    if not files:
        raise UsageError("convert wants a checkpoint: person-search convert FILE --out OUTPUT")
    from person_search.commandline.commands import run_conversion

    run_conversion(files[0], required(options.out, "--out"), plugins=options.plugins)


def models(arguments: Sequence[str]) -> None:
    """List the released models that have names; they are fetched when they are used."""
    options, names = parse_with_files(OPTIONS["models"](Config()), arguments, prog="person-search models", files=1)
    from person_search.commandline.commands import run_models

    run_models(names[0] if names else None, check=options.check, json=options.json)


def visualize(arguments: Sequence[str]) -> None:
    """Draw who in a folder of pictures looks most like the person in a box."""
    base, _ = base_config(arguments, "--model")
    options = parse_flags(OPTIONS["visualize"](base), arguments, prog="person-search visualize")
    config = with_settings(
        Config(),
        **given_evaluation(options, arguments),
        device=options.device,
        plugins=options.plugins,
    )
    from person_search.commandline.commands import run_visualization

    run_visualization(
        required(options.model, "--model"),
        required(options.query, "--query"),
        required(options.box, "--box"),
        required(options.gallery, "--gallery"),
        options.out,
        config,
        overrides=settings_from(options, "at_test", given_only=True),
        top=options.top,
        whole_scenes=options.whole_scenes,
    )


def synth(arguments: Sequence[str]) -> None:
    """Make a synthetic dataset."""
    from person_search.synth.settings import SynthConfig

    options = parse_flags(OPTIONS["synth"](Config()), arguments, prog="person-search synth")
    config = SynthConfig(**settings_from(options, "dataset"))
    from person_search.commandline.commands import run_synthesis

    run_synthesis(config, replace=options.replace)


def report(arguments: Sequence[str]) -> None:
    """Write the report page of an evaluated run."""
    options = parse_flags(OPTIONS["report"](Config()), arguments, prog="person-search report")
    from person_search.commandline.commands import run_report

    run_report(
        required(options.run_dir, "--run-dir"),
        options.out,
        evaluation=options.evaluation,
        max_queries=options.max_queries,
    )
