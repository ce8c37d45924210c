"""One step: what it reports, what it changes, and that a step gone wrong changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from person_search.data.loading import Batch
from person_search.data.target import Target
from person_search.models.scene_memory import SceneMemory
from person_search.training.step import TrainingStep


class StandIn(nn.Module):
    """A convolution with or without BN, a table that moves with every batch as OIM's does, a memory of scenes.

    A first pixel of 255 makes the loss nan; one of 254 makes only its gradient nan.
    """

    def __init__(self, norm: bool = True):
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.head = nn.Linear(4, 1)
        self.register_buffer("lut", torch.zeros(4))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.metrics: dict[str, torch.Tensor] = {}
        self.box_types: set[torch.dtype] = set()
        self.scene_memory = SceneMemory(positives=1, negatives=1)

    def forward(self, images: list[torch.Tensor], targets: list[Target]) -> dict[str, torch.Tensor]:
        self.box_types |= {target.boxes.dtype for target in targets}
        features = self.norm(self.conv(torch.stack(images).float() / 255)).amax((2, 3))
        self.lut.copy_(0.5 * self.lut + 0.5 * features.detach().float().mean(0))
        self.count += len(images)
        ids = torch.zeros(1, dtype=torch.int64)
        self.scene_memory.store([int(self.count)], features[:1].detach(), features[:1].detach(), ids, [1])
        self.metrics = {"identity_accuracy": torch.tensor(0.25), "rois_foreground": torch.tensor(3)}
        loss = (self.head(features).float() - 1).square().mean()
        first = int(images[0][0, 0, 0])
        if first == 255:
            loss = loss * math.nan
        if first == 254:
            loss = loss + (self.head.bias * 0).sqrt().sum()
        return {"classification": loss, "reid": 0.5 * loss}


def batch(*firsts: int, seed: int = 0) -> Batch:
    """Images with the given first pixels, otherwise by ``seed``."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 200, (3, 8, 8), generator=generator, dtype=torch.uint8) for _ in firsts]
    for image, first in zip(images, firsts, strict=True):
        image[0, 0, 0] = first
    targets = [Target(torch.rand(2, 4), torch.tensor([0, -1]), torch.zeros(0, 4)) for _ in firsts]
    return Batch(images, targets, list(range(len(firsts))))


def make_step(model: nn.Module, lr: float = 0.005, **options: object) -> tuple[TrainingStep, torch.optim.Optimizer]:
    precision = options.pop("precision", "32-true")
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    return TrainingStep(fabric, model, [optimizer], **options), optimizer


def everything(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for number, values in enumerate(optimizer.state.values()):
        state[f"momentum {number}"] = values["momentum_buffer"].clone()
    return state


def test_a_step_trains_and_reports() -> None:
    model = StandIn()
    step, optimizer = make_step(model)
    before = everything(model, optimizer)
    results = [step([batch(1, 2)]) for _ in range(20)]
    assert results[-1].loss < results[0].loss / 2
    first = results[0]
    assert set(first.values) == {"loss/classification", "loss/reid", "identity_accuracy", "rois_foreground"}
    assert first.loss == pytest.approx(first.values["loss/classification"] + first.values["loss/reid"])
    assert first.values["rois_foreground"] == 3
    assert not first.skipped
    assert not first.stop
    assert model.count == 40
    assert not torch.equal(model.lut, before["lut"])
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("first", [255, 254], ids=["loss", "gradient only"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_step_that_is_not_finite_changes_nothing(first: int, place: int) -> None:
    model = StandIn()
    step, optimizer = make_step(model)
    step([batch(1, 2), batch(3, 4)])
    before, stored = everything(model, optimizer), dict(model.scene_memory.scenes)
    batches = [batch(1, 2, seed=1), batch(3, 4, seed=2)]
    batches[place] = batch(first, 2, seed=3)
    result = step(batches)
    assert result.skipped
    assert math.isfinite(result.loss) == (first == 254)
    after = everything(model, optimizer)
    assert set(after) == set(before)
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert model.scene_memory.scenes == stored


def test_a_skipped_step_does_not_show_in_those_that_follow() -> None:
    results = []
    for bad in (False, True):
        model = StandIn()
        step, optimizer = make_step(model)
        step([batch(1, 2)])
        if bad:
            assert step([batch(254, 2, seed=5)]).skipped
        assert not step([batch(1, 2, seed=6)]).skipped
        results.append(everything(model, optimizer))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_accumulated_batches_equal_one_larger_batch() -> None:
    parts = [batch(1, 2, seed=1), batch(3, 4, seed=2), batch(5, 6, seed=3)]
    whole = Batch(
        *([item for part in parts for item in getattr(part, kind)] for kind in ("images", "targets", "scenes"))
    )
    models = [StandIn(norm=False) for _ in range(2)]
    losses = []
    for model, batches in zip(models, (parts, [whole]), strict=True):
        step, _ = make_step(model)
        losses.append([step(batches).loss for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_clipped_to_the_norm() -> None:
    def moved(clip_grad: float | None) -> float:
        model = StandIn()
        before = torch.cat([p.detach().flatten() for p in model.parameters()])
        step, _ = make_step(model, lr=1.0, clip_grad=clip_grad)
        step([batch(1, 2)])
        return float((torch.cat([p.detach().flatten() for p in model.parameters()]) - before).norm())

    free = moved(None)
    assert free > 0.02
    assert moved(0.01) == pytest.approx(0.01, rel=1e-3)
    assert moved(1e6) == pytest.approx(free, rel=1e-5)


def test_what_is_left_out_of_clipping_is_neither_counted_nor_changed() -> None:
    def moved(clip_grad: float | None) -> tuple[torch.Tensor, float]:
        model = StandIn()
        before = [p.detach().clone() for p in model.parameters()]
        step, _ = make_step(model, lr=1.0, clip_grad=clip_grad, unclipped=list(model.head.parameters()))
        step([batch(1, 2)])
        *others, weight, bias = [p.detach() - old for p, old in zip(model.parameters(), before, strict=True)]
        return torch.cat([weight.flatten(), bias]), float(torch.cat([each.flatten() for each in others]).norm())

    free, clipped = moved(None), moved(0.01)
    torch.testing.assert_close(clipped[0], free[0])
    assert clipped[1] == pytest.approx(0.01, rel=1e-3)
    assert float(free[0].norm()) > 0.01
    assert moved(1.01 * free[1])[1] == pytest.approx(free[1], rel=1e-5)


def test_half_precision_never_reaches_boxes_and_labels() -> None:
    model = StandIn()
    step, _ = make_step(model, precision="bf16-mixed")
    result = step([batch(1, 2)])
    assert model.box_types == {torch.float32}
    assert math.isfinite(result.loss)


def test_a_metric_without_value_is_left_out_and_is_no_failure() -> None:
    model = StandIn()
    step, _ = make_step(model)
    forward = model.forward

    def without_identities(images, targets):
        losses = forward(images, targets)
        model.metrics["identity_accuracy"] = torch.tensor(math.nan)
        return losses

    model.forward = without_identities
    result = step([batch(1, 2)])
    assert not result.skipped
    assert "identity_accuracy" not in result.values
    assert "rois_foreground" in result.values


def test_the_wish_to_stop_comes_back() -> None:
    step, _ = make_step(StandIn())
    assert step([batch(1, 2)], stop=True).stop
