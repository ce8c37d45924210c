"""The command line: one function per command, each only reads its options and calls."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from person_search import __version__
from person_search.cli_options import base_config, required, running_config, settings_from
from person_search.command_options import OPTIONS
from person_search.config import Config, to_yaml, whose, with_settings
from person_search.errors import PersonSearchError, UsageError, nearest
from person_search.flags import Hint, UnknownOption, option_names, parse_flags, parse_with_files, settings_in
from person_search.terminal import discard_output, reader_has_left
from person_search.training.resuming import own_config


def train(arguments: Sequence[str]) -> None:
    """Train a model, or go on with a run."""
    base, rest = base_config(arguments)
    options = parse_flags(OPTIONS["train"](base), rest, prog="person-search train", hint=_whose(base))
    if options.resume:
        # The run's own settings take the place of the defaults; what is given goes on top as without --resume.
        own = own_config(options.training.run_dir)
        base, rest = base_config(arguments, over=own)
        options = parse_flags(OPTIONS["train"](base), rest, prog="person-search train", hint=_whose(base))
    config = with_settings(base, **settings_from(options, "data", "model", "training", "evaluation"))
    if options.print_config:
        print(to_yaml(config), end="")
        return
    from person_search.commands import run_training

    run_training(config, resume=options.resume)


def _whose(base: Config) -> Hint:
    return lambda name: whose(name, base)


def evaluate(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and score it."""
    base, rest = base_config(arguments, "--checkpoint")
    options = parse_flags(OPTIONS["evaluate"](base), rest, prog="person-search evaluate", hint=_whose(base))
    from person_search.commands import run_evaluation

    run_evaluation(
        required(options.checkpoint, "--checkpoint"),
        running_config(base, options),
        overrides=settings_from(options, "model", given_only=True),
        out=options.out,
        split_name=options.split,
        references=options.references,
    )


def predict(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and write its predictions file."""
    base, rest = base_config(arguments, "--checkpoint")
    options = parse_flags(OPTIONS["predict"](base), rest, prog="person-search predict", hint=_whose(base))
    from person_search.commands import run_prediction

    run_prediction(
        required(options.checkpoint, "--checkpoint"),
        running_config(base, options),
        overrides=settings_from(options, "model", given_only=True),
        out=options.predictions,
        split_name=options.split,
    )


def score(arguments: Sequence[str]) -> None:
    """Score a predictions file, whoever made it; needs annotations but no images and no model."""
    base, rest = base_config(arguments)
    options = parse_flags(OPTIONS["score"](base), rest, prog="person-search score", hint=_whose(base))
    from person_search.commands import run_scoring

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
        OPTIONS["compare"](base), rest, prog="person-search compare", files=2, hint=_whose(base)
    )
    if len(files) != 2:
        raise UsageError("compare wants two predictions files: person-search compare A.npz B.npz [options]")
    from person_search.commands import run_comparison

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
    base, rest = base_config(arguments)
    options = parse_flags(OPTIONS["info"](base), rest, prog="person-search info", hint=_whose(base))
    from person_search.commands import run_info

    run_info(with_settings(base, **settings_from(options, "data")))


def convert(arguments: Sequence[str]) -> None:
    """Write a checkpoint of another project, or a run's model alone, in this program's format."""
    options, files = parse_with_files(OPTIONS["convert"](Config()), arguments, prog="person-search convert", files=1)
    if not files:
        raise UsageError("convert wants a checkpoint: person-search convert FILE --out OURS")
    from person_search.commands import run_conversion

    run_conversion(Path(files[0]), required(options.out, "--out"), plugins=options.plugins)


def visualize(arguments: Sequence[str]) -> None:
    """Draw who in a folder of pictures looks most like the person in a box."""
    base, _ = base_config(arguments, "--model")
    options = parse_flags(OPTIONS["visualize"](base), arguments, prog="person-search visualize")
    config = with_settings(
        Config(),
        search_threshold=options.search_threshold,
        cws=options.cws,
        eval_batch_size=options.eval_batch_size,
        device=options.device,
        plugins=options.plugins,
    )
    from person_search.commands import run_visualization

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
    config = SynthConfig(**settings_in(options))
    from person_search.commands import run_synthesis

    run_synthesis(config)


def report(arguments: Sequence[str]) -> None:
    """Write the report page of an evaluated run."""
    options = parse_flags(OPTIONS["report"](Config()), arguments, prog="person-search report")
    from person_search.commands import run_report

    run_report(
        required(options.run_dir, "--run-dir"),
        options.out,
        evaluation=options.evaluation,
        max_queries=options.max_queries,
    )


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "score": score,
    "compare": compare,
    "info": info,
    "visualize": visualize,
    "convert": convert,
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
        sys.stdout.flush()
    except PersonSearchError as error:
        if debug:
            traceback.print_exc()
        if not error.shown_elsewhere:
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("error: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and reader_has_left():
            # `| head` has what it wanted; nothing is wrong.
            discard_output()
            return 0
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
    try:
        chosen(arguments[1:])
    except UnknownOption as error:
        owners = [name for name, options in OPTIONS.items() if error.option in option_names(options(Config()))]
        if owners:
            raise UsageError(f"{error.prog}: --{error.option} is an option of {', '.join(owners)}") from None
        raise


def main() -> None:
    """Entry point of ``person-search``."""
    sys.exit(run(sys.argv[1:], dispatch))
