"""What the commands do, once their options are read."""

from __future__ import annotations

import json as json_text
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from person_search.config import Config
from person_search.errors import UsageError, as_options
from person_search.registry import import_modules
from person_search.runtime.terminal import console, messages

if TYPE_CHECKING:
    from person_search.data.scene import Dataset, Split
    from person_search.synth.settings import SynthConfig
    from person_search.visualize.folder_search import Found


class OptionFormatter(logging.Formatter):
    """Shows the settings that a warning names as options."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``as_options``."""
        return as_options(super().format(record))


# Imports stand where they are used: a command brings along nothing that only others need.


def run_training(config: Config, *, resume: bool) -> None:
    """Train and say where the result is."""
    handler = RichHandler(console=messages, show_path=False)
    handler.setFormatter(OptionFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    from person_search.evaluation.tables import percent
    from person_search.runtime.distributed import rank
    from person_search.training.trainer import train

    outcome = train(config, resume=resume)
    if rank() > 0:
        return
    best = f", best checkpoint {outcome.best}" if outcome.best else ""
    result = (
        f" (validation mAP {percent(outcome.best_result)} %)"
        if outcome.best and outcome.best_result is not None
        else ""
    )
    skipped = f"; {outcome.skipped} steps skipped as not finite" if outcome.skipped else ""
    console.print(
        f"trained {outcome.step} steps, {outcome.epoch} whole epoch{'' if outcome.epoch == 1 else 's'}: "
        f"newest checkpoint {outcome.last}"
        f"{best}{result}{skipped}",
        soft_wrap=True,
    )


def run_prediction(checkpoint: str, config: Config, *, overrides: dict[str, Any], out: Path, split_name: str) -> None:
    """Write the predictions file of a checkpoint."""
    from person_search.data.catalogue import notes_of, open_dataset
    from person_search.evaluation.evaluate import load_for_test, open_test_split, predict_split
    from person_search.evaluation.task import as_published, other_training_data
    from person_search.runtime.distributed import rank
    from person_search.runtime.files import check_output_files

    check_output_files(predictions=out)
    stored = load_for_test(checkpoint, config, **overrides)
    scored = as_published(config, stored.evaluation)[0].evaluation
    config, published = as_published(config, without(stored.evaluation, *SCORING))
    tell(stored.origin, published)
    dataset = open_dataset(config)
    split = open_test_split(dataset, split_name, config, stored)
    print_notes(notes_of(dataset, split))
    if rank() == 0 and (other := other_training_data(dataset, config, stored.file, stored.data)):
        print_note(other)
    with progress_bar("detecting") as progress:
        predictions = predict_split(stored.model, split, config, progress=progress)
    if predictions is None:
        return
    if config.evaluation.cws:
        print_note("--cws changes nothing in a predictions file: give it to score, which weights by the scores")
    wanted = [key for key in SCORING if getattr(scored, key) and not getattr(config.evaluation, key)]
    if wanted:
        named = " and ".join(f"`{key}`" for key in wanted)
        tell(f"the published numbers of this checkpoint were taken with {named}: give that to score")
    replace(predictions, model_id=stored.model_id).save(out)
    console.print(
        f"wrote {len(predictions)} detections in {len(split.scenes)} scenes and {len(split.queries)} queries to {out} "
        f"(model id {stored.model_id})",
        soft_wrap=True,
    )


def run_scoring(
    predictions_file: Path, config: Config, *, split_name: str, json: Path | None, per_query: Path | None
) -> None:
    """Score a predictions file and print the table."""
    from person_search.data.catalogue import open_dataset
    from person_search.evaluation.predictions import Predictions
    from person_search.evaluation.results import score, write_results
    from person_search.evaluation.tables import metrics_table, write_per_query
    from person_search.evaluation.task import protocols_of
    from person_search.runtime.files import check_output_files

    check_output_files(json=json, per_query=per_query)
    predictions = Predictions.load(predictions_file)
    dataset = open_dataset(config)
    split = annotated_split(dataset, split_name, config)
    results = score(predictions, split, protocols_of(dataset, split, config), config)
    console.print(metrics_table([(predictions_file.stem, results)]))
    print_notes(results.notes)
    if json is not None:
        write_results(results, json)
    if per_query is not None:
        write_per_query(results, per_query)


def run_evaluation(
    checkpoint: str | Path,
    config: Config,
    *,
    overrides: dict[str, Any],
    out: Path | None,
    split_name: str,
    references: bool,
    home: Path | None = None,
) -> None:
    """Predict, score, print the table, and write ``out``, or else a folder of its own below ``home``.

    ``home`` is the folder of the checkpoint, or ``runs/NAME`` for a named model, unless it is given.
    """
    from person_search.evaluation.evaluate import evaluate
    from person_search.evaluation.tables import metrics_table

    with progress_bar("detecting") as progress:
        evaluation = evaluate(
            checkpoint,
            config,
            split=split_name,
            references=references,
            out=out,
            home=home,
            progress=progress,
            warn=print_note,
            tell=tell,
            **overrides,
        )
    if evaluation is None:
        return
    console.print(metrics_table([("trained", evaluation.results), *evaluation.references]))
    print_notes(evaluation.notes)
    console.print(f"model id {evaluation.record.model_id}; wrote {evaluation.folder}", soft_wrap=True)


def run_comparison(
    first: Path, second: Path, config: Config, *, split_name: str, samples: int, changed: int, json: Path | None
) -> None:
    """Score two predictions files and print where they differ."""
    from person_search.data.catalogue import open_dataset
    from person_search.evaluation.compare import changed_table, compare, comparison_table
    from person_search.evaluation.predictions import Predictions
    from person_search.evaluation.task import protocols_of
    from person_search.runtime.files import check_output_files, output_file

    if samples < 1 or changed < 0:
        raise UsageError(f"--samples {samples} --changed {changed}: expected at least 1 and 0")
    check_output_files(json=json)
    one, other = Predictions.load(first), Predictions.load(second)
    dataset = open_dataset(config)
    split = annotated_split(dataset, split_name, config)
    comparison = compare(
        one, other, split, protocols_of(dataset, split, config), config, samples=samples, queries=changed
    )
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    console.print(comparison_table(comparison, names))
    if comparison.changed:
        console.print(changed_table(comparison, names))
    print_notes(list(dict.fromkeys([*comparison.first.notes, *comparison.second.notes])))
    if json is not None:
        with output_file(json, "comparison") as file:
            file.write(json_text.dumps(comparison.to_dict(), indent=1).encode())


def run_info(config: Config) -> None:
    """Print what is in a dataset, what of it is not used, and where a published one differs from its numbers."""
    from person_search.data.catalogue import open_dataset
    from person_search.data.survey import SplitStatistics, check_published, survey

    found = survey(open_dataset(config))
    table = Table(title=f"{config.data.dataset}: {config.data.data_root}")
    names = [field.name for field in fields(SplitStatistics)]
    for name in names:
        table.add_column(name, justify="left" if name == "split" else "right")
    for count in found.counts:
        values = [getattr(count, name) for name in names]
        table.add_row(*("-" if value is None else str(value) for value in values))
    console.print(table)
    print_notes([*found.notes, *check_published(config.data.dataset, found.counts, config.data)])
    if found.contradiction is not None:
        raise found.contradiction


def run_synthesis(config: SynthConfig, *, replace: bool) -> None:
    """Make a synthetic dataset, or keep the one that is there."""
    from person_search.synth.generate import generate

    with progress_bar("drawing scenes") as progress:
        made = generate(config, replace=replace, progress=progress)
    what = "wrote" if made else "kept, made earlier with the same settings:"
    console.print(f"{what} {config.scenes} scenes in {config.out}", soft_wrap=True)


def run_conversion(file: str, out: Path, *, plugins: Sequence[str]) -> None:
    """Write a checkpoint's model, and no more, in this package's format."""
    from person_search.checkpoints.archives import on_disk
    from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint
    from person_search.checkpoints.loading import find_checkpoint, load_stored
    from person_search.config.sections import flat

    import_modules(plugins)
    kept = on_disk(find_checkpoint(file))
    if out.exists() and kept.exists() and out.samefile(kept):
        raise UsageError(f"--out {out} is the checkpoint itself; choose another file")
    stored = load_stored(file)
    tell(stored.origin)
    model = stored.model
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder of --out {out}: {error.strerror}; choose another place") from None
    save_checkpoint(
        out,
        Checkpoint(
            model.config, model.num_identities, model.state_dict(), data=stored.data, evaluation=stored.evaluation
        ),
    )
    settings = flat(model.config)
    named = [model.config.method, *(settings[key] for key in ("levels", "reid_loss") if key in settings)]
    console.print(
        f"wrote {out}: {', '.join(part if isinstance(part, str) else ' '.join(part) for part in named)}, "
        f"{model.num_identities} identities, model id {stored.model_id}",
        soft_wrap=True,
    )


def run_models(name: str | None, *, check: bool, json: Path | None) -> None:
    """List the models that have names, or show the one called ``name``; ``check`` their files in the cache."""
    from person_search.checkpoints.named_models import REMARK, known_models, named_model
    from person_search.commandline import model_tables
    from person_search.runtime.files import check_output_files, output_file

    check_output_files(json=json)
    models = [named_model(name)] if name is not None else list(known_models().values())
    if check:
        model_tables.check_files(models)
    else:
        console.print(model_tables.models_table(models) if name is None else model_tables.model_table(models[0]))
        console.print(REMARK)
    if json is not None:
        with output_file(json, "list of models") as file:
            file.write(json_text.dumps(model_tables.models_to_dict(models), indent=1).encode())


def run_visualization(
    checkpoint: str,
    query: Path,
    box: str,
    gallery: Path,
    out: Path,
    config: Config,
    *,
    overrides: dict[str, Any],
    top: int,
    whole_scenes: bool,
) -> None:
    """Draw who in a folder of pictures looks most like the person in a box."""
    from person_search.data.decode import read_image
    from person_search.data.notes import Notes
    from person_search.evaluation.evaluate import load_for_test
    from person_search.evaluation.task import as_published
    from person_search.visualize import folder_search as search

    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    search.check_picture_name(out)
    corners = search.parse_box(box)
    image = read_image(query)
    search.check_inside(corners, image)
    notes = Notes()
    images = search.images_in(gallery, without=query, notes=notes)
    print_notes(notes.lines())
    stored = load_for_test(checkpoint, config, **overrides)
    config, published = as_published(config, without(stored.evaluation, "same_size_batches", "gfn_scores"))
    tell(stored.origin, published)
    model = stored.model
    with progress_bar("searching") as progress:
        ranking = search.search_folder(
            model,
            image,
            corners,
            images,
            top=top,
            score_threshold=config.evaluation.search_threshold,
            cws=config.evaluation.cws,
            batch_size=config.evaluation.eval_batch_size,
            progress=progress,
        )
    for error in ranking.unreadable:
        messages.print(f"warning: skipped: {error}", soft_wrap=True)
    drawn = search.draw_ranking(image, corners, ranking, query_name=query.name, whole_scenes=whole_scenes)
    search.write_picture(out, drawn)
    console.print(hits_table(ranking.hits, gallery))
    console.print(
        f"wrote {out}: the {len(ranking.hits)} most similar of {ranking.people} people in "
        f"{len(images) - len(ranking.unreadable)} pictures",
        soft_wrap=True,
    )


def hits_table(hits: Sequence[Found], gallery: Path) -> Table:
    """One row per hit: rank, similarity, picture, box."""
    table = Table()
    for heading in ("rank", "similarity", "score"):
        table.add_column(heading, justify="right")
    table.add_column("picture", overflow="fold")
    table.add_column("box, pixels")
    for rank, hit in enumerate(hits, start=1):
        box = ",".join(f"{value:.0f}" for value in hit.box)
        name = str(hit.path.relative_to(gallery))
        table.add_row(str(rank), f"{hit.similarity:.3f}", f"{hit.score:.2f}", name, box)
    return table


def run_report(run_dir: Path, out: Path, *, evaluation: Path | None, max_queries: int) -> None:
    """Write the report page of an evaluated run, and say which of its evaluations it shows."""
    from person_search.visualize.run_report import report_run

    report = report_run(run_dir, out, evaluation=evaluation, max_queries=max_queries)
    for note in report.notes:
        messages.print(as_options(note), soft_wrap=True, markup=False, highlight=False)
    console.print(f"evaluation: {report.record}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {report.page}", soft_wrap=True, markup=False, highlight=False)


def annotated_split(dataset: Dataset, name: str, config: Config) -> Split:
    """The split to score, its notes printed. Raises UsageError for a name that is none."""
    from person_search.data.catalogue import notes_of
    from person_search.evaluation.task import split_to_test

    split = split_to_test(dataset, name, config)
    print_notes(notes_of(dataset, split))
    return split


def print_note(line: str) -> None:
    """Warn of something that files hold and the program does not use."""
    messages.print(f"warning: {as_options(line)}", soft_wrap=True)


SCORING = ("cws", "gfn_scores")
"""Settings of the evaluation that change what is made of predictions, not the predictions."""


def without(settings: dict[str, Any], *keys: str) -> dict[str, Any]:
    """``settings`` but for those that a command has no use for."""
    return {key: value for key, value in settings.items() if key not in keys}


def tell(*lines: str | None) -> None:
    """Print what is no warning, such as what a file was taken for."""
    for line in filter(None, lines):
        messages.print(as_options(line), soft_wrap=True, markup=False, highlight=False)


def print_notes(lines: Sequence[str]) -> None:
    """``print_note`` for each."""
    for line in lines:
        print_note(line)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left; yields what to call with (done, total). It is there from the first call on."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=messages,
    )
    task = bar.add_task(what, total=None)
    before = 0

    def show(done: int, total: int) -> None:
        nonlocal before
        if done < before:
            # The next round of the same work.
            bar.reset(task)
        bar.start()
        bar.update(task, completed=done, total=total)
        before = done

    try:
        yield show
    finally:
        bar.stop()
