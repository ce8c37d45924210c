"""Checkpoints of the public code of SeqNeXt and its gallery filter network (Jaffe and Zakhor, WACV 2023), in our names.

Both are of one project: a file of the filter network holds all that one of SeqNeXt holds, and more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from person_search.checkpoints.torchvision_names import (
    NETWORK,
    NOTHING,
    Rules,
    anchor_sizes,
    ready,
    renamed,
    table_sizes,
    taken,
)
from person_search.config import method_settings
from person_search.errors import CheckpointError, UsageError

PROJECT, PAPER = "SeqNeXt", "Jaffe and Zakhor, WACV 2023"
ALIASES: Rules = (
    (r"^roi_heads\.gfn\.", "gfn."),
    (r"^gfn\.query_reid_head\.", "roi_heads.reid_head."),
    (r"^gfn\.query_emb_head\.", "roi_heads.embedding_head."),
    (r"^gfn\.reid_loss\.", "roi_heads.reid_loss."),
    (r"^roi_heads\.box_head\.", "roi_heads.reid_head."),
)
"""Tensors that the file also has under another name; all apply, in this order."""
RENAMES: Rules = (
    # A ConvNeXt is numbered throughout, a ResNet has names.
    (r"^backbone\.body\.(\d)\.", r"trunk.features.\1."),
    (r"^backbone\.body\.", "trunk."),
    (r"^roi_heads\.prop_head\.head\.0\.(?=\d)", "detection_top.features.6."),
    (r"^roi_heads\.prop_head\.head\.1\.(?=\d)", "detection_top.features.7."),
    (r"^roi_heads\.prop_head\.head\.", "detection_top.layer4."),
    (r"^roi_heads\.reid_head\.head\.0\.(?=\d)", "top.features.6."),
    (r"^roi_heads\.reid_head\.head\.1\.(?=\d)", "top.features.7."),
    (r"^roi_heads\.reid_head\.head\.", "top.layer4."),
    (r"^roi_heads\.faster_rcnn_predictor\.", ""),
    (r"^roi_heads\.score_predictor\.", "refined_"),
    (r"^gfn\.head\.image_reid_head\.head\.0\.(?=\d)", "gallery_filter.parts.top.features.6."),
    (r"^gfn\.head\.image_reid_head\.head\.1\.(?=\d)", "gallery_filter.parts.top.features.7."),
    (r"^gfn\.head\.image_reid_head\.head\.", "gallery_filter.parts.top.layer4."),
    (
        r"^gfn\.head\.image_emb_head\.projectors\.feat_res([45])\.",
        r"gallery_filter.parts.projection.levels.C\1.",
    ),
    (r"^gfn\.fuser\.norm\.norm\.", "gallery_filter.norm."),
    *NETWORK,
)
CONVNEXT_STEM = "backbone.body.0.0.weight"
"""A tensor that tells which backbone the file is of."""
CONVNEXTS = {
    (96, 9): "convnext_tiny",
    (96, 27): "convnext_small",
    (128, 27): "convnext_base",
    (192, 27): "convnext_large",
}
"""By channels of the stem and blocks of the third stage."""


def rename(name: str) -> str:
    """Our name of a released tensor, the same for all of several names.

    Raises CheckpointError for a name that the layout does not have.
    """
    inner = name
    for pattern, replacement in ALIASES:
        inner = re.sub(pattern, replacement, inner)
    try:
        return renamed(inner, RENAMES, PROJECT)
    except CheckpointError:
        raise CheckpointError(f"tensor '{name}' is none of {PROJECT}'s") from None


def names(state: dict[str, Tensor]) -> dict[str, str | None]:
    """``rename`` for all of a state dict."""
    return {name: rename(name) for name in state}


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return "roi_heads.score_predictor.cls_score.weight" in state and any(
        name.startswith("roi_heads.prop_head.") for name in state
    )


def recognise(state: dict[str, Tensor], held: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Model settings that a released state dict shows, or the settings ``held`` beside it, and ``num_identities``.

    Raises CheckpointError where they show none, or contradict each other.
    """
    sizes = table_sizes(state, PROJECT)
    return {
        "method": "seqnext",
        "backbone": _backbone(state),
        "embedding_size": state["roi_heads.reid_loss.lut"].shape[1],
        **anchor_sizes(state, 5, 3),
        **_gallery_filter(state),
        **sizes,
        **_held_settings(state, held),
    }


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file.

    Raises CheckpointError for a strange name, and for two names of one tensor that hold different ones.
    """
    converted = taken(state, names(state), PROJECT)
    # A batch normalisation that was frozen as theirs are counts no batches.
    for name in [name for name in converted if name.endswith(".running_var")]:
        converted.setdefault(f"{name.removesuffix('running_var')}num_batches_tracked", torch.tensor(0))
    return ready(converted)


def evaluation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings count times their scores, every picture is looked at by itself, and a filter network is asked."""
    asked = {"gfn_scores": True} if settings.get("gfn") else {}
    return {"cws": True, "same_size_batches": True, **asked}


HELD = {
    "gfn_mode": ("gfn_objective",),
    "gfn_activation_mode": ("gfn_fusion",),
    "gfn_query_mode": ("gfn_query",),
    "gfn_train_temp": ("gfn_temperature",),
    "gfn_se_temp": ("gfn_gate_temperature",),
    "gfn_scene_pool_size": ("gfn_size",),
    "gfn_use_image_lut": ("gfn_memory",),
    "rpn_nms_thresh": ("rpn_nms",),
    "rpn_pre_nms_topn_test": ("rpn_pre_nms_test",),
    "rpn_post_nms_topn_test": ("rpn_post_nms_test",),
    "roi_head_score_thresh_test": ("first_score_threshold", "score_threshold"),
    "roi_head_nms_thresh_test": ("first_nms_threshold",),
    "roi_head_detections_per_image_test": ("first_max_detections", "max_detections"),
}
"""What such a file says under ``config``, and the settings of ours that it is."""
NOT_OURS = {"box_head_mode": "rcnn", "det_score": "scs", "emb_norm_type": "batchnorm"}
"""Of that, what is the same for all models here."""


def _held_settings(state: dict[str, Tensor], held: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings for what the file says under ``config``. Raises CheckpointError for what is out of range there."""
    for key, only in NOT_OURS.items():
        if held.get(key, only) != only:
            raise CheckpointError(f"its settings say {key} {held[key]!r}; only {only!r} can be computed here")
    found: dict[str, Any] = {}
    for key, ours in HELD.items():
        if key not in held or (key.startswith("gfn_") and not _has_filter(state)):
            continue
        settings = dict.fromkeys(ours, held[key])
        try:
            method_settings("seqnext", **settings)
        except UsageError as error:
            raise CheckpointError(f"its settings say {key} {held[key]!r}: {error}") from None
        found |= settings
    if _has_filter(state):
        says = {**_gallery_filter(state), "gfn_fusion": "se", **found}
        fuses = says["gfn_objective"] == "combined" and says["gfn_fusion"] != "identity"
        if fuses != _fuses(state):
            said = ", ".join(f"{key} {held[key]!r}" for key in ("gfn_mode", "gfn_activation_mode") if key in held)
            raise CheckpointError(
                f"its settings say {said}, but it holds {'no' if fuses else 'a'} normalisation of what a query sees of "
                "a scene, 'gfn.fuser.norm.'"
            )
    return found


def _has_filter(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(("gfn.head.", "roi_heads.gfn.head.")) for name in state)


def _gallery_filter(state: dict[str, Tensor]) -> dict[str, Any]:
    """Its settings, where there is one; how it fuses is in no tensor, but for whether it does."""
    if not _has_filter(state):
        return {}
    return {"gfn": True, "gfn_objective": "combined" if _fuses(state) else "separate"}


def _fuses(state: dict[str, Tensor]) -> bool:
    return any(name.startswith(("gfn.fuser.", "roi_heads.gfn.fuser.")) for name in state)


def _backbone(state: dict[str, Tensor]) -> str:
    stem = state.get(CONVNEXT_STEM)
    if stem is None:
        if "backbone.body.conv1.weight" in state:
            return "resnet50"
        raise CheckpointError(f"it looks like SeqNeXt, but holds no backbone: neither '{CONVNEXT_STEM}' nor a ResNet")
    depth = len({name.split(".")[3] for name in state if name.startswith("backbone.body.5.")})
    found = CONVNEXTS.get((len(stem), depth))
    if found is None:
        raise CheckpointError(
            f"it looks like SeqNeXt, but its backbone is no ConvNeXt of a known size: {len(stem)} channels in the "
            f"stem and {depth} blocks in the third stage"
        )
    return found
