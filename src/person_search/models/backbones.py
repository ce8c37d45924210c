"""ResNet cut in two: a trunk shared by the whole picture (to C4) and a top that runs on each RoI (C4 to C5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint
from torchvision import models as zoo
from torchvision.models.resnet import BasicBlock, Bottleneck

from person_search.errors import CheckpointError, UsageError, first_line

STRIDE = 16
"""Pixels of the picture per C4 cell."""


@dataclass(frozen=True)
class Architecture:
    """Blocks of a residual network (He et al., CVPR 2016) and where torchvision keeps its ImageNet weights."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    weights: str

    @property
    def trunk_depth(self) -> int:
        """Blocks of layer3 that belong to the trunk."""
        return self.depths[2] // 2


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


class Trunk(nn.Module):
    """conv1, layer1, layer2 and the first half of layer3: (B, 3, H, W) -> C4, (B, channels, H / 16, W / 16).

    With ``recompute`` the layers' inner activations are not kept for the gradient but computed again when it needs
    them (Chen et al., 2016): less memory for a third more work.
    """

    recompute = False

    def __init__(self, architecture: Architecture, *, width: float = 1.0, caffe: bool = False):
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
        self.layer3 = make_layer(block, inputs[2], planes[2], architecture.trunk_depth, stride=2, caffe=caffe)
        self.channels = planes[2] * block.expansion
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H / 16, W / 16)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for layer in (self.layer1, self.layer2, self.layer3):
            if self.recompute and torch.is_grad_enabled():
                contexts = partial(_once_counted, layer)
                x = checkpoint(layer, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
            else:
                x = layer(x)
        return x


class Top(nn.Module):
    """The rest of layer3, then layer4: RoI features (R, C4, 14, 7) -> (R, C5, 7, 4)."""

    def __init__(self, architecture: Architecture, *, width: float = 1.0, caffe: bool = False):
        super().__init__()
        block, depths = architecture.block, architecture.depths
        c3, c4 = scaled(256, width), scaled(512, width)
        middle = c3 * block.expansion
        self.layer3 = make_layer(block, middle, c3, depths[2] - architecture.trunk_depth, stride=1, caffe=caffe)
        self.layer4 = make_layer(block, middle, c4, depths[3], stride=2, caffe=caffe)
        self.channels = c4 * block.expansion
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C4, h, w) -> (R, C5, ceil(h / 2), ceil(w / 2))."""
        return self.layer4(self.layer3(x))


def _once_counted(layer: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and the second computation of ``layer``: only the first moves running statistics."""
    return nullcontext(), _unmoved([part for part in layer.modules() if isinstance(part, _BatchNorm)])


@contextmanager
def _unmoved(norms: list[_BatchNorm]) -> Iterator[None]:
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    counts = [None if count is None else count.clone() for _, _, count in before]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum, count), noted in zip(before, counts, strict=True):
            norm.momentum = momentum
            if count is not None and noted is not None:
                count.copy_(noted)


def scaled(channels: int, width: float) -> int:
    """``channels`` times ``width``, a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions (He et al., ICCV 2015); BN starts as the identity."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


def load_backbone_weights(trunk: Trunk, top: Top, *, backbone: str, weights: str, flavour: str) -> None:
    """Start ``trunk`` and ``top`` from ``weights``: ``"imagenet"``, ``"none"`` or a file of ResNet weights.

    A file is a state dict with torchvision's names (``conv1.weight``, ``layer1.0.conv1.weight``, ...), by itself or
    under ``state_dict`` or ``model``. Raises UsageError or CheckpointError, each saying which file goes where.
    """
    if weights == "none":
        return
    if weights == "imagenet":
        if flavour == "caffe":
            raise UsageError(
                "--weights imagenet has torchvision's flavour; "
                f"for --flavour caffe give the file of {backbone}_caffe weights"
            )
        state = _download(backbone)
        source = f"ImageNet weights of {backbone}"
    else:
        state = _read(Path(weights))
        source = f"weights file '{weights}'"
    load_resnet_state(trunk, top, state, depth=ARCHITECTURES[backbone].trunk_depth, source=source)


def load_resnet_state(trunk: Trunk, top: Top, state: dict[str, Tensor], *, depth: int, source: str) -> None:
    """Copy a whole ResNet's state dict into its two halves. Raises CheckpointError for missing or misshapen tensors."""
    parts: dict[str, dict[str, Tensor]] = {"trunk": {}, "top": {}}
    for name, value in state.items():
        block = re.match(r"layer3\.(\d+)\.(.*)", name)
        if block and int(block[1]) >= depth:
            parts["top"][f"layer3.{int(block[1]) - depth}.{block[2]}"] = value
        elif name.startswith("layer4."):
            parts["top"][name] = value
        elif not name.startswith("fc."):
            parts["trunk"][name] = value
    for half, module in (("trunk", trunk), ("top", top)):
        own = module.state_dict()
        for name, value in own.items():
            given = parts[half].get(name)
            if given is None and name.endswith("num_batches_tracked"):
                parts[half][name] = value
            elif given is None:
                raise CheckpointError(f"{source}: tensor '{name}' ({half}) is missing; is it of another backbone?")
            elif given.shape != value.shape:
                raise CheckpointError(
                    f"{source}: '{name}' ({half}) has shape {tuple(given.shape)}, expected {tuple(value.shape)}; "
                    "backbone and width must be those of the weights"
                )
        module.load_state_dict({name: parts[half][name] for name in own})


def _download(backbone: str) -> dict[str, Tensor]:
    weights = getattr(zoo, ARCHITECTURES[backbone].weights).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        name = weights.url.rsplit("/", 1)[-1]
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"cannot download ImageNet weights ({error}); put the file {name} into {folder}, "
            "or use --weights FILE or --weights none"
        ) from None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"--weights: no file '{path}' (known names: imagenet, none)") from None
    except Exception as error:
        raise CheckpointError(
            f"weights file '{path}' cannot be read as a PyTorch state dict: {first_line(error)}"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"weights file '{path}' holds no state dict of tensors")
    return {name.removeprefix("module."): value for name, value in content.items()}
