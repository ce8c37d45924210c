"""What a run may go on with: its own settings, and those of them that may be others than it began with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from person_search.config import Config, load_config, with_settings
from person_search.config.sections import differences, flat
from person_search.errors import UsageError

CONFIG_FILE = "config.yaml"

ACCEPTED = {
    "data_root": "data may lie elsewhere; that it is the same is seen by its fingerprint",
    "plugins": "modules are named otherwise where they moved; what they register is named by other settings",
    "workers": "who decodes, not what",
    "queries": "the test split's alone",
    "run_dir": "where the run lies now; not listed as a change",
    "batch_size": "the position is in images, so the rest of the epoch and all later ones are shown",
    "accumulate": "as batch_size",
    "devices": "as batch_size",
    "nodes": "as batch_size",
    "sync_batch_norm": "with it several processes normalise as one with their whole batch: goes with their number",
    "max_epochs": "more of them; fewer would move the decay to before where the run is (max_steps ends a run early)",
    "max_steps": "where to stop, from the steps taken on; no schedule depends on it",
    "device": "where, not what",
    "channels_last": "rounding alone",
    "compile": "rounding alone",
    "checkpoint_trunk": "rounding alone",
    "checkpoint_heads": "rounding alone",
    "max_skipped_steps": "when to give up, not what is trained",
    "checkpoint_every": "what is written, not what is trained; so are the next seven",
    "checkpoint_memory": "",
    "keep_checkpoints": "",
    "validate_every": "",
    "validate_epochs": "",
    "log_every": "",
    "display": "",
    "eval_batch_size": "",
    "same_size_batches": "rounding, and what padding changes at the border",
    "use_gt_boxes": "the final evaluation alone: validation leaves it out; so are the next six",
    "gallery_size": "",
    "cross_camera": "",
    "cbgm": "",
    "cbgm_k1": "",
    "cbgm_k2": "",
    "gfn_scores": "",
}
"""Settings that may change on resuming, and why."""

REFUSED = {
    **dict.fromkeys(
        ("dataset", "skip_unreadable", "validation_share", "mot_split", "mot_train_share", "seed"),
        "which images are shown, in which order",
    ),
    **dict.fromkeys(
        ("flip", "flip_at_random", "all_images"),
        "which images are shown, in which order",
    ),
    **dict.fromkeys(("person_id_key", "unlabelled_ids"), "who is who in them"),
    "group_by_aspect_ratio": "the order of images, in the middle of an epoch too",
    **dict.fromkeys(
        ("mot_min_gap", "detection_threshold", "search_threshold", "cws"),
        "what validation measures: best.pt is the best by one measure",
    ),
    "init_from": "the start, which is past",
    **dict.fromkeys(
        ("optimizer", "uni_optim", "lr", "reid_lr", "double_bias_lr", "momentum", "clip_grad", "precision"),
        "how a step changes the weights",
    ),
    **dict.fromkeys(("weight_decay", "reid_weight_decay", "decay_biases"), "how a step changes the weights"),
    **dict.fromkeys(
        ("lr_policy", "lr_decay_epochs", "reid_lr_decay_epochs", "lr_decay_factor"),
        "the schedule that the run is in the middle of",
    ),
    **dict.fromkeys(
        ("warmup_epochs", "warmup_steps", "warmup_mode", "warmup_factor"),
        "the schedule that the run is in the middle of",
    ),
}
"""Settings that must be what they were, and why: with others the result would be of neither. So must all of the model,
for weights and losses are of these, and what a plug-in's dataset has of its own."""

Changes = dict[str, tuple[Any, Any]]
"""Old and new value of the settings that differ, by name."""


def own_config(run_dir: Path) -> Config | None:
    """The settings that the run in ``run_dir`` wrote there; None where there are none. Raises UsageError.

    A run that knew no ``keep_checkpoints`` kept them all, and goes on so.
    """
    path = run_dir / CONFIG_FILE
    return load_config(path, over=with_settings(Config(), keep_checkpoints=None)) if path.is_file() else None


def changes_between(old: Config, new: Config) -> Changes:
    """What differs, the run folder's place excepted."""
    before, after = flat(old), flat(new)
    # Where another method or dataset is chosen, that says it all of what has its default, or is no setting, in either.
    set_in_one = differences(old, Config()).keys() | differences(new, Config()).keys()
    pairs = {key: (before[key], value) for key, value in after.items() if key in before and key in set_in_one}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and key != "run_dir"}


def refused(changes: Changes) -> Changes:
    """Those of ``changes`` that a run cannot go on with."""
    return {
        key: (old, new)
        for key, (old, new) in changes.items()
        if key not in ACCEPTED or (key == "max_epochs" and new < old)
    }


def check_changes(run_dir: Path, own: Config | None, config: Config) -> Changes:
    """What ``config`` changes of the settings ``own`` of a run with checkpoints.

    Raises UsageError with the list of what is not accepted, or where the run's settings are not known.
    """
    if own is None:
        raise UsageError(
            f"'{run_dir}' holds checkpoints but no {CONFIG_FILE}, whose settings resuming goes on with; put it back"
        )
    changes = changes_between(own, config)
    wrong = refused(changes)
    if wrong:
        listed = ", ".join(described(wrong))
        fewer = "; `max_steps` ends a run before its last epoch" if "max_epochs" in wrong else ""
        raise UsageError(
            f"cannot resume '{run_dir}' with other settings than it was trained with: {listed}; leave them as they "
            f"were, or start a new run in another `run_dir`{fewer}"
        )
    return changes


def described(changes: Changes) -> list[str]:
    """``name: old -> new`` of every change."""
    return [f"{key}: {_shown(old)} -> {_shown(new)}" for key, (old, new) in changes.items()]


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value)


def resume_command(run_dir: Path) -> str:
    """The command that goes on with the run in ``run_dir``, for a shell, however the run was started."""
    return f"person-search train --run-dir {shlex.quote(str(run_dir))} --resume"
