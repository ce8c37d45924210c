"""Who is trained by which optimiser, with which learning rate and weight decay."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from person_search.config import TrainingConfig, method_settings
from person_search.errors import UsageError
from person_search.training.optimizers import build_optimizers, restore_optimizer, set_learning_rates
from person_search.training.schedules import build_schedules


class Parts(nn.Module):
    """Detection and re-ID parts, each a convolution and a normalisation with weight and bias."""

    def __init__(self, reid: bool = True):
        super().__init__()
        self.config = method_settings("baseline")
        self.detection = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        self.neck = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) if reid else nn.Sequential()

    def reid_parameters(self) -> list[nn.Parameter]:
        return list(self.neck.parameters())


def described(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning rate, weight decay)."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }


def test_two_optimisers_with_the_published_settings() -> None:
    model = Parts()
    optimizers = build_optimizers(model, TrainingConfig())
    assert isinstance(optimizers["detection"], torch.optim.SGD)
    assert optimizers["detection"].param_groups[0]["momentum"] == 0.9
    assert type(optimizers["reid"]) is torch.optim.Adam
    assert described(optimizers["detection"], model) == {
        "detection.0.weight": (0.003, 1e-4),
        "detection.1.weight": (0.003, 1e-4),
        "detection.0.bias": (0.003, 0.0),
        "detection.1.bias": (0.003, 0.0),
    }
    assert set(described(optimizers["reid"], model).values()) == {(3.5e-4, 1e-4)}
    assert len(described(optimizers["reid"], model)) == 4


def test_bias_options_touch_detection_biases_only() -> None:
    model = Parts()
    optimizers = build_optimizers(model, TrainingConfig(decay_biases=True, double_bias_lr=True))
    detection = described(optimizers["detection"], model)
    assert detection["detection.0.bias"] == detection["detection.1.bias"] == (0.006, 1e-4)
    assert detection["detection.0.weight"] == (0.003, 1e-4)
    assert set(described(optimizers["reid"], model).values()) == {(3.5e-4, 1e-4)}


def test_one_optimiser_for_all_keeps_the_reid_rate_on_the_detection_milestones() -> None:
    model = Parts()
    config = TrainingConfig(uni_optim=True, warmup_epochs=0, lr_decay_epochs=(2,), reid_lr_decay_epochs=(1,))
    optimizers = build_optimizers(model, config)
    assert list(optimizers) == ["detection"]
    assert isinstance(optimizers["detection"], torch.optim.SGD)
    assert described(optimizers["detection"], model)["neck.0.weight"] == (3.5e-4, 1e-4)
    schedules = build_schedules(config, 10)
    assert set_learning_rates(optimizers, schedules, epoch=1, step=0) == pytest.approx(
        {"lr/detection": 0.003, "lr/reid": 3.5e-4}
    )
    assert set_learning_rates(optimizers, schedules, epoch=2, step=0) == pytest.approx(
        {"lr/detection": 3e-4, "lr/reid": 3.5e-5}
    )


def test_each_optimiser_follows_its_own_schedule() -> None:
    config = TrainingConfig(warmup_epochs=0, lr_decay_epochs=(2,), reid_lr_decay_epochs=(1,), double_bias_lr=True)
    optimizers = build_optimizers(Parts(), config)
    rates = set_learning_rates(optimizers, build_schedules(config, 10), epoch=1, step=0)
    assert rates == pytest.approx({"lr/detection": 0.003, "lr/reid": 3.5e-5})
    assert optimizers["detection"].param_groups[1]["lr"] == pytest.approx(0.006)


@pytest.mark.parametrize("uni_optim", [False, True])
def test_no_reid_parameters_means_one_optimiser(uni_optim: bool) -> None:
    model = Parts(reid=False)
    optimizers = build_optimizers(model, TrainingConfig(uni_optim=uni_optim))
    assert list(optimizers) == ["detection"]
    assert len(described(optimizers["detection"], model)) == 4


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_adam_trains_detection(name: str, kind: type[torch.optim.Optimizer]) -> None:
    optimizers = build_optimizers(Parts(), TrainingConfig(optimizer=name))
    assert type(optimizers["detection"]) is kind
    assert type(optimizers["reid"]) is torch.optim.Adam


def test_frozen_parameters_are_left_out() -> None:
    model = Parts()
    for parameter in (*model.detection[0].parameters(), model.neck[0].weight):
        parameter.requires_grad_(False)
    optimizers = build_optimizers(model, TrainingConfig())
    assert set(described(optimizers["detection"], model)) == {"detection.1.weight", "detection.1.bias"}
    assert "neck.0.weight" not in described(optimizers["reid"], model)


def test_nothing_to_train_is_refused() -> None:
    with pytest.raises(UsageError, match="no parameter to train"):
        build_optimizers(Parts().requires_grad_(False), TrainingConfig())


def test_restoring_keeps_momentum_and_takes_changed_settings() -> None:
    model = Parts(reid=False)
    optimizer = build_optimizers(model, TrainingConfig())["detection"]
    model.detection(torch.ones(2, 3, 2, 2)).square().sum().backward()
    optimizer.step()
    saved = optimizer.state_dict()
    changed = build_optimizers(model, TrainingConfig(lr=0.1, momentum=0.5))["detection"]
    restore_optimizer(changed, saved)
    parameter = model.detection[0].weight
    assert torch.equal(changed.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])
    assert changed.param_groups[0]["base_lr"] == 0.1
    assert changed.param_groups[0]["momentum"] == 0.5
