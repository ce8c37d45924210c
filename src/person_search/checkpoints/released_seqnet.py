"""Checkpoints in the layout of SeqNet's public code (Li and Miao, AAAI 2021): their names, in ours."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from person_search.checkpoints.torchvision_names import NETWORK, Rules, ready, renamed, table_sizes

RENAMES: Rules = (
    (r"^roi_heads\.box_head\.", "detection_top."),
    (r"^roi_heads\.reid_head\.", "top."),
    (r"^roi_heads\.faster_rcnn_predictor\.", ""),
    (r"^roi_heads\.box_predictor\.bbox_pred\.", "refined_bbox_pred."),
    *NETWORK,
)


def rename(name: str) -> str:
    """Our name of a released tensor. Raises CheckpointError for a name that the layout does not have."""
    return renamed(name, RENAMES, "SeqNet")


def is_released(state: dict[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return {"roi_heads.embedding_head.rescaler.weight", "roi_heads.reid_loss.cq"} <= state.keys() and any(
        name.startswith("roi_heads.reid_head.") for name in state
    )


def recognise(state: dict[str, Tensor]) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    Raises CheckpointError where it shows none.
    """
    return {"method": "seqnet", **table_sizes(state, "SeqNet")}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queue goes on from the start: where it was is in no such file."""
    return ready({rename(name): value for name, value in state.items()})
