"""The command line: one function per command, each only reads its options and calls."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from person_search import __version__
from person_search.config import (
    Config,
    ModelConfig,
    TrainingConfig,
    load_config,
    to_yaml,
    with_settings,
)
from person_search.errors import PersonSearchError, UsageError, nearest
from person_search.flags import command, flags_like, flags_of, parse_flags, settings_in, take_option

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


CONFIG = ("config", described(Path | None, "YAML file of settings; flags go on top"), None)
CHECKPOINT = described(Path | None, "checkpoint file, or run folder (its best, else last, checkpoint)")
DEVICE = ("device", TrainingConfig.model_fields["device"])
JSON = ("json", described(Path | None, "write the results to this JSON file"), None)


def _sections(config: Config, *names: str) -> list[tuple[str, Any, Any]]:
    """Flags for whole sections of ``config``, showing its values as defaults."""
    instances = [flags_like(getattr(config, name)) for name in names]
    return [(name, type(instance), instance) for name, instance in zip(names, instances, strict=True)]


def _test_sections(config: Config) -> list[tuple[str, Any, Any]]:
    """Flags for running a trained model: data, evaluation, device, and what may differ from training."""
    at_test = flags_of(ModelConfig, TEST_TIME)
    running = flags_of(TrainingConfig, ("device", "precision"))
    return [*_sections(config, "data", "evaluation"), ("model", at_test, at_test()), ("training", running, running())]


def _settings(options: Any, *sections: str, given_only: bool = False) -> dict[str, Any]:
    return {
        key: value
        for section in sections
        for key, value in settings_in(getattr(options, section), given_only=given_only).items()
    }


def _base_config(arguments: Sequence[str], beside: str | None = None) -> tuple[Config, list[str]]:
    """The config that flags go on top of: ``--config``, else the one beside the checkpoint, else the defaults."""
    path, rest = take_option(arguments, "--config")
    if path is not None:
        return load_config(Path(path)), rest
    checkpoint = take_option(arguments, beside)[0] if beside else None
    if checkpoint is not None:
        folder = Path(checkpoint) if Path(checkpoint).is_dir() else Path(checkpoint).parent
        if (folder / "config.yaml").is_file():
            return load_config(folder / "config.yaml"), rest
    return Config(), rest


def train(arguments: Sequence[str]) -> None:
    """Train a model, or go on with a run."""
    base, rest = _base_config(arguments)
    kind = command(
        "Train",
        "Train a model. Settings come from --config and flags on top of it; all of them are written to the run folder.",
        [
            CONFIG,
            (
                "resume",
                described(bool, "go on with the newest good checkpoint in the run folder, if there is one"),
                False,
            ),
            ("print_config", described(bool, "print the effective settings as YAML and stop"), False),
            *_sections(base, "data", "model", "training", "evaluation"),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search train")
    config = with_settings(base, **_settings(options, "data", "model", "training", "evaluation"))
    if options.print_config:
        print(to_yaml(config), end="")
        return
    from person_search.commands import run_training

    run_training(config, resume=options.resume)


def evaluate(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and score it."""
    base, rest = _base_config(arguments, "--checkpoint")
    kind = command(
        "Evaluate",
        "Run a trained model on a test split and score it: predict and score in one. Settings of the data come from "
        "the config.yaml beside the checkpoint, or --config; flags go on top.",
        [
            ("checkpoint", CHECKPOINT, None),
            CONFIG,
            (
                "out",
                described(
                    Path | None,
                    "folder for predictions.npz and results.json (default: evaluation/ beside the checkpoint)",
                ),
                None,
            ),
            ("split", described(str, "which split: test or val"), "test"),
            (
                "references",
                described(bool, "also score an untrained model and a random ranking, both on true boxes"),
                False,
            ),
            *_test_sections(base),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search evaluate")
    from person_search.commands import run_evaluation

    run_evaluation(
        _required(options.checkpoint, "--checkpoint"),
        with_settings(
            base, **_settings(options, "data", "evaluation"), **_settings(options, "training", given_only=True)
        ),
        overrides=_settings(options, "model", given_only=True),
        out=options.out,
        split_name=options.split,
        references=options.references,
    )


def predict(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and write its predictions file."""
    base, rest = _base_config(arguments, "--checkpoint")
    kind = command(
        "Predict",
        "Run a trained model on a test split and write its detections and query embeddings, for score to read.",
        [
            ("checkpoint", CHECKPOINT, None),
            ("predictions", described(Path, "predictions file to write (.npz)"), Path("predictions.npz")),
            CONFIG,
            ("split", described(str, "which split: test or val"), "test"),
            *_test_sections(base),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search predict")
    from person_search.commands import run_prediction

    run_prediction(
        _required(options.checkpoint, "--checkpoint"),
        with_settings(
            base, **_settings(options, "data", "evaluation"), **_settings(options, "training", given_only=True)
        ),
        overrides=_settings(options, "model", given_only=True),
        out=options.predictions,
        split_name=options.split,
    )


def score(arguments: Sequence[str]) -> None:
    """Score a predictions file, whoever made it; needs annotations but no images and no model."""
    base, rest = _base_config(arguments)
    kind = command(
        "Score",
        "Score a predictions file, whoever made it. Needs the dataset's annotations, but no images and no model.",
        [
            ("predictions", described(Path | None, "predictions file (.npz) to read"), None),
            CONFIG,
            ("split", described(str, "which split: test or val"), "test"),
            JSON,
            ("per_query", described(Path | None, "write the AP of every query to this CSV file"), None),
            *_sections(base, "data", "evaluation"),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search score")
    from person_search.commands import run_scoring

    run_scoring(
        _required(options.predictions, "--predictions"),
        with_settings(base, **_settings(options, "data", "evaluation")),
        split_name=options.split,
        json=options.json,
        per_query=options.per_query,
    )


def compare(arguments: Sequence[str]) -> None:
    """Score two predictions files and say where they differ."""
    base, rest = _base_config(arguments)
    files = [argument for argument in rest[:2] if not argument.startswith("-")]
    kind = command(
        "Compare",
        "Score two predictions files, person-search compare A.npz B.npz [options]: both metrics, the difference with a "
        "95 % interval by paired bootstrap over queries, and the queries that changed most.",
        [
            CONFIG,
            ("split", described(str, "which split: test or val"), "test"),
            ("samples", described(int, "resamplings of the bootstrap"), 2000),
            ("changed", described(int, "how many of the most changed queries to list"), 10),
            JSON,
            *_sections(base, "data", "evaluation"),
        ],
    )
    options = parse_flags(kind, rest[len(files) :], prog="person-search compare")
    if len(files) != 2:
        raise UsageError("compare wants two predictions files first: person-search compare A.npz B.npz [options]")
    from person_search.commands import run_comparison

    run_comparison(
        Path(files[0]),
        Path(files[1]),
        with_settings(base, **_settings(options, "data", "evaluation")),
        split_name=options.split,
        samples=options.samples,
        changed=options.changed,
        json=options.json,
    )


def info(arguments: Sequence[str]) -> None:
    """Count what is in a dataset, and compare it with the published numbers."""
    base, rest = _base_config(arguments)
    kind = command(
        "Info",
        "Print what is in a dataset: scenes, boxes, identities, queries of every split. No image is opened. Where the "
        "dataset is a published one, what differs from its published numbers is named.",
        [CONFIG, *_sections(base, "data")],
    )
    options = parse_flags(kind, rest, prog="person-search info")
    from person_search.commands import run_info

    run_info(with_settings(base, **_settings(options, "data")))


def synth(arguments: Sequence[str]) -> None:
    """Make a synthetic dataset."""
    from person_search.synth.settings import SynthConfig

    kind = flags_of(SynthConfig)
    options = parse_flags(kind, arguments, prog="person-search synth")
    config = SynthConfig(**settings_in(options))
    from person_search.commands import run_synthesis

    run_synthesis(config)


def report(arguments: Sequence[str]) -> None:
    """Write the report page of an evaluated run."""
    kind = command(
        "Report",
        "Write the report page of a run that was evaluated: metrics, curves, example scenes, ranking lists.",
        [
            ("run_dir", described(Path | None, "run folder, with evaluation/ in it"), None),
            ("out", described(Path, "folder to write; index.html is the page"), Path("report")),
            ("max_queries", described(int, "ranking lists shown, at most"), 24),
        ],
    )
    options = parse_flags(kind, arguments, prog="person-search report")
    from person_search.commands import run_report

    run_report(_required(options.run_dir, "--run-dir"), options.out, max_queries=options.max_queries)


def _test_config(base: Config, options: Any) -> Config:
    given = _settings(options, "training", given_only=True)
    return with_settings(base, **_settings(options, "data", "evaluation"), **given)


def _required(value: Any, name: str) -> Any:
    if value is None:
        raise UsageError(f"{name} is needed; see --help")
    return value


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "score": score,
    "compare": compare,
    "info": info,
    "synth": synth,
    "report": report,
}


def usage() -> str:
    """The overview that ``--help`` prints."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {(run.__doc__ or '').splitlines()[0]}" for name, run in COMMANDS.items()]
    return "\n".join(
        [
            "usage: person-search COMMAND [options]",
            "",
            "Person search: find a person in whole scene images.",
            "",
            "commands:",
            *lines,
            "",
            "person-search COMMAND --help shows a command's options. --debug shows the traceback of an error,",
            "--version the version.",
        ]
    )


def run(arguments: Sequence[str], execute: Callable[[Sequence[str]], None]) -> int:
    """Run ``execute`` on ``arguments`` and return the exit code; errors are printed in one line.

    ``--debug`` anywhere shows tracebacks instead.
    """
    debug = "--debug" in arguments
    try:
        execute([argument for argument in arguments if argument != "--debug"])
    except PersonSearchError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output left (`| head`); nothing is wrong, and flushing at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        reason = (str(error).splitlines() or [""])[0]
        print(f"error: {type(error).__name__}: {reason} (--debug shows where)", file=sys.stderr)
        return 1
    return 0


def dispatch(arguments: Sequence[str]) -> None:
    """Call the command that ``arguments`` name. Raises UsageError for an unknown one."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(usage())
        if not arguments:
            raise UsageError("no command given")
        return
    if arguments[0] == "--version":
        print(f"person-search {__version__}")
        return
    chosen = COMMANDS.get(arguments[0])
    if chosen is None:
        hint = nearest(arguments[0], COMMANDS) or f" Commands: {', '.join(COMMANDS)}."
        raise UsageError(f"unknown command '{arguments[0]}'.{hint}")
    chosen(arguments[1:])


def main() -> None:
    """Entry point of ``person-search``."""
    sys.exit(run(sys.argv[1:], dispatch))
