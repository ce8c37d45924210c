"""A model made ready for many images in test: the same numbers but for rounding, computed the fast way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from person_search.models.person_search_model import PersonSearchModel
from person_search.models.proto_norm import ProtoNorm

ROUNDING = 1e-3
"""How far a part may be off after folding, of its largest value, on random input."""


def prepare_for_inference(model: PersonSearchModel) -> PersonSearchModel:
    """A copy of ``model`` whose heavy parts are folded and channels last; the model itself where nothing is gained.

    Normalisation in evaluation mode multiplies and adds per channel, which the convolution before it can do as well
    (``fold_normalisation``). Convolutions read activations faster that lie channels last. The copy is for inference
    alone; it does not follow the model when that is trained on. A model with compiled parts stays as it is: what
    compiled them has folded what it could, and copies would be compiled again.

    Raises ValueError for a model in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call .eval() before it is prepared for inference")
    heavy = model.heavy_parts()
    parts = [*heavy.per_image, *heavy.per_region, *heavy.uncompiled]
    if model.prepared or not parts or any(part._compiled_call_impl is not None for part in parts):
        return model
    prepared = copy.deepcopy(model)
    prepared.fold_normalisation()
    heavy = prepared.heavy_parts()
    for part in (*heavy.per_image, *heavy.per_region, *heavy.uncompiled):
        part.to(memory_format=torch.channels_last)
    prepared.prepared = True
    return prepared


@torch.no_grad()
def fold_normalisation(part: nn.Module, trial: Tensor) -> int:
    """Fold every normalisation in ``part`` that reads a convolution's output and nothing else into that convolution.

    Which reads which is seen when ``part`` runs, whatever the network.

    Args:
        part: in evaluation mode; (n, C, h, w) -> a tensor. Changed in place.
        trial: (n, C, h, w) it can run on.

    Returns:
        The number of normalisations folded: 0, with ``part`` as it was, where folding would change what it computes
        by more than rounding, as when a convolution's output is also read elsewhere.
    """
    pairs, expected = _run_noting_pairs(part, trial)
    before = [(name, part.get_submodule(name)) for pair in pairs for name in pair]
    for conv_name, norm_name in pairs:
        conv, norm = part.get_submodule(conv_name), part.get_submodule(norm_name)
        assert isinstance(conv, nn.Conv2d)
        _replace(part, conv_name, _folded(conv, norm))
        _replace(part, norm_name, _what_is_left(norm))
    found = part(trial)
    if (found - expected).abs().max() > ROUNDING * expected.abs().max():
        for name, module in before:
            _replace(part, name, module)
        return 0
    return len(pairs)


def _run_noting_pairs(part: nn.Module, trial: Tensor) -> tuple[list[tuple[str, str]], Tensor]:
    """Names of (convolution, normalisation of its output), each run once; and what ``part`` gives."""
    outputs: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []
    runs: dict[str, int] = {}

    def made(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            runs[name] = runs.get(name, 0) + 1
            # The tensor is kept, so that no other can have its id.
            outputs[id(output)] = (name, output)

        return hook

    def read(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            runs[name] = runs.get(name, 0) + 1
            if id(args[0]) in outputs:
                pairs.append((outputs[id(args[0])][0], name))

        return hook

    handles = []
    for name, module in part.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(made(name)))
        elif isinstance(module, (_BatchNorm, ProtoNorm, FrozenBatchNorm2d)) and module.running_mean is not None:
            handles.append(module.register_forward_pre_hook(read(name)))
    try:
        result = part(trial)
    finally:
        for handle in handles:
            handle.remove()
    return [pair for pair in pairs if all(runs[name] == 1 for name in pair)], result


def _folded(conv: nn.Conv2d, norm: Any) -> nn.Conv2d:
    """``conv`` with what ``norm`` does after it."""
    fused = copy.copy(conv)
    # Not those of ``conv``, which a copy shares.
    fused._parameters = dict(conv._parameters)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return fused


def _what_is_left(norm: nn.Module) -> nn.Module:
    """What ``norm`` does beside normalising: timm's norms activate too."""
    rest = [getattr(norm, name) for name in ("drop", "act") if isinstance(getattr(norm, name, None), nn.Module)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _replace(part: nn.Module, name: str, module: nn.Module) -> None:
    folder, _, leaf = name.rpartition(".")
    setattr(part.get_submodule(folder), leaf, module)
