"""The report page of a run folder, from what one evaluation left in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from person_search.checkpoints.archives import on_disk
from person_search.checkpoints.loading import load_stored
from person_search.config.sections import flat
from person_search.data.catalogue import open_dataset
from person_search.data.fingerprint import fingerprint
from person_search.data.scene import Boxes, Split
from person_search.errors import CheckpointError, DataError
from person_search.evaluation.files import PREDICTIONS, RESULTS, choose_evaluation, read_references
from person_search.evaluation.predictions import Predictions, align
from person_search.evaluation.record import Record
from person_search.evaluation.results import read_results
from person_search.evaluation.task import split_to_test
from person_search.models.person_search_model import PersonSearchModel
from person_search.visualize.report import write_report

PROPOSAL_SCENES = 4


@dataclass(frozen=True)
class Report:
    """A written page, the evaluation it shows, and what is to be said of it."""

    page: Path
    record: Record
    notes: list[str]


def report_run(run_dir: Path, out: Path, *, evaluation: Path | None = None, max_queries: int) -> Report:
    """Write the report of an evaluation of ``run_dir`` into ``out``: see ``choose_evaluation`` for which.

    Raises UsageError when there is no such evaluation, DataError when something it needs cannot be read or the data is
    no longer what was evaluated.
    """
    chosen, notes = choose_evaluation(run_dir, evaluation)
    folder, record, config = chosen.folder, chosen.record, chosen.record.config
    results = read_results(folder / RESULTS)
    dataset = open_dataset(config)
    split = split_to_test(dataset, record.split, config)
    if fingerprint(split) != record.fingerprint:
        raise DataError(
            f"the {record.split} split in '{record.data_root}' is no longer what was evaluated on {record.date}: its "
            "scenes, boxes or identities differ; evaluate again"
        )
    predictions = align(Predictions.load(folder / PREDICTIONS), split)
    model, problem = evaluated_model(run_dir, record)
    if problem:
        notes = [*notes, f"proposals are left out: {problem}"]
    page = write_report(
        run_dir,
        out,
        split=split,
        results=results.to_dict(),
        predictions=detections_by_scene(predictions),
        proposals=None if model is None else proposals_by_scene(model, split),
        reference_rows=read_references(folder),
        record=record,
        read_scene=lambda scene: split.read(scene).permute(1, 2, 0).numpy(),
        max_queries=max_queries,
    )
    return Report(page, record, notes)


def detections_by_scene(predictions: Predictions) -> dict[str, tuple[Boxes, Boxes]]:
    """Scene name -> (n, 4) boxes and (n,) scores."""
    offsets = predictions.offsets
    return {
        str(name): (predictions.boxes[start:end], predictions.scores[start:end])
        for name, start, end in zip(predictions.scene_names, offsets[:-1], offsets[1:], strict=True)
    }


def evaluated_model(run_dir: Path, record: Record) -> tuple[PersonSearchModel | None, str]:
    """The very model that was evaluated, with its settings then; None and the reason where it is no longer there.

    A run folder may have been moved since: its file of the same name will do if the same model is in it.
    """
    named = Path(record.checkpoint)
    there = [path for path in dict.fromkeys((named, run_dir.resolve() / named.name)) if on_disk(path).is_file()]
    if not there:
        return None, f"checkpoint '{named}' is gone"
    problem = ""
    for path in there:
        try:
            stored = load_stored(path, **flat(record.config.model))
        except CheckpointError as error:
            problem = str(error)
            continue
        if stored.model_id == record.model_id:
            return stored.model, ""
        problem = f"checkpoint '{path}' now holds model {stored.model_id}, {record.model_id} was evaluated"
    return None, problem


def proposals_by_scene(model: PersonSearchModel, split: Split) -> dict[str, tuple[Boxes, Boxes]]:
    """Proposals of ``model`` for a few scenes over the split, (n, 4) boxes and (n,) logits; {} if it has none."""
    chosen = np.unique(np.linspace(0, len(split.scenes) - 1, PROPOSAL_SCENES).round().astype(int))
    found = {}
    for scene in (split.scenes[number] for number in chosen):
        proposed = model.propose([split.read(scene)])
        if proposed is not None:
            ((boxes, logits),) = proposed
            found[scene.name] = (boxes.numpy(), logits.numpy())
    return found
