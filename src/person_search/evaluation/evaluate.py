"""From a checkpoint and a dataset to predictions, numbers and the folder that keeps them: what ``evaluate`` does.

Nothing here prints: what is to be said on the way goes to ``warn``, which logs unless it is told otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from person_search.checkpoints.loading import StoredModel, load_stored
from person_search.config import Config
from person_search.data.catalogue import notes_of, open_dataset
from person_search.data.scene import Dataset, Protocol, Split
from person_search.data.size_checks import check_sizes
from person_search.errors import PersonSearchError, UsageError
from person_search.evaluation.chance import random_ranking
from person_search.evaluation.files import EVALUATION, refuse_others, write_evaluation
from person_search.evaluation.predict import predict
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.record import Record, make_record
from person_search.evaluation.rescoring import refuse_what_is_not_predicted
from person_search.evaluation.results import Results, score
from person_search.evaluation.task import (
    as_published,
    other_training_data,
    protocols_of,
    refuse_other_holdout,
    split_to_test,
)
from person_search.models.acceleration import accelerate
from person_search.models.building import build_model
from person_search.models.person_search_model import PersonSearchModel
from person_search.registry import import_modules
from person_search.runtime.distributed import all_gather_object, errors_on_all_ranks, rank
from person_search.runtime.launch import name_lost_ranks
from person_search.runtime.processes import start_for_test

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with what is done and how much there is."""
Warn = Callable[[str], None]
"""Called with what a person should know, one line at a time."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What an evaluation found, and where it is kept.

    Attributes:
        results: metrics per protocol, and what was found for every query.
        references: the same by name for an untrained model and a random ranking, where they were asked for.
        predictions: detections and embeddings that were scored.
        record: what was evaluated, with which settings.
        folder: holds all of it as files.
        notes: what is to be said of them: one line each.
    """

    results: Results
    references: list[tuple[str, Results]]
    predictions: Predictions
    record: Record
    folder: Path
    notes: list[str]


def load_for_test(checkpoint: str | Path, config: Config, **overrides: Any) -> StoredModel:
    """The model of ``checkpoint``, on the device and with the precision of ``config.training``.

    ``checkpoint`` is a file, a run folder or the name of a released model. Where ``config.training`` asks for
    several processes they are started, and all of them run the program from its beginning.
    ``overrides`` are model settings by flat name. Raises CheckpointError and UsageError.
    """
    if clash := {"device", "path"} & overrides.keys():
        raise UsageError(
            f"'{min(clash)}' is no model setting; where to run is said by with_settings(config, device=...)"
        )
    import_modules(config.data.plugins)
    with name_lost_ranks():
        device = start_for_test(config.training)
    stored = load_stored(checkpoint, device=device, **overrides)
    refuse_what_is_not_predicted(config.evaluation, stored.model.optional_arrays(), f"'{stored.file}'")
    accelerate(stored.model, config.training)
    return stored


def open_test_split(dataset: Dataset, name: str, config: Config, stored: StoredModel) -> Split:
    """The split ``name``, ``"test"`` or ``"val"``, of ``dataset``, to test ``stored``.

    ``"val"`` must be what the training of that model held out. Raises UsageError, DataError.
    """
    if name == "val":
        refuse_other_holdout(dataset, config, stored.file, stored.data)
    return split_to_test(dataset, name, config)


def predict_split(
    model: PersonSearchModel, split: Split, config: Config, *, progress: Progress | None = None
) -> Predictions | None:
    """``predict``, once some of the pictures have been found to be of the size that their annotations say.

    Processes share the work; all but the first get None.
    """
    with name_lost_ranks(), errors_on_all_ranks():
        if rank() == 0:
            check_sizes(split)
    with name_lost_ranks():
        return predict(model, split, config, progress=progress)


def evaluate(
    checkpoint: str | Path,
    config: Config,
    *,
    split: str = "test",
    references: bool = False,
    out: str | Path | None = None,
    home: str | Path | None = None,
    progress: Progress | None = None,
    warn: Warn = log.warning,
    tell: Warn = log.info,
    **overrides: Any,
) -> Evaluation | None:
    """Predict, score, and write what was found to ``out``, or else to a folder of its own below ``home``.

    Args:
        checkpoint: file, run folder or name of a released model; its model's settings count, with ``overrides`` by flat
            name on top.
        config: the data, how to run, and how to score; where it says nothing of how to score, settings in the
            checkpoint count (see ``as_published``).
        split: ``"test"`` or ``"val"``.
        references: also score an untrained model and a random ranking, both on true boxes.
        out: folder to write; one that holds another evaluation is refused.
        home: where the folder ``evaluation`` lies; None: beside the checkpoint, for a named model in ``runs/NAME``.
        progress: called with the scenes done and their number.
        warn: called with what the dataset's files hold and the program does not use, and where the training data is
            not that of the model's training.
        tell: called with what another project's checkpoint was taken for, and which of its settings count.

    Processes that work together share the scenes, and all but the first get None.
    Raises CheckpointError, DataError, UsageError.
    """
    stored = load_for_test(checkpoint, config, **overrides)
    model = stored.model
    config, published = as_published(config.model_copy(update={"model": model.config}), stored.evaluation)
    for line in filter(None, (stored.origin, published)):
        tell(line)
    dataset = open_dataset(config)
    scenes = open_test_split(dataset, split, config, stored)
    for line in notes_of(dataset, scenes):
        warn(line)
    if rank() == 0 and (other := other_training_data(dataset, config, stored.file, stored.data)):
        warn(other)
    protocols = protocols_of(dataset, scenes, config)
    record = make_record(
        checkpoint=stored.file, model_id=stored.model_id, stored=stored.config, split=scenes, config=config
    )
    folder = Path(out or Path(home or stored.home) / EVALUATION / record.name)
    refuse_others(folder, record)
    # The trained model comes last, so that a stop during the references loses none of its work.
    untrained = _untrained_predictions(model, scenes, config, progress, warn) if references else None
    predictions = predict_split(model, scenes, config, progress=progress)
    if predictions is None:
        return None
    predictions = replace(predictions, model_id=record.model_id)
    results = score(predictions, scenes, protocols, config)
    others = _reference_results(untrained, scenes, protocols, config) if references else []
    kept = write_evaluation(folder, record, predictions, results, others)
    return Evaluation(results, others, predictions, record, folder, [*results.notes, *kept])


def _on_true_boxes(config: Config) -> Config:
    plain = {"use_gt_boxes": True, "cbgm": False, "gfn_scores": False}
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update=plain)})


def _untrained_predictions(
    model: PersonSearchModel, split: Split, config: Config, progress: Progress | None, warn: Warn
) -> Predictions | None:
    """The embeddings that ``model`` gives the true boxes as it was before its training, pretrained weights included.

    None, and a warning, where those weights are not at hand; None in all processes but the first.
    """
    torch.manual_seed(config.training.seed)
    reason = None
    try:
        untrained = build_model(model.config, model.num_identities).to(model.device)
    except PersonSearchError as error:
        reason = str(error)
    # A process without the weights must not leave the others waiting for its share of the scenes.
    reason = next((each for each in all_gather_object(reason) if each is not None), None)
    if reason is not None:
        if rank() == 0:
            warn(f"the row of the untrained model is left out: {reason}")
        return None
    return predict_split(untrained, split, _on_true_boxes(config), progress=progress)


def _reference_results(
    untrained: Predictions | None, split: Split, protocols: list[Protocol], config: Config
) -> list[tuple[str, Results]]:
    """Search on true boxes without training, where it was predicted, and by chance: what to see the numbers against."""
    chance = random_ranking(split, protocols, config.evaluation, seed=config.training.seed)
    rows = [("random, true boxes", chance)]
    if untrained is not None:
        true_boxes = _on_true_boxes(config).evaluation
        rows.insert(0, ("untrained, true boxes", score(untrained, split, protocols, true_boxes)))
    return rows
