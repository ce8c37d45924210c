"""Which parameters are trained by which optimiser, and how fast."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from person_search.config import TrainingConfig
from person_search.errors import UsageError
from person_search.models.person_search_model import PersonSearchModel
from person_search.training.schedules import Schedule

Group = dict[str, Any]


def build_optimizers(model: PersonSearchModel, config: TrainingConfig) -> dict[str, Optimizer]:
    """Optimisers by name: ``"detection"``, and ``"reid"`` where the model has re-ID parameters of its own.

    Every parameter group says what it is (``role``: detection or reid), which schedule it follows (``schedule``) and
    its full learning rate (``base_lr``). With ``uni_optim`` one optimiser has them all: re-ID parameters keep their
    learning rate and weight decay, and follow the detection schedule. Raises UsageError for a model without anything
    to train.
    """
    reid = [parameter for parameter in model.reid_parameters() if parameter.requires_grad]
    groups = detection_groups(model, {id(parameter) for parameter in reid}, config)
    reid_group: Group = {
        "params": reid,
        "role": "reid",
        "schedule": "detection" if config.uni_optim else "reid",
        "base_lr": config.reid_lr,
        "lr": config.reid_lr,
        "weight_decay": config.reid_weight_decay,
    }
    if config.uni_optim and reid:
        groups.append(reid_group)
    optimizers: dict[str, Optimizer] = {}
    if groups:
        optimizers["detection"] = _detection_optimizer(groups, config)
    if reid and not config.uni_optim:
        optimizers["reid"] = Adam([reid_group], lr=config.reid_lr)
    if not optimizers:
        raise UsageError(f"method '{model.config.method}' has no parameter to train; is all of it frozen?")
    return optimizers


def detection_groups(model: nn.Module, excluded: set[int], config: TrainingConfig) -> list[Group]:
    """Groups of all trainable parameters but those whose ``id`` is in ``excluded``: weights, then biases."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in excluded]
    weights = [parameter for name, parameter in named if not is_bias(name)]
    biases = [parameter for name, parameter in named if is_bias(name)]
    bias_lr = config.lr * (2 if config.double_bias_lr else 1)
    bias_decay = config.weight_decay if config.decay_biases else 0.0
    groups = [(weights, config.lr, config.weight_decay), (biases, bias_lr, bias_decay)]
    return [
        {
            "params": parameters,
            "role": "detection",
            "schedule": "detection",
            "base_lr": lr,
            "lr": lr,
            "weight_decay": decay,
        }
        for parameters, lr, decay in groups
        if parameters
    ]


def is_bias(name: str) -> bool:
    """Whether a parameter's full name says it is a bias; those of normalisations count as well."""
    return name.rpartition(".")[2] == "bias"


def _detection_optimizer(groups: list[Group], config: TrainingConfig) -> Optimizer:
    if config.optimizer != "sgd":
        return {"adam": Adam, "adamw": AdamW}[config.optimizer](groups, lr=config.lr)
    return SGD(groups, lr=config.lr, momentum=config.momentum)


def set_learning_rates(
    optimizers: dict[str, Optimizer], schedules: dict[str, Schedule], *, epoch: int, step: int
) -> dict[str, float]:
    """Set the rates for step ``step`` of ``epoch``, from 0. Returns the weights' as ``lr/detection``, ``lr/reid``."""
    rates: dict[str, float] = {}
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedules[group["schedule"]].at(epoch, step)
            rates.setdefault(f"lr/{group['role']}", group["lr"])
    return rates


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Continue from a saved ``state``, with this optimiser's own settings: a changed learning rate is meant.

    Raises ValueError when the groups differ.
    """
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
