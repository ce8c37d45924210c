"""Residual networks (He et al., CVPR 2016) of torchvision's and of Caffe's flavour."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from person_search.errors import CheckpointError, UsageError
from person_search.models.backbones.backbone import CAFFE, IMAGENET, Backbone, Cut, Top, Trunk
from person_search.models.backbones.flavour import flavour_of
from person_search.models.backbones.weights import State, copy_weights, find_weights, torchvision_weights
from person_search.models.settings import ResNetSettings


@dataclass(frozen=True)
class Architecture:
    """Blocks of a residual network and where torchvision keeps its ImageNet weights."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    weights: str

    def trunk_depth(self, cut: Cut) -> int:
        """Blocks of layer3 that belong to the trunk."""
        return self.depths[2] if cut == "layer3" else self.depths[2] // 2


ARCHITECTURES = {
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2), "ResNet18_Weights"),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3), "ResNet34_Weights"),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3), "ResNet50_Weights"),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3), "ResNet101_Weights"),
}


def make_layer(
    block: type[BasicBlock | Bottleneck], inputs: int, planes: int, depth: int, *, stride: int, caffe: bool
) -> nn.Sequential:
    """``depth`` residual blocks; the first one strides. Caffe flavour strides on a bottleneck's first 1x1 conv."""
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = block(inputs, planes, stride, shortcut)
    if caffe and isinstance(first, Bottleneck):
        first.conv1.stride, first.conv2.stride = first.conv2.stride, first.conv1.stride
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(depth - 1)))


class ResNetTrunk(Trunk):
    """conv1, layer1, layer2 and ``depth`` blocks of layer3."""

    def __init__(self, architecture: Architecture, *, depth: int, width: float, caffe: bool):
        super().__init__()
        block, depths = architecture.block, architecture.depths
        planes = [scaled(64 * 2**i, width) for i in range(3)]
        inputs = [planes[0], planes[0] * block.expansion, planes[1] * block.expansion]
        self.conv1 = nn.Conv2d(3, planes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True) if caffe else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = make_layer(block, inputs[0], planes[0], depths[0], stride=1, caffe=caffe)
        self.layer2 = make_layer(block, inputs[1], planes[1], depths[1], stride=2, caffe=caffe)
        self.layer3 = make_layer(block, inputs[2], planes[2], depth, stride=2, caffe=caffe)
        self.channels = planes[2] * block.expansion
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H / 16, W / 16)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = self.run(layer, x)
        return x

    def stem_parts(self) -> list[nn.Module]:
        """The first convolution and its normalisation."""
        return [self.conv1, self.bn1]

    def first_stage_parts(self) -> list[nn.Module]:
        """Layer1, as detectors of torchvision freeze it."""
        return [self.layer1]


class ResNetTop(Top):
    """The rest of layer3, if the trunk left any, then layer4."""

    def __init__(self, architecture: Architecture, *, depth: int, width: float, caffe: bool):
        super().__init__()
        block, depths = architecture.block, architecture.depths
        c3, c4 = scaled(256, width), scaled(512, width)
        middle, left = c3 * block.expansion, depths[2] - depth
        self.layer3 = make_layer(block, middle, c3, left, stride=1, caffe=caffe) if left else nn.Identity()
        self.layer4 = make_layer(block, middle, c4, depths[3], stride=2, caffe=caffe)
        self.channels = c4 * block.expansion
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C4, h, w) -> (R, C5, ceil(h / 2), ceil(w / 2))."""
        return self.run(self.layer4, self.run(self.layer3, x))


class ResNet(Backbone):
    """Trunk: conv1 to the cut in layer3; top: the rest. Both are named as in torchvision, but for the top's layer3,
    whose blocks count from 0 again."""

    Settings = ResNetSettings

    def __init__(self, settings: ResNetSettings, *, cut: Cut):
        name, width, flavour, weights = settings.name, settings.width, settings.flavour, settings.weights
        architecture, caffe = ARCHITECTURES[name], flavour == "caffe"
        depth = architecture.trunk_depth(cut)
        self.normalisation = CAFFE if caffe else IMAGENET
        self.trunk = ResNetTrunk(architecture, depth=depth, width=width, caffe=caffe)
        self.top = ResNetTop(architecture, depth=depth, width=width, caffe=caffe)
        if weights != "none":
            state, source = find_weights(weights, backbone=name, imagenet=lambda: _imagenet(name, caffe=caffe))
            copy_weights(
                self.trunk,
                self.top,
                state,
                backbone=name,
                source=source,
                name_in_top=lambda own: re.sub(r"^layer3\.(\d+)", lambda m: f"layer3.{int(m[1]) + depth}", own),
            )
            _refuse_other_flavour(state, flavour, source)


def _refuse_other_flavour(state: State, flavour: str, source: str) -> None:
    found = flavour_of(state["conv1.weight"], state["bn1.running_mean"], state["bn1.running_var"])
    if found not in (None, flavour):
        peak = {"caffe": 255, "torchvision": 1}[found]
        raise CheckpointError(
            f"{source}: 'bn1.running_var' is that of pictures whose colours go to {peak}; use `flavour` {found}, or "
            f"weights of the flavour {flavour}"
        )


def _imagenet(name: str, *, caffe: bool) -> State:
    if caffe:
        raise UsageError(
            f"`weights` imagenet has torchvision's flavour; for `flavour` caffe give the file of {name}_caffe weights"
        )
    return torchvision_weights(ARCHITECTURES[name].weights)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions (He et al., ICCV 2015); BN starts as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
