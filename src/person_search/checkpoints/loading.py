"""From a checkpoint file to a model ready for use."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

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
from person_search.checkpoints.archives import archive_of, as_file, find_member, named, on_disk, unpacked
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
from person_search.checkpoints.model_cache import note_used, obtain
from person_search.checkpoints.model_id import model_id
from person_search.checkpoints.named_models import NamedModel, is_name, named_model
from person_search.checkpoints.origin import Layout, called, origin_of
from person_search.checkpoints.torch_files import PickledCodeError
from person_search.config import MethodSettings, method_settings, override
from person_search.errors import CheckpointError
from person_search.models.building import build_model
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.processes import usable_device

RELEASED: tuple[Layout, ...] = (
    released,
    released_seqnet,
    released_nae4ps,
    released_seqnext,
    released_oimnetpp,
    released_coat,
)
"""The layouts of other projects' checkpoints, a module each."""
WRAPPERS = ("model", "model_state_dict", "state_dict", "net", "detector")
"""Keys under which a file has its tensors, one within the other."""
SHOWN = 5
"""Names that an error shows of what a file holds."""

log = logging.getLogger(__name__)


def load_model(path: str | Path, *, device: str | torch.device = "cpu", **overrides: Any) -> PersonSearchModel:
    """A trained model in evaluation mode.

    Args:
        path: checkpoint of this package, or one that the authors of a method released (recognised by its contents); a
            run folder means its best, else its last, checkpoint. One in an archive is named as if that were a folder,
            ``logs.tar.gz/some/folder/checkpoint.pth``, or by the archive alone where it is the only one there. Where
            there is no such file or folder, the name of a released model, such as ``"seqnet-prw"``, which is fetched if
            it was not before.
        device: where to put it, as torch names devices: ``"cpu"``, ``"cuda"``, ``"cuda:1"``.
        overrides: model settings by their flat names, such as ``shorter_side``, ``longer_side``,
            ``score_threshold``.

    Raises:
        CheckpointError: the file is missing, damaged, refused, cannot be fetched, or does not fit the settings.
        UsageError: an override that is no model setting, or out of range; a device that this machine does not have.
    """
    stored = load_stored(path, device=device, **overrides)
    if stored.origin is not None:
        log.info("%s", stored.origin)
    return stored.model


@dataclass(frozen=True, eq=False)
class StoredModel:
    """A model ready for use and the checkpoint it is from.

    Attributes:
        model: with ``overrides`` applied.
        file: the checkpoint file.
        config: the model's settings as the file has them.
        home: folder for what is made of the model: that of the file, but for a named one ``runs/NAME``.
        data: what the file remembers of the scenes that the model was trained on, or None.
        evaluation: settings of the evaluation, by name, that the model's published numbers were taken with, where
            these are not the defaults.
        origin: of another project's file, what it was taken for, in one line; else None.
    """

    model: PersonSearchModel
    file: Path
    config: MethodSettings
    home: Path
    data: dict[str, Any] | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    origin: str | None = None

    @cached_property
    def model_id(self) -> str:
        """The id of the model as it is stored, whatever settings were changed for use."""
        return model_id(self.config, self.model.num_identities, self.model.state_dict())


def load_stored(path: str | Path, *, device: str | torch.device = "cpu", **overrides: Any) -> StoredModel:
    """``load_model`` that also says which file and which model it was."""
    device = usable_device(device)
    file, checkpoint = find_and_open(path)
    config = override(checkpoint.model_config, overrides)
    model = build_model(config, checkpoint.num_identities, load_weights=False)
    load_model_state(model, checkpoint, file)
    origin = checkpoint.origin and checkpoint.origin.describe(checkpoint.model_config, checkpoint.num_identities)
    return StoredModel(
        model.eval().to(device),
        file,
        checkpoint.model_config,
        # Nobody looks for results in a cache, which may be deleted at any time.
        Path("runs", path) if is_name(path) else on_disk(file).parent,
        checkpoint.data,
        checkpoint.evaluation,
        f"'{file}' is {origin}" if origin else None,
    )


def find_and_open(path: str | Path) -> tuple[Path, Checkpoint]:
    """The file that ``find_checkpoint`` finds, and the checkpoint in it; of a name, what is listed for it."""
    file = find_checkpoint(path)
    return file, _open_named(named_model(str(path)), file) if is_name(path) else open_checkpoint(file)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that is meant by ``path``.

    That is ``path`` itself; for a run folder its best or else its last checkpoint; for an archive the only one in it;
    for the name of a model, where there is no such file or folder, its file in the cache, which is fetched if need be.
    Raises CheckpointError, and UsageError for a list of models that is wrong.
    """
    if is_name(path):
        return _file_of(named_model(str(path)))
    path = Path(path)
    if not path.is_dir():
        return path if archive_of(path) is None else find_member(path)
    for name in (BEST, LAST):
        if (path / name).exists():
            return path / name
    raise CheckpointError(f"the folder '{path}' holds no {BEST} or {LAST}; give a checkpoint file or a run folder")


def _open_named(model: NamedModel, file: Path) -> Checkpoint:
    """The checkpoint in the cache, noted as that of ``model`` when it is. Raises CheckpointError."""
    try:
        checkpoint = open_checkpoint(file)
        method, identities = checkpoint.model_config.method, checkpoint.num_identities
        if not model.is_model(method, identities):
            listed = f", {' or '.join(map(str, model.facts.identities))} identities" if model.facts.identities else ""
            raise CheckpointError(
                f"it is listed as {model.facts.method}{listed}, but '{file}' holds {method}, {identities} identities"
            )
    except CheckpointError as error:
        raise CheckpointError(
            f"model '{model.name}': {error}. Remove '{on_disk(file)}' to fetch it again, or put there what "
            f"{model.page} gives"
        ) from None
    note_used(model)
    return checkpoint


def _file_of(model: NamedModel) -> Path:
    file = obtain(model)
    if model.facts.archive is None:
        return file
    return select_member(file, lambda found: model.is_model(found.model_config.method, found.num_identities))


def open_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint of this package or of another project, in our names. Nothing in the file is executed.

    Raises CheckpointError that says what is wrong with the file.
    """
    with as_file(path) as file:
        return _open(file, path)


def select_member(archive: Path, accept: Callable[[Checkpoint], bool]) -> Path:
    """The one checkpoint in ``archive`` that ``accept`` takes, as a path for ``open_checkpoint``.

    For archives of which it is known what is in them, but not under which names. Raises CheckpointError where
    ``accept`` takes none or several.
    """
    taken: list[str] = []
    others: list[str] = []
    for name, file in unpacked(archive):
        try:
            accepted = accept(_open(file, archive / name))
        except CheckpointError as error:
            log.info("%s", error)
            accepted = False
        (taken if accepted else others).append(name)
    if len(taken) == 1:
        return archive / taken[0]
    if taken:
        raise CheckpointError(
            f"archive '{archive}' holds {len(taken)} such checkpoints, {named(taken)}; name one of them"
        )
    held = f"it holds {named(others)}" if others else "it holds none at all"
    raise CheckpointError(f"archive '{archive}' holds no such checkpoint; {held}")


def _open(file: Path, path: Path) -> Checkpoint:
    """The checkpoint in ``file``, which errors call ``path``."""
    try:
        try:
            contents = read_tensors(file)
        except PickledCodeError:
            contents = load_inert(file)
    except CheckpointError as error:
        # A copy of what lies in an archive has a name that says nothing.
        raise CheckpointError(str(error).replace(str(file), str(path))) from None
    if isinstance(contents, dict) and contents.get("format") == FORMAT:
        return as_checkpoint(contents, path)
    state, keys = _state_of(contents)
    layout = next((layout for layout in RELEASED if layout.is_released(state)), None)
    if layout is None:
        known = ", ".join(map(called, RELEASED))
        raise CheckpointError(
            f"'{path}' holds neither a {FORMAT} nor a released checkpoint of a known layout: "
            f"{_found(contents, state, keys)}; known are those of {known}"
        )
    held = contents.get("config") if keys else None
    try:
        settings = layout.recognise(state, held if isinstance(held, dict) else {})
        evaluation = layout.evaluation_settings(settings)
        identities = settings.pop("num_identities")
        converted = layout.convert(state)
        origin = origin_of(layout, state)
    except CheckpointError as error:
        raise CheckpointError(f"checkpoint '{path}' was taken for {called(layout)}: {error}") from None
    config = method_settings(weights="none", **settings)
    return Checkpoint(config, identities, converted, evaluation=evaluation, origin=origin)


def _state_of(contents: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a checkpoint and the keys that they lie under; {} where there are none, or no numbers and words.

    Beginnings of names that PyTorch's wrappers add, for several processes or for compiling, are left out.
    """
    keys = []
    for key in WRAPPERS:
        if isinstance(contents, dict) and isinstance(contents.get(key), dict):
            contents = contents[key]
            keys.append(key)
    plain = (Tensor, int, float, str, NoneType)
    if not isinstance(contents, dict) or not all(isinstance(value, plain) for value in contents.values()):
        return {}, keys
    tensors = {str(name): value for name, value in contents.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module.").removeprefix("_orig_mod."): value for name, value in tensors.items()}, keys


def _found(contents: Any, state: dict[str, Tensor], keys: list[str]) -> str:
    """What an unknown file holds, in words."""
    if state:
        under = f" under '{'.'.join(keys)}'" if keys else ""
        names = [f"'{name}' {tuple(value.shape)}" for name, value in list(state.items())[:SHOWN]]
        return f"it has {len(state)} tensors{under}, such as {', '.join(names)}"
    if not isinstance(contents, dict):
        return f"it has a {type(contents).__name__}, expected a dict of tensors"
    if not contents:
        return "it is empty"
    listed = ", ".join(repr(key) for key in list(contents)[:SHOWN])
    return f"it has {listed}, but no dict of tensors, by itself or under {', '.join(map(repr, WRAPPERS))}"
