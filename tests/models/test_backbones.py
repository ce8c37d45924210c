"""Every family of backbones gives a method the same things: trunk, tops, strides, freezing, recomputing."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import pytest
import torch
from named_backbones import named_backbone
from torch import Tensor, nn
from torchvision import models as zoo

from person_search.config import method_settings
from person_search.data.target import Target
from person_search.errors import UsageError
from person_search.models.backbones.backbone import CAFFE, IMAGENET, Backbone, Cut, batch_norms
from person_search.models.backbones.chain import ChainTop
from person_search.models.backbones.convnext import ARCHITECTURES
from person_search.models.backbones.convnext import build as build_convnext
from person_search.models.backbones.resnet import ResNet
from person_search.models.backbones.timm_network import PREFIX, create, cut_in_two
from person_search.models.building import build_model
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.settings import ResNetSettings
from person_search.registry import backbones

LITE0, SWIN = "timm:tf_efficientnet_lite0", "timm:swin_tiny_patch4_window7_224"
FAMILIES = {"resnet18": 0.125, "convnext_tiny": 0.125, LITE0: 1.0, SWIN: 1.0}
"""One network of each family, and its width."""

CUTS: tuple[Cut, ...] = ("layer3", "layer3-half")


def width_of(name: str) -> dict[str, float]:
    return {} if name.startswith(PREFIX) else {"width": FAMILIES[name]}


@functools.cache
def built(name: str, cut: Cut) -> Backbone:
    """Made once, for tests that leave its weights as they are."""
    torch.manual_seed(0)
    backbone = named_backbone(name, cut=cut, **width_of(name))
    backbone.trunk.eval()
    return backbone


def fresh(name: str, cut: Cut) -> Backbone:
    """For tests that train it."""
    return copy.deepcopy(built(name, cut))


def picture(number: int, height: int, width: int) -> Tensor:
    return torch.randn(number, 3, height, width, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_a_trunk_has_16_pixels_to_a_cell_and_a_top_halves_rois_of_any_number(name: str, cut: Cut) -> None:
    backbone = built(name, cut)
    trunk, top = backbone.trunk, backbone.make_top().eval()
    assert trunk.stride == 16
    with torch.no_grad():
        assert trunk(picture(2, 96, 160)).shape == (2, trunk.channels, 6, 10)
        for number in (0, 1, 3):
            assert top(torch.zeros(number, trunk.channels, 14, 7)).shape == (number, top.channels, 7, 4)
        assert top(torch.zeros(1, trunk.channels, 14, 14)).shape == (1, top.channels, 7, 7)


@pytest.mark.parametrize("name", FAMILIES)
def test_no_rois_reach_every_weight_of_a_top_and_move_no_statistics(name: str) -> None:
    """Other processes wait for the gradients, though they are zero."""
    top = built(name, "layer3").make_top().train()
    before = {key: value.clone() for key, value in top.named_buffers()}
    features = torch.zeros(0, built(name, "layer3").trunk.channels, 14, 7, requires_grad=True)
    top(features).sum().backward()
    assert features.grad is not None
    assert all(p.grad is not None and not p.grad.any() for p in top.parameters())
    assert all(torch.equal(value, before[key]) for key, value in top.named_buffers() if "running" in key)


def test_the_row_that_stands_for_no_rois_moves_no_statistics() -> None:
    """Where a network cannot run on nothing, and has batch normalisations."""
    top = ChainTop({"stage": nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4))}, channels=4).train()
    top.takes_none = False
    before = {key: value.clone() for key, value in top.named_buffers()}
    found = top(torch.zeros(0, 2, 14, 7))
    assert found.shape == (0, 4, 7, 4)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in top.parameters())
    assert all(torch.equal(value, before[key]) for key, value in top.named_buffers())
    top(torch.ones(1, 2, 14, 7))
    assert top.stage[1].num_batches_tracked == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_picture_and_a_roi_have_the_same_features_alone_and_beside_others(name: str) -> None:
    backbone = built(name, "layer3-half")
    trunk, top = backbone.trunk, backbone.make_top().eval()
    pictures = picture(3, 64, 96)
    with torch.no_grad():
        together = trunk(pictures)
        torch.testing.assert_close(trunk(pictures[1:2]), together[1:2], atol=1e-4, rtol=1e-4)
        rois = torch.cat([together[:, :, :, :4]] * 2)
        torch.testing.assert_close(top(rois[2:3]), top(rois)[2:3], atol=1e-4, rtol=1e-4)


def test_tops_start_alike_and_share_nothing() -> None:
    backbone = named_backbone("resnet18", cut="layer3", width=0.125)
    one, other = backbone.make_top(), backbone.make_top()
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with torch.no_grad():
        next(one.parameters()).fill_(7.0)
    assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert torch.equal(next(other.parameters()), next(backbone.make_top().parameters()))


def test_a_resnet_cut_either_way_is_the_network_of_torchvision(tmp_path) -> None:
    torch.manual_seed(0)
    whole = zoo.resnet18().eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    wanted = nn.Sequential(*list(whole.children())[:-2])(picture(1, 64, 96))
    for cut, blocks in (("layer3", (2, 0)), ("layer3-half", (1, 1))):
        backbone = named_backbone("resnet18", cut=cut, weights=str(tmp_path / "whole.pth"))
        top = backbone.make_top().eval()
        assert (len(backbone.trunk.layer3), len(list(top.layer3.children()))) == blocks
        torch.testing.assert_close(top(backbone.trunk.eval()(picture(1, 64, 96))), wanted)


def test_a_convnext_cut_either_way_is_the_network_of_torchvision(tmp_path) -> None:
    torch.manual_seed(0)
    whole = build_convnext(ARCHITECTURES["convnext_tiny"], 0.125).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    wanted = whole.features(picture(1, 64, 96))
    for cut, blocks in (("layer3", 9), ("layer3-half", 4)):
        backbone = named_backbone("convnext_tiny", cut=cut, width=0.125, weights=str(tmp_path / "whole.pth"))
        assert sum(name.startswith("features.5.") for name in backbone.trunk.chain) == blocks
        torch.testing.assert_close(backbone.make_top().eval()(backbone.trunk.eval()(picture(1, 64, 96))), wanted)


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_small", "convnext_base", "convnext_large"])
def test_convnexts_have_torchvisions_names_and_sizes(name: str) -> None:
    with torch.device("meta"):
        theirs = getattr(zoo, name)()
        ours = build_convnext(ARCHITECTURES[name], 1.0)
    shapes = [{k: v.shape for k, v in net.features.state_dict().items()} for net in (theirs, ours)]
    assert shapes[0] == shapes[1]
    chances = [[part.p for part in net.modules() if hasattr(part, "p")] for net in (theirs, ours)]
    assert chances[0] == chances[1]


def test_a_convnext_reads_the_last_column_of_a_roi_seven_cells_wide() -> None:
    backbone = built("convnext_tiny", "layer3")
    top = backbone.make_top().eval()
    roi = torch.randn(1, backbone.trunk.channels, 14, 7, generator=torch.Generator().manual_seed(0))
    changed = roi.clone()
    changed[..., -1] = roi[..., 0]
    with torch.no_grad():
        assert not torch.allclose(top(roi)[..., -1], top(changed)[..., -1])


@pytest.mark.parametrize(
    ("name", "last"),
    [
        (LITE0, lambda net, x: net.blocks(net.bn1(net.conv_stem(x)))),
        (SWIN, lambda net, x: net.layers(net.patch_embed(x)).permute(0, 3, 1, 2)),
    ],
)
def test_timms_networks_give_their_own_features_under_their_own_names(
    name: str, last: Callable[[nn.Module, Tensor], Tensor], tmp_path
) -> None:
    torch.manual_seed(1)
    whole = create(name).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    backbone = named_backbone(name, cut="layer3-half", weights=str(tmp_path / "whole.pth"))
    top = backbone.make_top()
    assert {*backbone.trunk.state_dict(), *top.state_dict()} < whole.state_dict().keys()
    assert backbone.trunk.state_dict().keys().isdisjoint(top.state_dict())
    with torch.no_grad():
        wanted = last(whole, picture(1, 64, 128))
        torch.testing.assert_close(top.eval()(backbone.trunk.eval()(picture(1, 64, 128))), wanted)


def test_normalisation_is_the_familys_and_the_networks_own() -> None:
    assert named_backbone("resnet18", cut="layer3", width=0.125).normalisation == IMAGENET
    assert named_backbone("resnet18", cut="layer3", width=0.125, flavour="caffe").normalisation == CAFFE
    assert built("convnext_tiny", "layer3").normalisation == built(SWIN, "layer3").normalisation == IMAGENET
    lite0 = built(LITE0, "layer3").normalisation
    assert (lite0.mean, lite0.std, lite0.peak, lite0.bgr) == ((127.0,) * 3, (128.0,) * 3, 255.0, False)


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_changes_nothing(name: str) -> None:
    backbone = fresh(name, "layer3-half")
    trunk, top = backbone.trunk, backbone.make_top().eval()
    with torch.no_grad():
        before = trunk(picture(1, 64, 96))
        wanted = top(before)
        trunk.to(memory_format=torch.channels_last)
        top.to(memory_format=torch.channels_last)
        after = trunk(picture(1, 64, 96).to(memory_format=torch.channels_last))
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(top(after), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_recomputing_gives_the_same_gradients_and_statistics_and_draws(name: str) -> None:
    """Blocks that training leaves out at random are left out in both computations, and statistics move once."""

    def trained(recompute: bool) -> tuple[dict[str, Tensor], int]:
        trunk = fresh(name, "layer3").trunk.train()
        trunk.recompute = recompute
        kept: list[int] = []
        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            features = trunk(picture(2, 64, 96))
        features.square().mean().backward()
        gradients = {f"gradient {key}": p.grad for key, p in trunk.named_parameters() if p.grad is not None}
        return gradients | {"features": features.detach()} | dict(trunk.named_buffers()), sum(kept)

    (plain, everything), (again, less) = trained(False), trained(True)
    assert plain.keys() == again.keys()
    for key, value in plain.items():
        torch.testing.assert_close(again[key], value, atol=1e-4, rtol=1e-3, msg=key)
    assert less < 0.6 * everything


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("norms", [False, True])
def test_a_frozen_stem_takes_no_gradient_and_frozen_norms_stay_as_they_are(name: str, norms: bool) -> None:
    trunk = fresh(name, "layer3").trunk
    trunk.freeze(norms=norms)
    trunk.train()
    before = {key: value.clone() for key, value in trunk.named_buffers() if "running" in key}
    trunk(picture(2, 64, 96)).mean().backward()
    fixed = [key for key, p in trunk.named_parameters() if p.grad is None]
    stem = {
        "resnet18": {"conv1", "bn1"},
        "convnext_tiny": {"features.0"},
        LITE0: {"conv_stem", "bn1"},
        SWIN: {"patch_embed"},
    }
    in_stem = {key for key, _ in trunk.named_parameters() if key.startswith(tuple(f"{part}." for part in stem[name]))}
    in_norms = {
        f"{key}.{own}"
        for key, part in trunk.named_modules()
        if isinstance(part, nn.BatchNorm2d)
        for own, _ in part.named_parameters()
    }
    assert set(fixed) == in_stem | (in_norms if norms else set())
    moved = {key for key, value in trunk.named_buffers() if "running" in key and not torch.equal(value, before[key])}
    assert moved == (set() if norms else before.keys())
    assert all(norm.training != norms for norm in batch_norms(trunk))


@pytest.mark.parametrize(("name", "method"), [("convnext_tiny", "baseline"), (LITE0, "oim"), (LITE0, "baseline")])
def test_methods_train_and_detect_with_other_backbones(name: str, method: str) -> None:
    model = model_with(name, method)
    who = [Target(torch.tensor([[5.0, 8, 20, 45], [40, 5, 60, 50]]), torch.tensor([0, 2]), torch.zeros(0, 4), seed=4)]
    nobody = [Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), seed=4)]
    for targets in (who, nobody):
        losses = model.train()([torch.rand(3, 64, 96)], targets)
        assert torch.isfinite(sum(losses.values()))
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    (found,), (embeddings,) = model([torch.rand(3, 64, 96)]), model.embed([torch.rand(3, 64, 96)], [who[0].boxes])
    assert len(found) > 0
    assert len(embeddings) == 2


def model_with(name: str, method: str) -> PersonSearchModel:
    torch.manual_seed(0)
    config = method_settings(
        method,
        backbone=name,
        **width_of(name),
        weights="none",
        levels=("C4", "C5"),
        shorter_side=(64,),
        longer_side=96,
        anchor_sizes=(24.0,),
        score_threshold=0.0,
        rpn_post_nms_train=20,
        rpn_post_nms_test=20,
        roi_batch_per_image=8,
    )
    return build_model(config, num_identities=5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5", "unknown backbone 'resnet5'.* Did you mean 'resnet50'"),
        ("swin_tiny_patch4_window7_224", "Did you mean 'timm:swin_tiny_patch4_window7_224'"),
        ("timm:tf_efficientnet_lite", "timm has no such network. Did you mean 'timm:tf_efficientnet_lite"),
        ("timm:", "timm has no such network.$"),
        ("timm:qqqq", "timm has no such network.$"),
        ("tim:resnet50", "unknown backbone 'tim:resnet50'.* Did you mean 'timm:resnet50'"),
        ("timm:vit_tiny_patch16_224", "cannot be cut into trunk and top: its stages have 16 pixels to a cell, wanted"),
        ("timm:mixer_s32_224", "cannot be cut into trunk and top"),
        ("timm:hrnet_w18_small", "its part 'transition1.1' does not read just what 'transition1.0' gives"),
        ("timm:nest_tiny", "its stages have 4, 8, 16 pixels to a cell"),
        ("timm:maxvit_nano_rw_256", "cannot be cut into trunk and top: .*64 x 96"),
    ],
)
def test_a_name_or_network_that_is_of_no_use_is_refused_with_the_reason(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        named_backbone(name, cut="layer3")


@pytest.mark.parametrize("name", ["convnext_tiny", LITE0])
def test_settings_that_a_family_does_not_have_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"unknown setting 'flavour'.*backbone 'resnet101'"):
        named_backbone(name, cut="layer3", flavour="caffe")
    if name.startswith(PREFIX):
        with pytest.raises(UsageError, match=r"unknown setting 'width'.*backbone 'convnext_base'"):
            named_backbone(name, cut="layer3", width=0.5)


class Stages(nn.Module):
    """A toy with what timm's networks say of themselves."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 8, 8), (8, 8, 2), (8, 8, 2)]
        self.stages = nn.ModuleList(nn.Conv2d(a, b, s, s) for a, b, s in sizes)
        self.feature_info = [{"module": f"stages.{i}", "reduction": 8 * 2**i, "num_chs": 8} for i in range(3)]

    def forward_features(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return x


class SkipsBetween(Stages):
    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stages[1](self.stages[0](x).relu())
        return self.stages[2](x)


class RunsTwice(Stages):
    def forward_features(self, x: Tensor) -> Tensor:
        x = self.stages[1](self.stages[0](x))
        self.stages[0](x.new_zeros(1, 3, 64, 96))
        return self.stages[2](x)


class WrongStride(Stages):
    def __init__(self) -> None:
        super().__init__()
        self.stages[1] = nn.Conv2d(8, 8, 4, 4)


class Empty(Stages):
    def __init__(self) -> None:
        super().__init__()
        self.stages[2] = nn.MaxPool2d(2)


class OneSize(Stages):
    def forward_features(self, x: Tensor) -> Tensor:
        return super().forward_features(x)

    def __init__(self) -> None:
        super().__init__()

        class Fixed(nn.Conv2d):
            def forward(self, x: Tensor) -> Tensor:
                assert x.shape[-1] == 12, "made for 12 cells"
                return super().forward(x)

        self.stages[1] = Fixed(8, 8, 2, 2)


def test_a_chain_of_stages_is_cut_where_they_end() -> None:
    trunk, top = cut_in_two(Stages(), "layer3")
    assert (trunk.chain, top.chain, top.even) == (["stages.0", "stages.1"], ["stages.2"], True)
    assert trunk.training
    assert top.training
    half, rest = cut_in_two(Stages(), "layer3-half")
    assert (half.chain, rest.chain) == (trunk.chain, top.chain)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        (LITE0, "blocks.3.2", "blocks.4.0"),
        (SWIN, "layers.2.blocks.2", "layers.2.blocks.3"),
        ("timm:ghostnet_050", "blocks.5.0", "blocks.6"),
        ("timm:densenet121", "features.denseblock3", "features.transition3"),
        ("timm:resnet10t", "layer3.0", "layer4"),
    ],
)
def test_half_a_stage_is_half_of_its_blocks_with_16_pixels_to_a_cell(name: str, before: str, after: str) -> None:
    """Ghostnet's stage begins with blocks of 8 pixels to a cell, DenseNet's and Swin's with another kind of part; of
    ResNet-10's one block the half is all of it."""
    backbone = built(name, "layer3-half") if name in FAMILIES else named_backbone(name, cut="layer3-half")
    assert (backbone.trunk.chain[-1], backbone.top.chain[0]) == (before, after)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SkipsBetween, "its part 'stages.1' does not read just what 'stages.0' gives"),
        (RunsTwice, "its part 'stages.0' does not read just what 'stages.1' gives"),
        (WrongStride, r"its part 'stages.1' gives \(1, 8, 2, 3\) of 64 x 96 pixels, expected a map of 4 x 6"),
        (Empty, "nothing with weights follows 'stages.1'"),
        (OneSize, r"it takes pictures of one size only \(made for 12 cells\)"),
    ],
)
def test_a_network_that_is_no_chain_is_not_cut(network: type[Stages], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cut_in_two(network(), "layer3")


def test_a_plug_ins_backbone_is_found_by_its_name_and_by_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ResNet):
        def __init__(self, settings: ResNetSettings, *, cut: Cut):
            super().__init__(settings.model_copy(update={"name": "resnet18"}), cut=cut)
            self.asked = settings.name

    monkeypatch.setitem(backbones._registered, "mine", Mine)
    monkeypatch.setitem(backbones._registered, "ours:NAME", Mine)
    for name in ("mine", "ours:one"):
        assert named_backbone(name, cut="layer3", width=0.125).asked == name
