"""From a checkpoint file to a model ready for use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from person_search.checkpoints import (
    released,
    released_coat,
    released_nae4ps,
    released_oimnetpp,
    released_seqnet,
    released_seqnext,
)
from person_search.checkpoints.checkpoint import (
    BEST,
    FORMAT,
    LAST,
    Checkpoint,
    as_checkpoint,
    load_model_state,
    read_tensors,
)
from person_search.checkpoints.inert_pickle import load_inert
from person_search.checkpoints.model_cache import obtain
from person_search.checkpoints.model_id import model_id
from person_search.checkpoints.named_models import NamedModel, is_name, named_model
from person_search.checkpoints.torch_files import PickledCodeError
from person_search.config import MethodSettings, method_settings, override
from person_search.errors import CheckpointError
from person_search.models.building import build_model
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.processes import usable_device

RELEASED = (released, released_seqnet, released_nae4ps, released_seqnext, released_oimnetpp, released_coat)
"""The layouts of other projects' checkpoints, a module each."""


def load_model(path: str | Path, *, device: str | torch.device = "cpu", **overrides: Any) -> PersonSearchModel:
    """A trained model in evaluation mode.

    Args:
        path: checkpoint of this package, or one that the authors of a method released (recognised by its contents); a
            run folder means its best, else its last, checkpoint; where there is no such file or folder, the name of a
            released model, such as ``"seqnet-prw"``, which is fetched if it was not before.
        device: where to put it, as torch names devices: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        overrides: model settings by their flat names, such as ``shorter_side``, ``longer_side``,
            ``score_threshold``.

    Raises:
        CheckpointError: the file is missing, damaged, refused, cannot be fetched, or does not fit the settings.
        UsageError: an override that is no model setting, or out of range; a device that this machine does not have.
    """
    return load_stored(path, device=device, **overrides).model


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model ready for use and the checkpoint it is from.

    Attributes:
        model: with ``overrides`` applied.
        file: the checkpoint file.
        config: the model's settings as the file has them.
        home: folder for what is made of the model: that of the file, but for a named one ``runs/NAME``.
        data: what the file remembers of the scenes that the model was trained on, or None.
    """

    model: PersonSearchModel
    file: Path
    config: MethodSettings
    home: Path
    data: dict[str, Any] | None = None

    @cached_property
    def model_id(self) -> str:
        """The id of the model as it is stored, whatever settings were changed for use."""
        return model_id(self.config, self.model.num_identities, self.model.state_dict())


def load_stored(path: str | Path, *, device: str | torch.device = "cpu", **overrides: Any) -> StoredModel:
    """``load_model`` that also says which file and which model it was."""
    device = usable_device(device)
    file = find_checkpoint(path)
    checkpoint = open_checkpoint(file)
    config = override(checkpoint.model_config, overrides)
    model = build_model(config, checkpoint.num_identities, load_weights=False)
    load_model_state(model, checkpoint, file)
    # Nobody looks for results in a cache, which may be deleted at any time.
    home = Path("runs", path) if is_name(path) else file.parent
    return StoredModel(model.eval().to(device), file, checkpoint.model_config, home, checkpoint.data)


class SelectMember(Protocol):
    """Finds in an archive the one checkpoint that is wanted."""

    def __call__(self, archive: Path, accept: Callable[[str, int], bool]) -> Path:
        """The path of the checkpoint of whose method and number of identities ``accept`` is true.

        Raises CheckpointError where there is none, or more than one.
        """


def find_checkpoint(path: str | Path, *, select: SelectMember | None = None) -> Path:
    """The checkpoint file that is meant by ``path``.

    That is ``path`` itself; for a run folder its best or else its last checkpoint; for the name of a model, where there
    is no such file or folder, its file in the cache, which is fetched if need be. ``select`` finds it where several
    models share an archive. Raises CheckpointError, and UsageError for a list of models that is wrong.
    """
    if is_name(path):
        return _file_of(named_model(str(path)), select)
    path = Path(path)
    if not path.is_dir():
        return path
    for name in (BEST, LAST):
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"the folder '{path}' holds no {BEST} or {LAST}; give a checkpoint file or a run folder")


def _file_of(model: NamedModel, select: SelectMember | None) -> Path:
    file = obtain(model)
    if model.facts.archive is None:
        return file
    if select is None:
        raise CheckpointError(
            f"model '{model.name}' is one of several in '{file}'; unpack it and give the path of the checkpoint of "
            f"{model.facts.method} with {' or '.join(map(str, model.facts.identities))} identities"
        )
    return select(file, model.is_model)


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of this package or of the reference, in our names. Nothing in the file is executed.

    Raises CheckpointError that says what is wrong with the file.
    """
    try:
        contents = read_tensors(path)
    except PickledCodeError:
        contents = load_inert(path)
    if isinstance(contents, dict) and contents.get("format") == FORMAT:
        return as_checkpoint(contents, path)
    state = _state_of(contents)
    layout = next((layout for layout in RELEASED if layout.is_released(state)), None)
    if layout is None:
        raise CheckpointError(f"'{path}' holds neither a {FORMAT} nor a released checkpoint of a known layout")
    try:
        settings = layout.recognise(state)
        identities = settings.pop("num_identities")
        converted = layout.convert(state)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}': {error}") from None
    return Checkpoint(method_settings(weights="none", **settings), identities, converted)


def _state_of(contents: Any) -> dict[str, Tensor]:
    """The tensors of a checkpoint, under ``model``, ``state_dict``, ``detector`` or by themselves; {} without."""
    for key in ("model", "state_dict", "detector"):
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
    if isinstance(contents, dict) and all(isinstance(value, Tensor) for value in contents.values()):
        return {name.removeprefix("module."): value for name, value in contents.items()}
    return {}
