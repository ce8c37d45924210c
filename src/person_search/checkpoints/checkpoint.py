"""Checkpoint files: written so that the last good one is never lost, read so that nothing in them is executed."""

from __future__ import annotations

import errno
import logging
import pickle
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from person_search.checkpoints.origin import Origin
from person_search.checkpoints.torch_files import PickledCodeError, check_torch_file, damaged
from person_search.config import EvaluationConfig, MethodSettings, read_method_settings
from person_search.config.reading import describe
from person_search.errors import CheckpointError, UsageError
from person_search.models.person_search_model import PersonSearchModel
from person_search.registry import losses
from person_search.runtime.files import atomic_write

log = logging.getLogger(__name__)

FORMAT = "person-search checkpoint"
VERSION = 2
READABLE = (1, VERSION)
"""Formats that can be read; in 1 all model settings were side by side."""
LAST, BEST = "last.pt", "best.pt"
NAMED = 5
"""Broken tensors that an error names one by one."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        model_config, num_identities: what ``build_model`` needs to make the model again.
        model: its state dict, on the CPU.
        training: what else a run needs to continue (plain values and tensors); None in a file only for use.
        data: what is remembered of the scenes that it was trained on; None where it is not known, as in files of
            version 0.1.0.
        evaluation: settings of the evaluation, by name, that its published numbers were taken with and that are not
            the defaults; they hold where nobody says otherwise.
        origin: of another project's file, which one it is and what the tensors are called there.
    """

    model_config: MethodSettings
    num_identities: int
    model: dict[str, Tensor]
    training: dict[str, Any] | None = None
    data: dict[str, Any] | None = None
    evaluation: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = None


def epoch_name(epoch: int) -> str:
    """File name of the checkpoint written when ``epoch`` epochs are complete."""
    return f"epoch-{epoch:03d}.pt"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path``, or leave what is there untouched and raise CheckpointError.

    The file is written under another name in the same folder, synced and renamed, so that neither a crash nor a
    full disk can leave half a checkpoint under its name.
    """
    contents = {
        "format": FORMAT,
        "version": VERSION,
        "model_config": checkpoint.model_config.model_dump(mode="json"),
        "num_identities": checkpoint.num_identities,
        "model": dict(checkpoint.model),
        "training": checkpoint.training,
        "data": checkpoint.data,
        "evaluation": checkpoint.evaluation,
    }
    try:
        with atomic_write(path) as file:
            torch.save(contents, file)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError raised while the file's OSError is handled, or the reverse.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        full = reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "check the folder and its permissions"
        raise CheckpointError(
            f"cannot write checkpoint '{path}': {reason.strerror}; what was there before is kept; {advice} and resume"
        ) from None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, never executing anything in it.

    Raises CheckpointError for a file that is missing, cut short, damaged, holds pickled code, or is something else.
    """
    return as_checkpoint(read_tensors(path), path)


def as_checkpoint(contents: Any, path: Path) -> Checkpoint:
    """What ``read_tensors`` found in the file at ``path``. Raises CheckpointError where it is no whole checkpoint."""
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' holds something other than a {FORMAT}; expected a file that training wrote")
    if contents.get("version") not in READABLE:
        raise CheckpointError(
            f"'{path}' has checkpoint format {contents.get('version')}, this version reads "
            f"{' and '.join(map(str, READABLE))}; use the version of person-search that wrote it"
        )
    try:
        config = read_method_settings(contents["model_config"], f"checkpoint '{path}'")
        state = contents["model"]
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError("model is no dict of tensors")
        identities = contents["num_identities"]
        if type(identities) is not int or identities < 1:
            raise TypeError(f"num_identities is {identities!r}")
        evaluation = EvaluationConfig.model_validate(contents.get("evaluation", {}))
        return Checkpoint(
            config,
            identities,
            state,
            contents["training"],
            contents.get("data"),
            evaluation.model_dump(exclude_unset=True),
        )
    except UsageError as error:
        raise CheckpointError(f"this version cannot read all settings of {error}") from None
    except ValidationError as error:
        raise CheckpointError(f"this version cannot read the evaluation of '{path}': {describe(error)}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"'{path}' is an incomplete {FORMAT}: {error!r}; use another checkpoint") from None


def read_tensors(path: Path) -> Any:
    """What ``torch.save`` wrote to ``path``: tensors and plain values only. Raises CheckpointError otherwise."""
    check_torch_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise PickledCodeError(
            f"checkpoint '{path}' holds pickled code, not only tensors and plain values; it was refused and nothing "
            "in it was executed"
        ) from None
    except (
        OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AssertionError, MemoryError,
        struct.error,
    ):  # fmt: skip
        raise damaged(path) from None


def newest_checkpoint(run_dir: Path) -> tuple[Path, Checkpoint] | None:
    """The newest good checkpoint of a run, or None where there is no checkpoint at all.

    ``last.pt`` is the newest, then the epochs from the last to the first; one that is damaged or not finite is skipped
    with a warning.
    Raises CheckpointError when all are damaged, or have a model alone.
    """
    found = [path for path in (run_dir / LAST, *reversed(epoch_checkpoints(run_dir))) if path.exists()]
    models = sorted(path.name for path in run_dir.glob("*.pt"))
    if models and not found:
        raise CheckpointError(
            f"'{run_dir}' holds {', '.join(models)} but no {LAST} or {epoch_name(1)}: only these have what a run goes "
            "on from, a model alone has not, so nothing was started; put one back, or start a new run in another "
            "`run_dir` with `init_from` the model"
        )
    for path in found:
        try:
            checkpoint = read_checkpoint(path)
            check_finite(checkpoint.model, f"checkpoint '{path}' is broken")
        except CheckpointError as error:
            log.warning("skipping a checkpoint: %s", error)
            continue
        if checkpoint.training is not None:
            return path, checkpoint
        log.warning("skipping a checkpoint: '%s' holds a model alone, without what a run goes on from", path)
    if found:
        raise CheckpointError(f"no checkpoint in '{run_dir}' is good ({len(found)} tried); start a new run elsewhere")
    return None


def epoch_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of whole epochs in ``run_dir``, the oldest first."""
    named = (path for path in run_dir.glob("epoch-*.pt") if re.fullmatch(r"epoch-\d+\.pt", path.name))
    return sorted(named, key=_epoch_of)


def drop_old_checkpoints(run_dir: Path, *, epoch: int, keep: int) -> None:
    """Remove all but the ``keep`` newest checkpoints of epochs up to ``epoch`` that are on the disk."""
    # Counted as files: of an epoch whose weights were in doubt none was written.
    for path in [path for path in epoch_checkpoints(run_dir) if _epoch_of(path) <= epoch][:-keep]:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("cannot remove '%s': %s", path, error.strerror)


def check_finite(tensors: dict[str, Tensor], what: str) -> None:
    """Raise CheckpointError, of ``what``, that names the tensors with values that are NaN or infinite."""
    counts = {
        name: (int((~torch.isfinite(value)).sum()), value.numel())
        for name, value in tensors.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    }
    if counts:
        named = [f"'{name}' ({bad} of {of} values)" for name, (bad, of) in list(counts.items())[:NAMED]]
        more = f" and {len(counts) - NAMED} more" if len(counts) > NAMED else ""
        raise CheckpointError(
            f"{what}: {len(counts)} of {len(tensors)} tensors hold NaN or infinity: {', '.join(named)}{more}; "
            "use a checkpoint from before its training broke"
        )


def load_model_state(model: PersonSearchModel, checkpoint: Checkpoint, path: Path) -> None:
    """Load all weights and buffers.

    Raises CheckpointError naming the first difference between file and model, or the tensors that are not finite.
    """
    if checkpoint.num_identities != model.num_identities:
        raise CheckpointError(
            f"checkpoint '{path}' was trained on {checkpoint.num_identities} identities, the data has "
            f"{model.num_identities}; use the data it was trained on"
        )
    difference = _other_method(model, checkpoint) or _first_difference(
        model.state_dict(), checkpoint.model, checkpoint.origin
    )
    if difference:
        taken_for = f" was taken for {checkpoint.origin} and" if checkpoint.origin else ""
        advice = "it may be of another version of that project" if checkpoint.origin else "use its own settings"
        raise CheckpointError(
            f"checkpoint '{path}'{taken_for} does not fit this model of the method '{model.config.method}': "
            f"{difference}; {advice}"
        )
    check_finite(checkpoint.model, f"checkpoint '{path}' is broken")
    model.load_state_dict(checkpoint.model)


def start_from(model: PersonSearchModel, checkpoint: Checkpoint, path: Path) -> None:
    """Start ``model`` from a checkpoint of perhaps other data: all of it but what belongs to identities.

    The checkpoint may be of another method, or lack parts, where the model says how to start from that
    (``weights_from``).
    Raises CheckpointError where the rest differs or is not finite.
    """
    own = identity_names(model)
    wanted = {name: value for name, value in model.state_dict().items() if name not in own}
    state = model.weights_from(checkpoint.model_config.method, checkpoint.model)
    given = {name: value for name, value in (state or {}).items() if name not in own}
    other = _other_method(model, checkpoint)
    difference = other if state is None else _first_difference(wanted, given, None if other else checkpoint.origin)
    if difference:
        raise CheckpointError(f"cannot start from checkpoint '{path}': {difference}; use its model settings")
    check_finite(given, f"cannot start from checkpoint '{path}'")
    model.load_state_dict(given, strict=False)


def identity_names(model: PersonSearchModel) -> set[str]:
    """Names in the state dict that belong to training identities: those of the re-ID loss modules."""
    kinds = tuple(losses.get(name) for name in losses.names())
    prefixes = tuple(f"{name}." for name, part in model.named_modules() if isinstance(part, kinds))
    return {name for name in model.state_dict() if prefixes and name.startswith(prefixes)}


def _other_method(model: PersonSearchModel, checkpoint: Checkpoint) -> str | None:
    found, wanted = checkpoint.model_config.method, model.config.method
    return f"it is of the method '{found}', the model of '{wanted}'" if found != wanted else None


def _first_difference(wanted: dict[str, Tensor], given: dict[str, Tensor], origin: Origin | None = None) -> str | None:
    def named(ours: str) -> str:
        theirs = origin.name_in_file(ours) if origin else ours
        return f"'{ours}'" if theirs == ours else f"'{theirs}' (here '{ours}')"

    for name, value in wanted.items():
        if name not in given:
            return f"it lacks {named(name)}, of shape {tuple(value.shape)}"
        if given[name].shape != value.shape:
            return f"{named(name)} is {tuple(given[name].shape)}, the model wants {tuple(value.shape)}"
        if problem := _unlike(value, given[name]):
            return f"{named(name)} {problem}"
    extra = next((name for name in given if name not in wanted), None)
    return f"the model has no {named(extra)}, which is {tuple(given[extra].shape)} in the file" if extra else None


def _unlike(wanted: Tensor, given: Tensor) -> str | None:
    # Copied as they are, weights would lose their fractions, or their imaginary parts, without a word.
    if given.layout != torch.strided or given.is_quantized or given.is_meta:
        kind = "on the device meta" if given.is_meta else "quantised" if given.is_quantized else str(given.layout)
        return f"is {kind.removeprefix('torch.')}, the model wants a dense tensor"
    if wanted.is_floating_point() and not given.is_floating_point():
        return f"holds {given.dtype}, the model wants floating-point numbers".replace("torch.", "")
    return None


def _epoch_of(path: Path) -> int:
    return int(path.stem.removeprefix("epoch-"))
