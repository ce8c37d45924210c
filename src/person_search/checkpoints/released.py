"""Checkpoints that the reference implementation of the baseline released: their names, in ours.

Names and shapes are facts of those files; the methods are OIM, NAE and the baseline (see the method modules).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from person_search.checkpoints.torchvision_names import NOTHING, anchor_sizes, taken
from person_search.errors import CheckpointError

PROJECT, PAPER = (
    "the reference implementation",
    "the strong baseline; OIM, Xiao et al., CVPR 2017; NAE, Chen et al., CVPR 2020",
)
RENAMES: tuple[tuple[str, str], ...] = (
    (r"^backbone\.conv1\.0\.", "trunk.conv1."),
    (r"^backbone\.conv1\.1\.", "trunk.bn1."),
    (r"^backbone\.conv2\.", "trunk.layer1."),
    (r"^backbone\.conv3\.", "trunk.layer2."),
    (r"^backbone\.conv4_3\.", "trunk.layer3."),
    (r"^(?:RPN|rpn)\.head\.", "rpn.head."),
    (r"^RCNN\.box_head\.conv1\.0\.", "box_head.conv."),
    (r"^RCNN\.box_head\.conv1\.1\.", "box_head.bn."),
    (r"^RCNN\.box_head\.fc2\.", "box_head.fc."),
    (r"^(?:RCNN|roi_heads)\.box_predictor\.", ""),
    (r"^(?:reid_head\.extractor|roi_heads\.box_head)\.top\.conv4_4\.", "top.layer3."),
    (r"^(?:reid_head\.extractor|roi_heads\.box_head)\.top\.conv5\.", "top.layer4."),
    (r"^reid_head\.extractor\.projectors\.", "neck.levels."),
    (r"^roi_heads\.embedding_head\.projectors\.", "projection.levels."),
    (r"^roi_heads\.embedding_head\.rescaler\.", "rescaler."),
    (r"^reid_head\.criterion\.(C[45])\.classifier\.", r"reid_loss.\1."),
    (r"^roi_heads\.reid_loss\.classifier\.", "reid_loss."),
)
RESCALER = "roi_heads.embedding_head.rescaler.weight"
"""Of what it tells methods by, what NAE alone has."""
OIM_BUFFERS = {"weight": "lut", "unlabeled_queue": "queue", "unlabeled_input_count": "queue_count"}


def rename(name: str) -> str | None:
    """Our name of a released tensor (OIM re-ID loss); None for one that has no use here."""
    for pattern, replacement in RENAMES:
        ours, hits = re.subn(pattern, replacement, name)
        if not hits:
            continue
        if ours.startswith("reid_loss."):
            head, _, leaf = ours.rpartition(".")
            return f"{head}.{OIM_BUFFERS[leaf]}" if leaf in OIM_BUFFERS else None
        return ours
    raise CheckpointError(f"tensor '{name}' belongs to no known method")


def names(state: dict[str, Tensor]) -> dict[str, str | None]:
    """``rename`` for all of a state dict, whichever its re-ID loss is."""
    softmax, normed = recognise(state)["reid_loss"] == "softmax", RESCALER in state
    found = {name: rename(name) for name in state}
    for name, ours in found.items():
        if ours is not None and normed and ours.startswith("cls_score"):
            # A classifier that its NAE makes and never asks.
            found[name] = None
        elif ours is not None and softmax and ours.endswith(".lut"):
            found[name] = ours.removesuffix("lut") + "classifier.weight"
    return found


def is_released(state: Mapping[str, Any]) -> bool:
    """Whether these are the tensor names of a released checkpoint."""
    return any(name.startswith("backbone.conv4_3.") for name in state)


def recognise(state: dict[str, Tensor], held: Mapping[str, Any] = NOTHING) -> dict[str, Any]:
    """Model settings that a released state dict shows: method, levels, re-ID loss, and ``num_identities``.

    Raises CheckpointError where it shows no method, or contradicts itself.
    """
    tables = [value for name, value in state.items() if name.endswith("classifier.weight")]
    if not tables:
        raise CheckpointError("it holds no identity table or classifier")
    identities = sorted({len(table) if table.ndim else 0 for table in tables})
    if len(identities) > 1 or identities == [0]:
        raise CheckpointError(
            f"its identity tables have {' and '.join(map(str, identities))} rows; expected one number"
        )
    if any(name.startswith("reid_head.") for name in state):
        method, embeds = "baseline", "reid_head.extractor.projectors.{}.weight"
    else:
        method = "nae" if RESCALER in state else "oim"
        embeds = "roi_heads.embedding_head.projectors.{}.0.weight"
    levels = tuple(level for level in ("C4", "C5") if embeds.format(level) in state)
    if levels not in {("C5",), ("C4", "C5")}:
        raise CheckpointError(f"it looks like {method}, but holds no '{embeds.format('C5')}'")
    queue = next((len(value) for name, value in state.items() if name.endswith("unlabeled_queue")), None)
    return {
        "method": method,
        "flavour": "caffe",
        "levels": levels,
        "reid_loss": "softmax" if queue is None else "oim",
        **({} if queue is None else {"oim_queue": queue}),
        **anchor_sizes(state, 5 if method == "nae" else 3, 2),
        "num_identities": identities[0],
    }


def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict with our names. Raises CheckpointError for a name that no known method has."""
    converted = taken(state, names(state), PROJECT)
    return {name: value.reshape(()) if name.endswith("queue_count") else value for name, value in converted.items()}


def evaluation_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the published numbers are our defaults."""
    return {}
