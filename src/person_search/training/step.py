"""One optimisation step: losses, gradients, and the decision whether the weights may follow them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from person_search.data.loading import Batch
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.scene_memory import StoredScene


@dataclass(frozen=True)
class StepResult:
    """What a step reports: means over its batches and over all processes.

    Attributes:
        loss: the total; not finite in a skipped step whose loss was not.
        values: ``loss/NAME`` per loss and the model's metrics; a metric without value (nan) is left out.
        skipped: the loss or the gradient was not finite, and everything is as it was before the step.
        stop: a process was asked to stop.
    """

    loss: float
    values: dict[str, float]
    skipped: bool
    stop: bool


class LossModule(nn.Module):
    """The model as Fabric and DDP call it: one ``Batch`` in, losses out."""

    def __init__(self, model: PersonSearchModel):
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Losses by name, scalars."""
        losses: dict[str, Tensor] = self.model(batch.images, batch.targets)
        return losses


class Buffers:
    """A copy of a model's buffers (running statistics, LUT, queue, counters) that can be put back.

    So can what it remembers of scenes.
    """

    def __init__(self, model: PersonSearchModel):
        self._model = model
        self._scenes: dict[int, StoredScene] = {}
        self._saved = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @torch.no_grad()
    def save(self) -> None:
        """Note the buffers as they are."""
        for own, saved in self._pairs():
            torch._foreach_copy_(saved, own)
        if self._model.scene_memory is not None:
            self._scenes = dict(self._model.scene_memory.scenes)

    @torch.no_grad()
    def restore(self) -> None:
        """Make the buffers what they were."""
        for own, saved in self._pairs():
            torch._foreach_copy_(own, saved)
        if self._model.scene_memory is not None:
            self._model.scene_memory.scenes = dict(self._scenes)

    def _pairs(self) -> list[tuple[list[Tensor], list[Tensor]]]:
        """Lists of one dtype each: only then is a list copied in one go on a GPU."""
        lists: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for name, buffer in self._model.named_buffers():
            own, saved = lists.setdefault(buffer.dtype, ([], []))
            own.append(buffer)
            saved.append(self._saved[name])
        return list(lists.values())


class TrainingStep:
    """Runs steps. A step whose loss or gradient is not finite, in any process, changes nothing in any of them.

    Args:
        fabric: device, precision and processes.
        model: moved to the device.
        optimizers: their learning rates are set by the caller.
        clip_grad: largest norm of the gradient of all parameters together; None: unlimited.
        unclipped: parameters that clipping neither counts nor changes.
        scaler: loss scaling, for float16.
    """

    def __init__(
        self,
        fabric: Any,
        model: PersonSearchModel,
        optimizers: Sequence[Optimizer],
        *,
        clip_grad: float | None = None,
        unclipped: Sequence[nn.Parameter] = (),
        scaler: torch.amp.GradScaler | None = None,
    ):
        self._fabric, self._model, self._scaler, self._clip_grad = fabric, model, scaler, clip_grad
        self._optimizers = list(optimizers)
        self._module = fabric.setup_module(LossModule(model))
        self._buffers = Buffers(model)
        self._parameters = [p for o in self._optimizers for group in o.param_groups for p in group["params"]]
        left_out = {id(parameter) for parameter in unclipped}
        self._clipped = [parameter for parameter in self._parameters if id(parameter) not in left_out]

    def __call__(self, batches: Sequence[Batch], *, stop: bool = False) -> StepResult:
        """Train on ``batches``, whose gradients are averaged; ``stop`` tells the other processes of a wish to stop."""
        self._buffers.save()
        noted = [self._backward(batch, share=1 / len(batches), last=batch is batches[-1]) for batch in batches]
        names = list(noted[0])
        means = torch.stack([torch.stack([values[name] for name in names]) for values in noted]).mean(0)
        norm = self._gradient_norm()
        finite = torch.isfinite(means[0]) & torch.isfinite(norm)
        flags = torch.stack([~finite, torch.tensor(stop, device=finite.device)])
        # One transfer from the device for all that the host wants to know.
        skipped, stopped, *host = self._sum(torch.cat([flags.to(means.dtype), means])).tolist()
        if skipped:
            self._buffers.restore()
        else:
            self._update(norm)
        self._clear()
        values = {name: value / self._fabric.world_size for name, value in zip(names, host, strict=True)}
        loss = values.pop("loss")
        return StepResult(loss, {k: v for k, v in values.items() if not math.isnan(v)}, skipped > 0, stopped > 0)

    def _backward(self, batch: Batch, *, share: float, last: bool) -> dict[str, Tensor]:
        """Add the gradient of one batch; returns its total loss, losses and metrics as float64 scalars."""
        with self._fabric.no_backward_sync(self._module, enabled=not last):
            losses = self._module(batch.to(self._fabric.device))
            total = torch.stack(list(losses.values())).sum()
            self._fabric.backward(total * share)
        noted = {"loss": total} | {f"loss/{name}": loss for name, loss in losses.items()} | self._model.metrics
        return {name: value.detach().to(self._fabric.device, torch.float64) for name, value in noted.items()}

    def _gradient_norm(self) -> Tensor:
        if self._scaler is not None:
            for optimizer in self._optimizers:
                self._scaler.unscale_(optimizer)
        return _norm(self._parameters)

    def _sum(self, values: Tensor) -> Tensor:
        return values if self._fabric.world_size == 1 else self._fabric.all_reduce(values, reduce_op="sum")

    def _update(self, norm: Tensor) -> None:
        if self._clip_grad is not None:
            norm = norm if len(self._clipped) == len(self._parameters) else _norm(self._clipped)
            torch.nn.utils.clip_grads_with_norm_(self._clipped, self._clip_grad, norm)
        for optimizer in self._optimizers:
            optimizer.step()

    def _clear(self) -> None:
        if self._scaler is not None:
            self._scaler.update()
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)


def _norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Of the gradients of all together."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
