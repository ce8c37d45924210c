"""From settings to a finished training: what is checked, opened and built before the first step."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from person_search.checkpoints.checkpoint import (
    Checkpoint,
    start_from,
)
from person_search.checkpoints.loading import find_and_open
from person_search.config import Config, with_settings
from person_search.data.catalogue import notes_of, open_dataset
from person_search.data.scene import Dataset, Split
from person_search.data.size_checks import check_sizes
from person_search.data.workers import lost_workers_named
from person_search.evaluation.rescoring import refuse_what_is_not_predicted
from person_search.models.acceleration import accelerate
from person_search.models.building import build_model
from person_search.runtime.distributed import errors_on_all_ranks, rank
from person_search.runtime.fabric import start_fabric
from person_search.runtime.launch import name_lost_ranks
from person_search.runtime.processes import device_kind, process_counts
from person_search.runtime.stopping import InterruptedRunError
from person_search.training.resuming import (
    changes_between,
    check_changes,
    described,
    own_config,
)
from person_search.training.run import Run, TrainingOutcome
from person_search.training.run_folder import (
    agree_on_start,
    how_to_go_on,
    make_run_folder,
    note_aspect_ratios,
    note_unreadable,
    open_run,
    scenes_to_train_on,
    trained_with,
    wanted_scenes,
    write_config,
)
from person_search.training.validation import Validation, training_and_validation

log = logging.getLogger(__name__)


def train(
    config: Config, *, resume: bool = False, dataset: Dataset | None = None, show_progress: bool = True
) -> TrainingOutcome:
    """Train as ``config`` says, in ``run_dir``; with ``resume`` continue from its newest good checkpoint.

    On a CPU a resumed run with the same settings ends with the same weights, bit for bit, as one that was never
    interrupted; ``training.resuming`` says which settings may be others. ``dataset`` stands in for the one that the
    config names. With several devices this process becomes their launcher and ends with SystemExit: each runs the
    program from its beginning, and the call returns there. Raises UsageError before any work for what cannot be done,
    DataError, CheckpointError, LostProcessError where one of several processes ended, and InterruptedRunError after
    Ctrl-C or SIGTERM, which says what is kept: after the first of them a checkpoint is written.
    """
    try:
        return _train(config, resume, dataset, show_progress)
    except KeyboardInterrupt:
        stopped = InterruptedRunError(f"stopped at once. {how_to_go_on(config.training.run_dir)}")
        stopped.shown_elsewhere = rank() > 0
        raise stopped from None


def _train(config: Config, resume: bool, dataset: Dataset | None, show_progress: bool) -> TrainingOutcome:
    device_kind(config.training)
    run_dir = config.training.run_dir
    # A launcher's processes are the run's: the command that resumes it starts as many.
    config = with_settings(config, **dict(zip(("devices", "nodes"), process_counts(config.training), strict=True)))
    start = open_run(run_dir, resume=resume)
    own = own_config(run_dir) if resume else None
    if start and own:
        own = trained_with(*start) or own
    changes = check_changes(run_dir, own, config) if start else changes_between(own or config, config)
    dataset = dataset or open_dataset(config)
    split, validation = training_and_validation(dataset, config)
    # A model without identities cannot be built, and would say so without naming the data.
    wanted_scenes(split, all_images=config.training.all_images)
    with name_lost_ranks(lambda: how_to_go_on(run_dir)), lost_workers_named():
        fabric, scaler = start_fabric(config.training)
        with errors_on_all_ranks():
            agree_on_start(start)
            if fabric.is_global_zero:
                if resume and start is None:
                    log.warning("'%s' holds no checkpoint to resume from; the run starts at the beginning", run_dir)
                for line in described(changes):
                    log.warning("resuming with %s", line)
                for line in notes_of(dataset, split, *([validation.split] if validation else [])):
                    log.warning("%s", line)
                for checked in (split, *([validation.split] if validation else [])):
                    check_sizes(checked)
                make_run_folder(run_dir)
                every = config.training.all_images
                if config.data.skip_unreadable:
                    note_unreadable(run_dir, split, wanted_scenes(split, all_images=every), config.data.workers)
                if config.training.group_by_aspect_ratio:
                    note_aspect_ratios(run_dir, split, scenes_to_train_on(run_dir, split, all_images=every))
        with errors_on_all_ranks():
            run = _prepare(config, fabric, scaler, split, validation, start, began_with=own or config)
            if fabric.is_global_zero:
                # Not before: settings that a run cannot go on with must not take the place of its own.
                write_config(run_dir, config)
        return run.fit(show_progress=show_progress and fabric.is_global_zero)


def _prepare(
    config: Config,
    fabric: Any,
    scaler: torch.amp.GradScaler | None,
    split: Split,
    validation: Validation | None,
    start: tuple[Path, Checkpoint] | None,
    *,
    began_with: Config,
) -> Run:
    """The run at its start, or where ``start``, trained with the settings ``began_with``, left it."""
    torch.manual_seed(config.training.seed)
    first = config.training.init_from if start is None else None
    load_weights = start is None and first is None
    model = build_model(config.model, split.num_identities, load_weights=load_weights)
    refuse_what_is_not_predicted(config.evaluation, model.optional_arrays(), "the model")
    if first is not None:
        path, checkpoint = find_and_open(first)
        start_from(model, checkpoint, path)
    accelerate(model, config.training)
    run = Run(config, fabric, scaler, model, split, validation)
    if start is not None:
        run.restore(*start, began_with=began_with)
    return run
