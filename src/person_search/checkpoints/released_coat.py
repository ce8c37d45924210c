"""Checkpoints in the layout of COAT's public code (Yu et al., CVPR 2022): their names, in ours."""

from __future__ import annotations

import re
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
from person_search.errors import CheckpointError

PROJECT, PAPER = "COAT", "Yu et al., CVPR 2022"
ALIASES: tuple[tuple[str, str], ...] = (
    (r"^roi_heads\.box_head\.", "roi_heads.box_head_1st."),
    (r"^roi_heads\.box_predictor\.", "roi_heads.box_predictor_2nd."),
    (r"\.transformer\.0\.", ".transblock."),
)
"""The layout lists some tensors under two names."""

UNUSED = (
    r"\.transformer_encoder\.output_linear\.",
    r"^roi_heads\.box_head_1st\.conv0\.",
)

WITHIN: Rules = (
    (r"\.transformer_encoder\.blocks\.scale1\.0\.", ".scales.0."),
    (r"\.transformer_encoder\.blocks\.scale2\.0\.", ".scales.1."),
    (r"\.transblock\.attention\.(query|key|value)_embedding\.", r".block.attention.\1."),
    (r"\.transblock\.attention\.output_linear\.", ".block.attention.output."),
    (r"\.transblock\.ffn\.conv\.0\.", ".block.ffn.0."),
    (r"\.transblock\.ffn\.conv\.3\.", ".block.ffn.2."),
    (r"\.transblock\.norm", ".block.norm"),
    (r"\.vec2patch\.embedding\.", ".vec2patch."),
    (r"^(roi_heads\.box_head_...)\.conv0\.", r"\1.skip."),
    (r"^(roi_heads\.box_head_...)\.conv1\.", r"\1.reduce."),
    (r"^(roi_heads\.box_head_...)\.conv2\.", r"\1.expand."),
)
"""What is within the heads' transformers, of which all apply."""

HEADS = {"2nd": "second", "3rd": "third"}

RENAMES: Rules = (
    (r"^roi_heads\.box_head_1st\.", "first."),
    (r"^roi_heads\.box_predictor_1st\.", ""),
    *(
        (pattern.format(theirs), f"{ours}.{replacement}")
        for theirs, ours in HEADS.items()
        for pattern, replacement in (
            (r"^roi_heads\.box_head_{}\.", "transformers."),
            (r"^roi_heads\.box_predictor_{}\.bbox_pred\.", "bbox_pred."),
            (r"^roi_heads\.embedding_head_{}\.projectors\.before_trans\.", "projection.levels.C4."),
            (r"^roi_heads\.embedding_head_{}\.projectors\.after_trans\.", "projection.levels.C5."),
            (r"^roi_heads\.embedding_head_{}\.rescaler\.", "rescaler."),
            (r"^roi_heads\.reid_loss_{}\.lut$", "reid_loss.lut"),
            (r"^roi_heads\.reid_loss_{}\.cq$", "reid_loss.queue"),
        )
    ),
    *NETWORK,
)


def rename(name: str) -> str | None:
    """Our name of a released tensor, the same for both of two names; None for one that COAT does not use.

    Raises CheckpointError for a name that the layout does not have.
    """
    inner = name
    for pattern, replacement in ALIASES:
        inner = re.sub(pattern, replacement, inner)
    if any(re.search(pattern, inner) for pattern in UNUSED):
        return None
    if inner.startswith("roi_heads.box_head_"):
        for pattern, replacement in WITHIN:
            inner = re.sub(pattern, replacement, inner)
    try:
        return renamed(inner, RENAMES, PROJECT)
    except CheckpointError:
        raise CheckpointError(f"tensor '{name}' is none of COAT's") from None


def names(state: dict[str, Tensor]) -> dict[str, str | None]:
    """``rename`` for all of a state dict."""
    return {name: rename(name) for name in state}


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of such a checkpoint."""
    return any(name.startswith("roi_heads.box_head_2nd.") for name in state)


def recognise(state: dict[str, Tensor], held: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Model settings that a released state dict shows, and ``num_identities``.

    The softmax classifiers that helped in training are in no such file. Raises CheckpointError where it shows none.
    """
    second, third = (table_sizes(state, PROJECT, f"reid_loss_{head}") for head in HEADS)
    if second != third:
        raise CheckpointError(
            "it looks like COAT, but the tables of 'roi_heads.reid_loss_2nd' have "
            f"{second['num_identities']} identities and a queue of {second['oim_queue']}, those of "
            f"'roi_heads.reid_loss_3rd' {third['num_identities']} and {third['oim_queue']}; expected the same"
        )
    return {"method": "coat", "softmax_weight": 0, **anchor_sizes(state, 5, 3), **second}


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Its queues go on from the start: where they were is in no such file.

    Raises CheckpointError for a strange name, and for two names of one tensor that hold different ones.
    """
    return ready(taken(state, names(state), PROJECT), [f"{head}.reid_loss" for head in HEADS.values()])


def evaluation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Embeddings count times their scores, and every picture is looked at by itself."""
    return {"cws": True, "same_size_batches": True}
