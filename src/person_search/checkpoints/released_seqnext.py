"""Checkpoints of the public code of SeqNeXt and its gallery filter network (Jaffe and Zakhor, WACV 2023), in our names.

Both are of one project: a file of the filter network holds all that one of SeqNeXt holds, and more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from person_search.checkpoints.torchvision_names import NETWORK, Rules, ready, renamed, table_sizes
from person_search.errors import CheckpointError

ALIASES = (
    "roi_heads.box_head.",
    "roi_heads.gfn.",
    "gfn.query_reid_head.",
    "gfn.query_emb_head.",
    "gfn.reid_loss.",
)
"""Beginnings of names of tensors that the file also has under another name."""
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
    """Our name of a released tensor. Raises CheckpointError for a name that the layout does not have."""
    return renamed(name, RENAMES, "SeqNeXt")


def is_released(state: dict[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return "roi_heads.score_predictor.cls_score.weight" in state and any(
        name.startswith("roi_heads.prop_head.") for name in state
    )


def recognise(state: dict[str, Tensor]) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    Raises CheckpointError where it shows none.
    """
    sizes = table_sizes(state, "SeqNeXt")
    return {
        "method": "seqnext",
        "backbone": _backbone(state),
        "embedding_size": state["roi_heads.reid_loss.lut"].shape[1],
        **_gallery_filter(state),
        **sizes,
    }


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file."""
    converted = {rename(name): value for name, value in state.items() if not name.startswith(ALIASES)}
    # A batch normalisation that was frozen as theirs are counts no batches.
    for name in [name for name in converted if name.endswith(".running_var")]:
        converted.setdefault(f"{name.removesuffix('running_var')}num_batches_tracked", torch.tensor(0))
    return ready(converted)


def _gallery_filter(state: dict[str, Tensor]) -> dict[str, Any]:
    """Its settings, where there is one; how it fuses is in no file, but for whether it does."""
    if not any(name.startswith("gfn.head.") for name in state):
        return {}
    fuses = any(name.startswith("gfn.fuser.") for name in state)
    return {"gfn": True, "gfn_objective": "combined" if fuses else "separate"}


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
