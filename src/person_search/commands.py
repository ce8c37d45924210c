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
from person_search.data.catalogue import SplitStatistics, check_published, notes_of, open_dataset, survey
from person_search.data.picture_sizes import check_sizes
from person_search.data.scene import Dataset, Protocol, Split
from person_search.errors import PersonSearchError, UsageError
from person_search.evaluation.chance import random_ranking
from person_search.evaluation.compare import changed_table, compare, comparison_table
from person_search.evaluation.files import EVALUATION, refuse_others, write_evaluation
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.record import make_record
from person_search.evaluation.results import Results, score, write_results
from person_search.evaluation.tables import metrics_table, percent, write_per_query
from person_search.evaluation.task import protocols_of, refuse_other_holdout, split_to_test
from person_search.files import whole_file
from person_search.registry import import_modules
from person_search.sections import flat
from person_search.synth.settings import SynthConfig
from person_search.terminal import console, messages

if TYPE_CHECKING:
    from person_search.models.loading import StoredModel
    from person_search.models.person_search_model import PersonSearchModel
    from person_search.visualize.folder_search import Found


def run_training(config: Config, *, resume: bool) -> None:
    """Train and say where the result is."""
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=messages, show_path=False)]
    )
    from person_search.models.distributed import rank
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


def run_prediction(checkpoint: Path, config: Config, *, overrides: dict[str, Any], out: Path, split_name: str) -> None:
    """Write the predictions file of a checkpoint."""
    stored = load_for_test(checkpoint, config, overrides)
    dataset = open_dataset(config.data)
    split = split_of_checkpoint(dataset, split_name, config, stored)
    predictions = predictions_of(stored.model, split, config)
    if predictions is None:
        return
    if config.evaluation.cws:
        print_notes(["--cws changes nothing in a predictions file: give it to score, which weights by the scores"])
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
    predictions = Predictions.load(predictions_file)
    dataset = open_dataset(config.data)
    split = test_split(dataset, split_name, config)
    results = score(predictions, split, protocols_of(dataset, split, config), config.evaluation)
    console.print(metrics_table([(predictions_file.stem, results)]))
    print_notes(results.notes)
    if json is not None:
        write_results(results, json)
    if per_query is not None:
        write_per_query(results, per_query)


def run_evaluation(
    checkpoint: Path,
    config: Config,
    *,
    overrides: dict[str, Any],
    out: Path | None,
    split_name: str,
    references: bool,
    home: Path | None = None,
) -> None:
    """Predict, score, print the table, and write ``out``, or else a folder of its own below ``home``.

    ``home`` is the folder of the checkpoint, unless it is given.
    """
    stored = load_for_test(checkpoint, config, overrides)
    model = stored.model
    config = config.model_copy(update={"model": model.config})
    dataset = open_dataset(config.data)
    split = split_of_checkpoint(dataset, split_name, config, stored)
    protocols = protocols_of(dataset, split, config)
    record = make_record(
        checkpoint=stored.file, model_id=stored.model_id, stored=stored.config, split=split, config=config
    )
    folder = out or (home or stored.file.parent) / EVALUATION / record.name
    refuse_others(folder, record)
    # The trained model comes last, so that a stop during the references loses none of its work.
    untrained = untrained_predictions(model, split, config) if references else None
    predictions = predictions_of(model, split, config)
    if predictions is None:
        return
    results = score(predictions, split, protocols, config.evaluation)
    others = reference_results(untrained, split, protocols, config) if references else []
    kept = write_evaluation(folder, record, replace(predictions, model_id=record.model_id), results, others)
    console.print(metrics_table([("trained", results), *others]))
    print_notes([*results.notes, *kept])
    console.print(f"model id {record.model_id}; wrote {folder}", soft_wrap=True, markup=False, highlight=False)


def run_comparison(
    first: Path, second: Path, config: Config, *, split_name: str, samples: int, changed: int, json: Path | None
) -> None:
    """Score two predictions files and print where they differ."""
    if samples < 1 or changed < 0:
        raise UsageError(f"--samples {samples} --changed {changed}: expected at least 1 and 0")
    one, other = Predictions.load(first), Predictions.load(second)
    dataset = open_dataset(config.data)
    split = test_split(dataset, split_name, config)
    comparison = compare(
        one, other, split, protocols_of(dataset, split, config), config.evaluation, samples=samples, queries=changed
    )
    names = (first.stem, second.stem) if first.stem != second.stem else (str(first), str(second))
    console.print(comparison_table(comparison, names))
    if comparison.changed:
        console.print(changed_table(comparison, names))
    print_notes(list(dict.fromkeys([*comparison.first.notes, *comparison.second.notes])))
    if json is not None:
        with whole_file(json, "comparison") as file:
            file.write(json_text.dumps(comparison.to_dict(), indent=1).encode())


def run_info(config: Config) -> None:
    """Print what is in a dataset, what of it is not used, and where a published one differs from its numbers."""
    found = survey(open_dataset(config.data))
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


def run_synthesis(config: SynthConfig) -> None:
    """Make a synthetic dataset, or keep the one that is there."""
    from person_search.synth.generate import generate

    with progress_bar("drawing scenes") as progress:
        made = generate(config, progress=progress)
    what = "wrote" if made else "kept, made earlier with the same settings:"
    console.print(f"{what} {config.scenes} scenes in {config.out}", soft_wrap=True)


def run_conversion(file: Path, out: Path, *, plugins: Sequence[str]) -> None:
    """Write a checkpoint's model, and no more, in this package's format."""
    from person_search.models.loading import find_checkpoint, load_stored
    from person_search.training.checkpoints import Checkpoint, save_checkpoint

    import_modules(plugins)
    source = find_checkpoint(file)
    if out.exists() and source.exists() and out.samefile(source):
        raise UsageError(f"--out {out} is the checkpoint itself; choose another file")
    stored = load_stored(source)
    model = stored.model
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the folder of --out {out}: {error.strerror}; choose another place") from None
    save_checkpoint(out, Checkpoint(model.config, model.num_identities, model.state_dict(), data=stored.data))
    settings = flat(model.config)
    named = [model.config.method, *(settings[key] for key in ("levels", "reid_loss") if key in settings)]
    console.print(
        f"wrote {out}: {', '.join(part if isinstance(part, str) else ' '.join(part) for part in named)}, "
        f"{model.num_identities} identities, model id {stored.model_id}",
        soft_wrap=True,
    )


def run_visualization(
    checkpoint: Path,
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
    from person_search.visualize import folder_search as search

    if top < 1:
        raise UsageError(f"--top {top}: expected at least 1")
    search.check_picture_name(out)
    corners = search.parse_box(box)
    image = read_image(query)
    search.check_inside(corners, image)
    notes = Notes()
    pictures = search.pictures_in(gallery, without=query, notes=notes)
    print_notes(notes.lines())
    model = load_for_test(checkpoint, config, overrides).model
    with progress_bar("searching") as progress:
        ranking = search.search_folder(
            model,
            image,
            corners,
            pictures,
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
        f"{len(pictures) - len(ranking.unreadable)} pictures",
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
        messages.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(f"evaluation: {report.record}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"report: {report.page}", soft_wrap=True, markup=False, highlight=False)


def test_split(dataset: Dataset, name: str, config: Config) -> Split:
    """The split to evaluate, its notes printed. Raises UsageError for a name that is none."""
    split = split_to_test(dataset, name, config)
    print_notes(notes_of(dataset, split))
    return split


def split_of_checkpoint(dataset: Dataset, name: str, config: Config, stored: StoredModel) -> Split:
    """``test_split``, which for ``"val"`` must be what the run of the checkpoint held out. Raises UsageError."""
    if name == "val":
        refuse_other_holdout(dataset, config, stored.file, stored.data)
    return test_split(dataset, name, config)


def print_notes(lines: Sequence[str]) -> None:
    """Warn of what files hold and the program does not use."""
    for line in lines:
        messages.print(f"warning: {line}", soft_wrap=True)


def load_for_test(checkpoint: Path, config: Config, overrides: dict[str, Any]) -> StoredModel:
    """The model of a checkpoint on the device of ``config``."""
    from person_search.models.acceleration import accelerate
    from person_search.models.loading import load_stored
    from person_search.training.processes import start_for_test

    import_modules(config.data.plugins)
    device = start_for_test(config.training)
    stored = load_stored(checkpoint, device=device, **overrides)
    accelerate(stored.model, config.training)
    return stored


def predictions_of(model: PersonSearchModel, split: Split, config: Config) -> Predictions | None:
    """Run ``model`` over ``split``, showing progress. Processes share the work; all but the first get None."""
    from person_search.evaluation.predict import predict
    from person_search.models.distributed import rank, together
    from person_search.training.companions import losses_named

    with losses_named(), together():
        if rank() == 0:
            check_sizes(split)
    with losses_named(), progress_bar("detecting", shown=rank() == 0) as progress:
        return predict(model, split, config, progress=progress)


def untrained_predictions(model: PersonSearchModel, split: Split, config: Config) -> Predictions | None:
    """The embeddings that ``model`` gives the true boxes as it was before its training, pretrained weights included.

    None, and a warning, where those weights are not at hand; None in all processes but the first.
    """
    import torch

    from person_search.models.building import build_model
    from person_search.models.distributed import everyones, rank

    torch.manual_seed(config.training.seed)
    reason = None
    try:
        untrained = build_model(model.config, model.num_identities).to(model.device)
    except PersonSearchError as error:
        reason = str(error)
    # A process without the weights must not leave the others waiting for its share of the scenes.
    reason = next((each for each in everyones(reason) if each is not None), None)
    if reason is not None:
        if rank() == 0:
            print_notes([f"the row of the untrained model is left out: {reason}"])
        return None
    true_boxes = config.evaluation.model_copy(update={"use_gt_boxes": True, "cbgm": False})
    on_true_boxes = config.model_copy(update={"evaluation": true_boxes})
    return predictions_of(untrained, split, on_true_boxes)


def reference_results(
    untrained: Predictions | None, split: Split, protocols: list[Protocol], config: Config
) -> list[tuple[str, Results]]:
    """Search on true boxes without training, where it was predicted, and by chance: what to see the numbers against."""
    true_boxes = config.evaluation.model_copy(update={"use_gt_boxes": True, "cbgm": False})
    chance = random_ranking(split, protocols, config.evaluation, seed=config.training.seed)
    rows = [] if untrained is None else [("untrained, true boxes", score(untrained, split, protocols, true_boxes))]
    return [*rows, ("random, true boxes", chance)]


@contextmanager
def progress_bar(what: str, *, shown: bool = True) -> Iterator[Callable[[int, int], None]]:
    """A bar with the time left; yields what to call with (done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=messages, disable=not shown) as progress:
        task = progress.add_task(what, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
