"""Checkpoints in the layout of SeqNet's public code (Li and Miao, AAAI 2021): their names, in ours."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from person_search.errors import CheckpointError

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.", "trunk."),
    # torchvision renamed this layer in version 0.13.
    (r"^rpn\.head\.conv\.(?:0\.0\.)?", "rpn.head.conv."),
    (r"^rpn\.head\.", "rpn.head."),
    (r"^roi_heads\.box_head\.", "detection_top."),
    (r"^roi_heads\.reid_head\.", "top."),
    (r"^roi_heads\.faster_rcnn_predictor\.", ""),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "refined_bbox_pred."),
    (r"^roi_heads\.embedding_head\.projectors\.feat_res([45])\.", r"projection.levels.C\1."),
    (r"^roi_heads\.embedding_head\.rescaler\.", "rescaler."),
    (r"^roi_heads\.reid_loss\.cq$", "reid_loss.queue"),
    (r"^roi_heads\.reid_loss\.", "reid_loss."),
)


def rename(name: str) -> str:
    """Our name of a released tensor. Raises CheckpointError for a name that the layout does not have."""
    for pattern, replacement in RENAMES:
        ours, hits = re.subn(pattern, replacement, name)
        if hits:
            return ours
    raise CheckpointError(f"tensor '{name}' is none of SeqNet's")


def is_released(state: dict[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return {"roi_heads.embedding_head.rescaler.weight", "roi_heads.reid_loss.cq"} <= state.keys() and any(
        name.startswith("roi_heads.reid_head.") for name in state
    )


def recognise(state: dict[str, Tensor]) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    Raises CheckpointError where it shows none.
    """
    lut, queue = state.get("roi_heads.reid_loss.lut"), state["roi_heads.reid_loss.cq"]
    if lut is None or lut.ndim != 2 or len(lut) == 0:
        raise CheckpointError("it looks like SeqNet, but holds no identity table 'roi_heads.reid_loss.lut'")
    return {"method": "seqnet", "oim_queue": len(queue), "num_identities": len(lut)}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file."""
    converted = {rename(name): value for name, value in state.items()}
    return converted | {"reid_loss.queue_head": torch.zeros((), dtype=torch.int64)}
