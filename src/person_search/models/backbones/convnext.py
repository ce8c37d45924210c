"""ConvNeXt as torchvision has it (Liu et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torchvision.models.convnext import CNBlock, CNBlockConfig, ConvNeXt

from person_search.models.backbones.backbone import Backbone, Cut
from person_search.models.backbones.chain import ChainTop, ChainTrunk
from person_search.models.backbones.resnet import scaled
from person_search.models.backbones.stochastic_depth import StochasticDepth
from person_search.models.backbones.weights import copy_weights, find_weights, torchvision_weights
from person_search.models.settings import ConvNeXtSettings


@dataclass(frozen=True)
class Architecture:
    """Channels and blocks of the four stages, chance to leave out the last block, and torchvision's weights."""

    channels: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    stochastic_depth: float
    weights: str


ARCHITECTURES = {
    "convnext_tiny": Architecture((96, 192, 384, 768), (3, 3, 9, 3), 0.1, "ConvNeXt_Tiny_Weights"),
    "convnext_small": Architecture((96, 192, 384, 768), (3, 3, 27, 3), 0.4, "ConvNeXt_Small_Weights"),
    "convnext_base": Architecture((128, 256, 512, 1024), (3, 3, 27, 3), 0.5, "ConvNeXt_Base_Weights"),
    "convnext_large": Architecture((192, 384, 768, 1536), (3, 3, 27, 3), 0.5, "ConvNeXt_Large_Weights"),
}

C4_STAGE = 5
"""Place in torchvision's ``features`` of the stage with 16 pixels to a cell."""


class ConvNeXtBackbone(Backbone):
    """Trunk: ``features.0`` to the cut in ``features.5``; top: the rest. No normalisation follows either.

    Blocks are left out at random in training (stochastic depth), in the trunk by image, in the top by RoI.
    """

    Settings = ConvNeXtSettings

    def __init__(self, settings: ConvNeXtSettings, *, cut: Cut):
        name, width, weights = settings.name, settings.width, settings.weights
        architecture = ARCHITECTURES[name]
        network = build(architecture, width, settings.stochastic_depth)
        parts: dict[str, nn.Module] = {}
        for i, stage in enumerate(network.features):
            if i == C4_STAGE:
                parts |= {f"features.{i}.{j}": block for j, block in enumerate(stage)}
            else:
                parts[f"features.{i}"] = stage
        depth = architecture.depths[2]
        ends = C4_STAGE + (depth if cut == "layer3" else depth // 2)
        c4, c5 = (scaled(channels, width) for channels in architecture.channels[2:])
        self.trunk = ChainTrunk(dict(list(parts.items())[:ends]), channels=c4)
        self.top = ChainTop(dict(list(parts.items())[ends:]), channels=c5)
        # The convolution from C4 to C5 is 2 x 2 with stride 2: of a RoI 7 cells wide it would not read the last.
        self.top.even = True
        if weights != "none":
            state, source = find_weights(
                weights, backbone=name, imagenet=lambda: torchvision_weights(architecture.weights)
            )
            copy_weights(self.trunk, self.top, state, backbone=name, source=source)


def build(architecture: Architecture, width: float, stochastic_depth: float | None = None) -> ConvNeXt:
    """The whole network, with a classifier that is of no use here."""
    channels = [scaled(size, width) for size in architecture.channels]
    stages = [
        CNBlockConfig(size, following, depth)
        for size, following, depth in zip(channels, [*channels[1:], None], architecture.depths, strict=True)
    ]
    chance = architecture.stochastic_depth if stochastic_depth is None else stochastic_depth
    network = ConvNeXt(stages, chance, num_classes=1)
    for block in network.modules():
        if isinstance(block, CNBlock):
            block.stochastic_depth = StochasticDepth(block.stochastic_depth.p)
    return network
