"""The command line: one function per command, each only reads its options and calls."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from person_search import __version__
from person_search.cli_options import (
    CHECKPOINT,
    CONFIG,
    JSON,
    PLUGINS,
    at_test,
    base_config,
    described,
    required,
    running_config,
    running_sections,
    sections_of,
    setting,
    settings_from,
)
from person_search.config import Config, EvaluationConfig, TrainingConfig, to_yaml, whose, with_settings
from person_search.errors import PersonSearchError, UsageError, nearest
from person_search.flags import Hint, command, flags_like, parse_flags, parse_with_files, settings_in
from person_search.terminal import discard_output, reader_has_left
from person_search.training.resuming import own_config


def train(arguments: Sequence[str]) -> None:
    """Train a model, or go on with a run."""
    base, rest = base_config(arguments)
    options = _train_options(base, rest)
    if options.resume:
        # The run's own settings take the place of the defaults; what is given goes on top as without --resume.
        own = own_config(options.training.run_dir)
        base, rest = base_config(arguments, over=own)
        options = _train_options(base, rest)
    config = with_settings(base, **settings_from(options, "data", "model", "training", "evaluation"))
    if options.print_config:
        print(to_yaml(config), end="")
        return
    from person_search.commands import run_training

    run_training(config, resume=options.resume)


def _train_options(base: Config, rest: Sequence[str]) -> Any:
    kind = command(
        "Train",
        "Train a model. Settings come from --config and flags on top of it; all of them are written to the run folder.",
        [
            CONFIG,
            (
                "resume",
                described(
                    bool,
                    "go on with the newest good checkpoint in the run folder, if there is one, and with the settings "
                    "there; --config and flags go on top of these, and what cannot change is refused",
                ),
                False,
            ),
            ("print_config", described(bool, "print the effective settings as YAML and stop"), False),
            *sections_of(base, "data", "model", "training", "evaluation"),
        ],
    )
    return parse_flags(kind, rest, prog="person-search train", hint=_whose(base))


def _whose(base: Config) -> Hint:
    return lambda name: whose(name, base)


def evaluate(arguments: Sequence[str]) -> None:
    """Run a trained model on a test split and score it."""
    base, rest = base_config(arguments, "--checkpoint")
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
                    "folder to write: predictions, results, record (default: one of its own in evaluation/ beside the "
                    "checkpoint)",
                ),
                None,
            ),
            ("split", described(str, "which split: test or val"), "test"),
            (
                "references",
                described(bool, "also score an untrained model and a random ranking, both on true boxes"),
                False,
            ),
            *running_sections(base),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search evaluate", hint=_whose(base))
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
    kind = command(
        "Predict",
        "Run a trained model on a test split and write its detections and query embeddings, for score to read.",
        [
            ("checkpoint", CHECKPOINT, None),
            ("predictions", described(Path, "predictions file to write (.npz)"), Path("predictions.npz")),
            CONFIG,
            ("split", described(str, "which split: test or val"), "test"),
            *running_sections(base),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search predict", hint=_whose(base))
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
    kind = command(
        "Score",
        "Score a predictions file, whoever made it. Needs the dataset's annotations, but no images and no model.",
        [
            ("predictions", described(Path | None, "predictions file (.npz) to read"), None),
            CONFIG,
            ("split", described(str, "which split: test or val"), "test"),
            JSON,
            ("per_query", described(Path | None, "write the AP of every query to this CSV file"), None),
            *sections_of(base, "data", "evaluation"),
        ],
    )
    options = parse_flags(kind, rest, prog="person-search score", hint=_whose(base))
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
            *sections_of(base, "data", "evaluation"),
        ],
    )
    options, files = parse_with_files(kind, rest, prog="person-search compare", files=2, hint=_whose(base))
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
    kind = command(
        "Info",
        "Print what is in a dataset: scenes, boxes, identities, queries of every split. What "
        "the files hold and the program does not use is named, and the headers of up to 200 pictures of each split are "
        "compared with the sizes in the annotations. Where the dataset is a published one, "
        "what differs from its published numbers is named.",
        [CONFIG, *sections_of(base, "data")],
    )
    options = parse_flags(kind, rest, prog="person-search info", hint=_whose(base))
    from person_search.commands import run_info

    run_info(with_settings(base, **settings_from(options, "data")))


def convert(arguments: Sequence[str]) -> None:
    """Write a checkpoint of another project, or a run's model alone, in this program's format."""
    kind = command(
        "Convert",
        "Write the model of a checkpoint in this program's format: person-search convert FILE --out OURS. FILE is a "
        "checkpoint that another project released, recognised by its contents, or one of this program, "
        "whose training state is left out. Nothing in FILE is executed.",
        [
            ("out", described(Path | None, "checkpoint file to write"), None),
            PLUGINS,
        ],
    )
    options, files = parse_with_files(kind, arguments, prog="person-search convert", files=1)
    if not files:
        raise UsageError("convert wants a checkpoint: person-search convert FILE --out OURS")
    from person_search.commands import run_conversion

    run_conversion(Path(files[0]), required(options.out, "--out"), plugins=options.plugins)


def visualize(arguments: Sequence[str]) -> None:
    """Draw who in a folder of pictures looks most like the person in a box."""
    base, _ = base_config(arguments, "--model")
    _, test_flags = at_test(base)
    kind = command(
        "Visualize",
        "Draw a ranking list: the person in --box of the picture --query, and the people most like it in any folder "
        "of pictures. Pictures that cannot be read are named and left out, and so is the query's own.",
        [
            ("model", CHECKPOINT, None),
            ("query", described(Path | None, "picture with the person to find"), None),
            ("box", described(str | None, "x1,y1,x2,y2: the person's corners, pixels of that picture"), None),
            ("gallery", described(Path | None, "folder of pictures to search, with the folders in it"), None),
            ("out", described(Path, "picture to write: .png or .jpg"), Path("ranking.png")),
            ("top", described(int, "how many people to show"), 10),
            ("whole_scenes", described(bool, "show whole pictures with the box instead of the person cut out"), False),
            setting(EvaluationConfig, "search_threshold"),
            setting(EvaluationConfig, "cws"),
            setting(EvaluationConfig, "eval_batch_size"),
            setting(TrainingConfig, "device"),
            PLUGINS,
            ("at_test", type(test_flags), test_flags),
        ],
    )
    options = parse_flags(kind, arguments, prog="person-search visualize")
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

    options = parse_flags(type(flags_like(SynthConfig())), arguments, prog="person-search synth")
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
            (
                "evaluation",
                described(Path | None, "which one: a folder's name in evaluation/, or a path; default: the newest"),
                None,
            ),
            ("out", described(Path, "folder to write; index.html is the page"), Path("report")),
            ("max_queries", described(int, "ranking lists shown, at most"), 24),
        ],
    )
    options = parse_flags(kind, arguments, prog="person-search report")
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
    chosen(arguments[1:])


def main() -> None:
    """Entry point of ``person-search``."""
    sys.exit(run(sys.argv[1:], dispatch))
