"""A model prepared for inference gives what the model itself gives."""

from __future__ import annotations

import pytest
import torch
from small_models import METHODS, small
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from person_search.config import method_settings
from person_search.models.building import build_model
from person_search.models.inference import fold_normalisation, prepare_for_inference
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.streaming import detections_of


def images() -> list[Tensor]:
    return list(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))


def with_statistics(model: PersonSearchModel) -> PersonSearchModel:
    """Normalisations that do something: of other statistics and weights than those of the start."""
    draw = torch.Generator().manual_seed(2)
    for norm in model.modules():
        if isinstance(norm, _BatchNorm):
            for values, low in ((norm.running_mean, -0.2), (norm.running_var, 0.5), (norm.weight, 0.5)):
                if values is not None:
                    values.data.copy_(low + torch.rand(values.shape, generator=draw))
    return model.eval()


def assert_same_people(model: PersonSearchModel, other: PersonSearchModel) -> None:
    boxes = [torch.tensor([[5.0, 5, 30, 60]]), torch.zeros(0, 4)]
    found, expected = (each.detect_and_embed(images(), boxes) for each in (other, model))
    for one, two in zip(expected, found, strict=True):
        assert len(one.detections) > 0
        assert len(two.detections) == len(one.detections)
        # Scores that are nearly equal may change places.
        order = torch.cdist(one.detections.boxes, two.detections.boxes).argmin(1)
        same = two.detections.take(order)
        assert order.unique().numel() == len(order)
        torch.testing.assert_close(same.boxes, one.detections.boxes, atol=1e-2, rtol=0)
        torch.testing.assert_close(same.scores, one.detections.scores, atol=1e-5, rtol=0)
        torch.testing.assert_close(same.embeddings, one.detections.embeddings, atol=1e-4, rtol=0)
        for mine, theirs in zip(two.given, one.given, strict=True):
            torch.testing.assert_close(mine.embedding, theirs.embedding, atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_prepared_model_finds_the_same_people(method: str) -> None:
    model = with_statistics(small(method, score_threshold=0.0))
    assert_same_people(model, prepare_for_inference(model))


@pytest.mark.parametrize("backbone", ["convnext_tiny", "timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_050"])
def test_a_prepared_model_of_another_backbone_finds_the_same_people(backbone: str) -> None:
    settings = {"weights": "none", "shorter_side": (64,), "longer_side": 96, "score_threshold": 0.0}
    settings |= {"rpn_post_nms_test": 40} | ({"width": 0.125} if backbone == "convnext_tiny" else {})
    torch.manual_seed(0)
    model = with_statistics(build_model(method_settings("oim", backbone=backbone, **settings), 5))
    prepared = prepare_for_inference(model)
    assert_same_people(model, prepared)
    norms = [part for part in prepared.trunk.modules() if isinstance(part, _BatchNorm)]
    assert norms == []


@pytest.mark.parametrize("method", METHODS)
def test_the_convolutions_normalise_and_lie_channels_last_in_the_copy_alone(method: str) -> None:
    model = small(method).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = prepare_for_inference(model)
    heavy = prepared.heavy_parts()
    for part in (*heavy.per_image, *heavy.per_region):
        assert not any(isinstance(inner, nn.BatchNorm2d) for inner in part.modules())
    weight = prepared.trunk.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    state = model.state_dict()
    assert state.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert all(value.is_contiguous() for value in state.values())
    assert prepare_for_inference(prepared) is prepared


class Shared(nn.Module):
    """A convolution whose output is normalised, and read as it is beside that."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.norm(y) + y


def test_a_convolution_that_is_read_elsewhere_is_left_alone() -> None:
    torch.manual_seed(0)
    part = Shared().eval()
    part.norm.running_var.fill_(4.0)
    trial = torch.rand(1, 3, 8, 8)
    expected = part(trial)
    assert fold_normalisation(part, trial) == 0
    assert torch.equal(part(trial), expected)


def test_a_norm_that_two_convolutions_share_is_left_alone() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    part = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 3, 1), norm).eval()
    norm.running_var.fill_(4.0)
    trial = torch.rand(1, 3, 8, 8)
    expected = part(trial)
    assert fold_normalisation(part, trial) == 0
    assert torch.equal(part(trial), expected)


def test_a_stream_runs_on_a_prepared_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small(score_threshold=0.0).eval()
    monkeypatch.setattr(model.trunk, "forward", None)
    with pytest.raises(TypeError):
        next(detections_of(model, images()))
    monkeypatch.undo()
    calls: list[int] = []
    model.trunk.layer1[0].bn1.register_forward_hook(lambda *_: calls.append(1))
    assert len(list(detections_of(model, images(), batch_size=1))) == 2
    # It ran once, to see what can be folded.
    assert calls == [1]
    model(images())
    assert calls == [1, 1]


def test_compiled_parts_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small().eval()
    model.trunk.compile(backend="eager")
    assert prepare_for_inference(model) is model


def test_a_model_that_trains_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\.eval\(\)"):
        prepare_for_inference(small().train())
    with pytest.raises(ValueError, match="cannot be trained"):
        prepare_for_inference(small().eval()).train()
