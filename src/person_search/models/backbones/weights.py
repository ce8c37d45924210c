"""Weights that a backbone starts from: where they come from, and whether they are this network's."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor
from torchvision import models as zoo

from person_search.errors import CheckpointError, UsageError, first_line
from person_search.models.backbones.backbone import Top, Trunk

State = dict[str, Tensor]


def find_weights(weights: str, *, backbone: str, imagenet: Callable[[], State]) -> tuple[State, str]:
    """The whole network's tensors by name, and in words where they are from.

    Args:
        weights: ``"imagenet"``, or a file of a state dict, by itself or under ``state_dict`` or ``model``.
        backbone: its name.
        imagenet: gets the ImageNet weights.

    Raises UsageError or CheckpointError, each saying which file goes where.
    """
    if weights == "imagenet":
        return imagenet(), f"ImageNet weights of {backbone}"
    return _read(Path(weights)), f"weights file '{weights}'"


def copy_weights(
    trunk: Trunk,
    top: Top,
    state: State,
    *,
    backbone: str,
    source: str,
    unused: Collection[str] = (),
    name_in_top: Callable[[str], str] = str,
) -> None:
    """Copy a whole network's state dict into its two halves.

    Args:
        unused: names of the network's tensors that neither half has. Those outside of the modules that the halves
            are made of, such as a classifier's, need not be listed.
        name_in_top: the network's name of one of the top's tensors.

    Raises CheckpointError that names the first tensor that is missing, misshapen or one too many.
    """
    wanted: dict[str, Tensor] = dict(trunk.state_dict())
    wanted |= {name_in_top(name): value for name, value in top.state_dict().items()}
    for name, value in wanted.items():
        given = state.get(name)
        if given is None and not name.endswith("num_batches_tracked"):
            raise CheckpointError(
                f"{source}: tensor '{name}' of {backbone} is missing; is it of another backbone?{_instead(state)}"
            )
        if given is not None and given.shape != value.shape:
            raise CheckpointError(
                f"{source}: '{name}' has shape {tuple(given.shape)}, expected {tuple(value.shape)} for {backbone}; "
                "backbone and width must be those of the weights"
            )
    modules = {name.partition(".")[0] for name in wanted}
    for name in state:
        if name.partition(".")[0] in modules and name not in wanted and name not in unused:
            raise CheckpointError(
                f"{source}: {backbone} has no tensor '{name}'; backbone and width must be those of the weights"
            )
    chosen = {name: state.get(name, value) for name, value in wanted.items()}
    trunk.load_state_dict({name: chosen[name] for name in trunk.state_dict()})
    top.load_state_dict({name: chosen[name_in_top(name)] for name in top.state_dict()})


def torchvision_weights(name: str) -> State:
    """ImageNet V1 weights that torchvision knows as ``name``, from its cache or the network. Raises CheckpointError."""
    weights = getattr(zoo, name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        file = weights.url.rsplit("/", 1)[-1]
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"cannot download ImageNet weights ({error}); put the file {file} into {folder}, "
            "or use `weights` FILE or `weights` none"
        ) from None


def _read(path: Path) -> State:
    if not path.is_file():
        raise UsageError(f"`weights`: no file '{path}' (known names: imagenet, none)")
    try:
        content = _open(path)
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


def _open(path: Path) -> object:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _instead(state: State) -> str:
    """The file's first tensor, which often says whose it is."""
    return f" Its first tensor is '{next(iter(state))}'." if state else " It holds no tensor."
