"""Cutting a network where its stages end, by watching it run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from person_search.errors import first_line
from person_search.models.backbones.backbone import Cut
from person_search.models.backbones.call_tree import Call, blocks_of, chain_to, record_calls
from person_search.models.backbones.chain import ChainTop, ChainTrunk

PICTURE = (64, 96)
"""Height and width of the picture that a network is tried on: no square, so that the two tell apart."""

ROI = (14, 7)


def cut_in_two(network: Any, cut: Cut) -> tuple[ChainTrunk, ChainTop]:
    """Trunk and top of a network with ``feature_info`` and ``forward_features``, which is taken apart.

    Raises ValueError with the reason why it has none.
    """
    network.eval()
    picture = torch.randn(1, 3, *PICTURE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trunk, top = _cut(network, cut, picture)
        _try_other_sizes(trunk, top, picture)
    trunk.train()
    top.train()
    return trunk, top


def _cut(network: Any, cut: Cut, picture: Tensor) -> tuple[ChainTrunk, ChainTop]:
    c3, c4, c5 = _stages(network)
    try:
        calls = record_calls(network, network.forward_features, picture)
    except Exception as error:
        raise ValueError(f"it does not run on {PICTURE[0]} x {PICTURE[1]} pixels ({first_line(error)})") from None
    chain = chain_to(calls, [c3, c4, c5])
    names = [call.name for call in chain]
    start, end = names.index(c3) + 1, names.index(c4) + 1
    before, stage, after = chain[:start], chain[start:end], chain[end:]
    if cut == "layer3-half":
        parts = [block for part in stage for block in blocks_of(part)]
        # A stage may begin with parts that still have 8 pixels to a cell.
        first = next((i for i, part in enumerate(parts) if _is_map(part, 16)), 0)
        half = first + _half(parts[first:])
        before, after = [*before, *parts[:half]], [*parts[half:], *after]
    else:
        before = [*before, *stage]
    (trunk_end, trunk_channels), (top_end, top_channels) = (
        _layout(calls[-1], stride) for calls, stride in ((before, 16), (after, 32))
    )
    if trunk_end != top_end:
        raise ValueError(f"its channels come last in '{before[-1].name}' or '{after[-1].name}', but not in both")
    trunk = ChainTrunk(_parts(before), channels=trunk_channels, channels_end=trunk_end)
    top = ChainTop(_parts(after), channels=top_channels, channels_end=top_end)
    if not any(p.ndim > 1 for p in top.parameters()):
        raise ValueError(f"nothing with weights follows '{before[-1].name}'")
    expected = after[-1].output
    found = top(trunk(picture))
    if expected is None or not torch.allclose(found, expected.permute(0, 3, 1, 2) if top_end else expected, atol=1e-5):
        raise ValueError("its stages, run by themselves, give other features")
    return trunk, top


def _stages(network: Any) -> tuple[str, str, str]:
    """Names of the modules whose outputs have 8 (the last below 16), 16 and 32 pixels to a cell."""
    info = getattr(network, "feature_info", None)
    entries = list(getattr(info, "info", info) or [])
    found: dict[int, str] = {}
    for entry in entries:
        found[8 if entry["reduction"] < 16 else entry["reduction"]] = entry["module"]
    if not {8, 16, 32} <= found.keys():
        strides = ", ".join(str(stride) for stride in sorted({entry["reduction"] for entry in entries})) or "none"
        raise ValueError(f"its stages have {strides} pixels to a cell, wanted are stages up to 8, of 16 and of 32")
    return found[8], found[16], found[32]


def _half(parts: list[Call]) -> int:
    """After how many parts half of the blocks are done; the blocks are the kind of part with the most weights."""
    weights: Counter[type[nn.Module]] = Counter()
    for part in parts:
        weights[type(part.module)] += sum(p.numel() for p in part.module.parameters())
    ((kind, _),) = weights.most_common(1)
    places = [i for i, part in enumerate(parts) if type(part.module) is kind]
    return places[max(1, len(places) // 2) - 1] + 1


def _cells(stride: int) -> tuple[int, int]:
    """Height and width of the map of ``PICTURE`` with ``stride`` pixels to a cell."""
    return PICTURE[0] // stride, PICTURE[1] // stride


def _is_map(call: Call, stride: int) -> bool:
    shape = () if call.output is None else tuple(call.output.shape)
    return len(shape) == 4 and _cells(stride) in (shape[2:], shape[1:3])


def _layout(call: Call, stride: int) -> tuple[bool, int]:
    """Whether the channels of its output come last, and how many there are."""
    shape = () if call.output is None else tuple(call.output.shape)
    if not _is_map(call, stride):
        height, width = _cells(stride)
        raise ValueError(
            f"its part '{call.name}' gives {shape or 'no tensor'} of {PICTURE[0]} x {PICTURE[1]} pixels, "
            f"expected a map of {height} x {width}"
        )
    last = shape[2:] != _cells(stride)
    return last, shape[3 if last else 1]


def _parts(calls: list[Call]) -> dict[str, nn.Module]:
    return {call.name: call.module for call in calls}


def _try_other_sizes(trunk: ChainTrunk, top: ChainTop, picture: Tensor) -> None:
    """Raise ValueError unless trunk and top take what they are for; note what ``top`` needs for it."""
    try:
        features = trunk(picture.mT)
    except Exception as error:
        raise ValueError(f"it takes pictures of one size only ({first_line(error)})") from None
    if features.shape[2:] != (PICTURE[1] // 16, PICTURE[0] // 16):
        raise ValueError("its features do not follow the size of the picture")
    rois = features.new_zeros(1, trunk.channels, *ROI)
    wanted, found = (ROI[0] // 2, (ROI[1] + 1) // 2), []
    for top.even in (False, True):
        try:
            found.append(str(tuple(top(rois).shape[2:])))
        except Exception as error:
            found.append(first_line(error))
        if found[-1] == str(wanted):
            break
    else:
        raise ValueError(f"of a RoI of {ROI} cells it makes {found[-1]}, expected {wanted}")
    try:
        top(rois[:0])
    except RuntimeError:
        top.takes_none = False
