"""Which options every command has; ``base`` gives the defaults that ``--help`` shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from person_search.commandline.flags import command, flags_like
from person_search.commandline.shared_options import (
    CHECKPOINT,
    CONFIG,
    JSON,
    PLUGINS,
    at_test,
    described,
    running_sections,
    sections_of,
    setting,
)
from person_search.config import Config, EvaluationConfig, TrainingConfig


def train_options(base: Config) -> Any:
    """A dataclass of the options to train, or go on with a run."""
    return command(
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


def evaluate_options(base: Config) -> Any:
    """A dataclass of the options to run a trained model on a split and score it."""
    return command(
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
                    "checkpoint, or in runs/NAME for a named model)",
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


def predict_options(base: Config) -> Any:
    """A dataclass of the options to write a predictions file."""
    return command(
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


def score_options(base: Config) -> Any:
    """A dataclass of the options to score one."""
    return command(
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


def compare_options(base: Config) -> Any:
    """A dataclass of the options to compare two of them."""
    return command(
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


def info_options(base: Config) -> Any:
    """A dataclass of the options to tell what is in a dataset."""
    return command(
        "Info",
        "Print what is in a dataset: scenes, boxes, identities, queries of every split. What "
        "the files hold and the program does not use is named, and the headers of up to 200 pictures of each split are "
        "compared with the sizes in the annotations. Where the dataset is a published one, "
        "what differs from its published numbers is named.",
        [CONFIG, *sections_of(base, "data")],
    )


def convert_options(base: Config) -> Any:
    """A dataclass of the options to write a checkpoint in this program's format."""
    return command(
        "Convert",
        "Write the model of a checkpoint in this program's format: person-search convert FILE --out OUTPUT. FILE is a "
        "checkpoint that another project released, recognised by its contents, the name of one (person-search models), "
        "or one of this program, whose training state is left out. Nothing in FILE is executed.",
        [
            ("out", described(Path | None, "checkpoint file to write"), None),
            PLUGINS,
        ],
    )


def models_options(base: Config) -> Any:
    """A dataclass of the options to list the models that have names."""
    return command(
        "Models",
        "List the released models that can be given by name wherever a checkpoint is asked for; person-search models "
        "NAME shows one. Nothing is fetched.",
        [
            ("check", described(bool, "compare the files in the cache with their digests"), False),
            JSON,
        ],
    )


def visualize_options(base: Config) -> Any:
    """A dataclass of the options to search a folder of pictures."""
    _, test_flags = at_test(base)
    return command(
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


def synth_options(base: Config) -> Any:
    """A dataclass of the options to make a synthetic dataset."""
    from person_search.synth.settings import SynthConfig

    flags = flags_like(SynthConfig())
    return command(
        "Synth",
        SynthConfig.__doc__ or "",
        [
            ("dataset", type(flags), flags),
            ("replace", described(bool, "replace a dataset in --out that was made with other settings"), False),
        ],
    )


def report_options(base: Config) -> Any:
    """A dataclass of the options to write the page of an evaluation."""
    return command(
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


OPTIONS: dict[str, Callable[[Config], Any]] = {
    "train": train_options,
    "evaluate": evaluate_options,
    "predict": predict_options,
    "score": score_options,
    "compare": compare_options,
    "info": info_options,
    "models": models_options,
    "visualize": visualize_options,
    "convert": convert_options,
    "synth": synth_options,
    "report": report_options,
}
"""Command name -> its options."""
