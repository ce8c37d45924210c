"""Checkpoints in the layout of SeqNet's public code (Li and Miao, AAAI 2021): their names, in ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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

PROJECT, PAPER = "SeqNet", "Li and Miao, AAAI 2021"
RENAMES: Rules = (
    (r"^roi_heads\.box_head\.", "detection_top."),
    (r"^roi_heads\.reid_head\.", "top."),
    (r"^roi_heads\.faster_rcnn_predictor\.", ""),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "refined_bbox_pred."),
    *NETWORK,
)


def rename(name: str) -> str:
    """Our name of a released tensor. Raises CheckpointError for a name that the layout does not have."""
    return renamed(name, RENAMES, PROJECT)


def names(state: dict[str, Tensor]) -> dict[str, str | None]:
    """``rename`` for all of a state dict."""
    return {name: rename(name) for name in state}


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return {"roi_heads.embedding_head.rescaler.weight", "roi_heads.reid_loss.cq"} <= state.keys() and any(
        name.startswith("roi_heads.reid_head.") for name in state
    )


def recognise(state: dict[str, Tensor], held: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    Raises CheckpointError where it shows none.
    """
    return {"method": "seqnet", **anchor_sizes(state, 5, 3), **table_sizes(state, PROJECT)}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file."""
    return ready(taken(state, names(state), PROJECT))


def evaluation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings count times their scores, and every picture is looked at by itself."""
    return {"cws": True, "same_size_batches": True}
