"""Settings as version 0.1.0 wrote them: all in one list for every method, in ``config.yaml`` and in checkpoints."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any, get_args

from person_search.config.sections import Section, merged, nested
from person_search.errors import UsageError

log = logging.getLogger(__name__)

OLD_MODEL_SETTINGS: dict[str, Any] = {
    "backbone": "resnet50",
    "width": 1.0,
    "flavour": "torchvision",
    "weights": "imagenet",
    "reid_loss": "oim",
    "shorter_side": (600,),
    "longer_side": 1000,
    "anchor_sizes": None,
    "anchor_ratios": (1.0, 2.0),
    "rpn_fg_iou": 0.7,
    "rpn_bg_iou": 0.3,
    "rpn_batch_per_image": 256,
    "rpn_positive_share": 0.5,
    "rpn_nms": 0.7,
    "rpn_pre_nms_train": 12000,
    "rpn_pre_nms_test": 6000,
    "rpn_post_nms_train": 2000,
    "rpn_post_nms_test": 300,
    "roi_fg_iou": 0.5,
    "roi_batch_per_image": 64,
    "roi_positive_share": 0.5,
    "pk_sampling": True,
    "pk_per_person": 4,
    "reid_loss_weight": 0.5,
    "oim_scale": 30.0,
    "oim_momentum": 0.5,
    "oim_queue": None,
    "freeze": None,
    "score_threshold": 0.05,
    "nms_threshold": 0.4,
    "max_detections": 100,
    "cws": False,
}
"""Settings of the model that version 0.1.0 had side by side, without sections, and their defaults then."""

NONE_WAS_METHOD_DEFAULT = ("anchor_sizes", "box_loss_weight", "freeze")
"""Those for which None stood for the default of the method."""

OLD_DATA_SETTINGS: dict[str, Any] = {
    "queries": "standard",
    "mot_split": "time",
    "mot_train_share": 0.5,
    "mot_min_gap": 5.0,
}
"""Settings that every dataset had in version 0.1.0, and now only one has, and their defaults then."""


def migrated(
    tree: Mapping[str, Any], defaults: Section, source: str, *, owner_sentence: Callable[[str], str]
) -> dict[str, Any]:
    """``tree``, if version 0.1.0 wrote it, in the sections of today; else as it is.

    The version wrote the settings of all methods, losses and datasets: what is of no effect with those named is left
    out, and said where it was no default. Raises UsageError where a person wrote such a setting, and where one is given
    in the old place and in the new one.

    Args:
        tree: of a whole config.
        defaults: the default config.
        source: what errors and warnings call the tree.
        owner_sentence: says, in a sentence, of which method, dataset or loss a setting is.
    """
    tree = dict(tree)
    model, data = tree.get("model"), tree.get("data")
    if isinstance(data, dict) and OLD_DATA_SETTINGS.keys() <= data.keys():
        tree["data"] = _migrated_section(
            data,
            ("data",),
            {**OLD_DATA_SETTINGS, "person_id_key": None},
            defaults,
            source,
            owner_sentence,
            by_program=True,
        )
    if not isinstance(model, dict):
        return tree
    by_program = OLD_MODEL_SETTINGS.keys() <= model.keys()
    if "cws" in model:
        cws = {"evaluation": {"cws": model["cws"]}}
        model = {key: value for key, value in model.items() if key != "cws"}
        evaluation = tree.get("evaluation")
        tree = {**tree, **merged(cws, {"evaluation": {} if evaluation is None else evaluation})}
    model = {
        key: value
        for key, value in model.items()
        if value is not None or not _none_was_method_default(key, model, defaults)
    }
    tree["model"] = _migrated_section(
        model, ("model",), OLD_MODEL_SETTINGS, defaults, source, owner_sentence, by_program=by_program
    )
    return tree


def _none_was_method_default(key: str, model: Mapping[str, Any], defaults: Section) -> bool:
    """Whether None of ``key`` stands for the default of the method in ``model``, and is no value that it may have."""
    if key not in NONE_WAS_METHOD_DEFAULT:
        return False
    kinds = type(defaults.model).kinds  # type: ignore[attr-defined]
    method = model.get("method")
    if not isinstance(method, str) or not kinds.knows(method):
        return True
    field = kinds.settings(method).model_fields.get(key)
    return field is None or type(None) not in get_args(field.annotation)


def _migrated_section(
    values: Mapping[str, Any],
    path: tuple[str, ...],
    old: Mapping[str, Any],
    defaults: Section,
    source: str,
    owner_sentence: Callable[[str], str],
    *,
    by_program: bool,
) -> dict[str, Any]:
    """``values`` of one section with the settings ``old``, flat there, in their places.

    ``by_program``: by the version itself, which wrote them all, and not by a person, who meant each.
    """
    flat = {key: value for key, value in values.items() if key in old and not isinstance(value, dict)}
    rest = {key: value for key, value in values.items() if key not in flat}
    if not flat:
        return rest
    choosing = {key: value for key, value in rest.items() if isinstance(value, str)}
    try:
        nested_tree, used = nested({**choosing, **flat}, defaults)
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from None
    unused = sorted(flat.keys() - used)
    if unused and not by_program:
        raise UsageError(f"{source}: '{path[0]}.{unused[0]}' is of no effect here.{owner_sentence(unused[0])}")
    for key in unused:
        if _as_tuple(flat[key]) != _as_tuple(old[key]):
            _warn(
                f"{source}: '{key}: {flat[key]}', which version 0.1.0 wrote for all, is of no effect here and left out."
                f"{owner_sentence(key)}"
            )
    moved = nested_tree.get(path[0], {})
    twice = next((key for key in rest if isinstance(rest[key], dict) and key in moved), None)
    if twice is not None:
        raise UsageError(
            f"{source}: '{path[0]}.{twice}' is given as a section and, as version 0.1.0 had it, setting by setting; "
            "give it once"
        )
    return merged(moved, rest)


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@functools.cache
def _warn(line: str) -> None:
    log.warning("%s", line)
