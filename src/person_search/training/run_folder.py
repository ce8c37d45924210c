"""The folder of a run: whether it may be used, and what is in it besides checkpoints and curves."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from person_search.checkpoints.checkpoint import LAST, Checkpoint, epoch_checkpoints, newest_checkpoint
from person_search.config import Config, parse_config, to_yaml
from person_search.data.fingerprint import data_difference
from person_search.data.image_sizes import aspect_ratios
from person_search.data.loading import unreadable_scenes
from person_search.data.scene import Split
from person_search.errors import CheckpointError, DataError, PersonSearchError, UsageError
from person_search.runtime.distributed import all_gather_object, rank
from person_search.runtime.files import atomic_write_text
from person_search.training.curves import METRICS
from person_search.training.resuming import CONFIG_FILE, resume_command

log = logging.getLogger(__name__)

UNREADABLE, ASPECT_RATIOS = "unreadable.txt", "aspect_ratios.json"


@dataclass
class Position:
    """How far a run is.

    Attributes:
        epoch: complete epochs.
        images: images shown in the running epoch, by all processes.
        images_per_step: images of a step at present; 0 in checkpoints of version 0.1.0.
        parts: how the running epoch went on before images per step changed in it: [images per step, images] each.
        step: steps taken, skipped ones included.
        skipped: steps skipped because the loss or the gradient was not finite.
        validated: step of the newest validation.
        best: highest validation result so far, or None.
        loss_sum, loss_steps: the losses of the running epoch, added up, and how many.
        seconds: time spent in steps.
    """

    epoch: int = 0
    images: int = 0
    images_per_step: int = 0
    parts: list[tuple[int, int]] = field(default_factory=list)
    step: int = 0
    skipped: int = 0
    validated: int = 0
    best: float | None = None
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds: float = 0.0

    def go_on_with(self, images_per_step: int) -> None:
        """Continue with steps of ``images_per_step`` images."""
        if self.images and images_per_step != self.images_per_step:
            self.parts.append((self.images_per_step, self.images - sum(images for _, images in self.parts)))
        self.images_per_step = images_per_step

    def end_epoch(self) -> None:
        """The running epoch is complete."""
        self.epoch, self.images, self.parts, self.loss_sum, self.loss_steps = self.epoch + 1, 0, [], 0.0, 0


def holds_run(run_dir: Path) -> bool:
    """Whether ``run_dir`` has anything of an earlier run that a new one would mix with."""
    return (run_dir / METRICS).exists() or any(run_dir.glob("*.pt"))


def open_run(run_dir: Path, *, resume: bool) -> tuple[Path, Checkpoint] | None:
    """The checkpoint to continue from, or None to start at the beginning: always so where there is none yet.

    Raises UsageError for a new run in a used folder, CheckpointError when no checkpoint is good.
    """
    if not resume:
        if holds_run(run_dir):
            raise UsageError(f"'{run_dir}' already holds a run; continue it with `resume` or choose another `run_dir`")
        return None
    return newest_checkpoint(run_dir)


def how_to_go_on(run_dir: Path) -> str:
    """What a run that ended before its time has left, and the command that goes on from there, for an error message."""
    if (run_dir / LAST).exists() or epoch_checkpoints(run_dir):
        return f"Checkpoints are kept; continue with: {resume_command(run_dir)}"
    if holds_run(run_dir):
        return f"No checkpoint was written yet; start from the beginning with: {resume_command(run_dir)}"
    return "No checkpoint was written yet; start it again"


def trained_with(path: Path, checkpoint: Checkpoint) -> Config | None:
    """The settings that the run of the checkpoint ``path`` had when it wrote it, whoever edited its files since.

    None where the file has none, as in version 0.1.0. Raises UsageError where this version does not know them.
    """
    settings = (checkpoint.training or {}).get("settings")
    return None if settings is None else parse_config(settings, f"checkpoint '{path}'")


def agree_on_start(start: tuple[Path, Checkpoint] | None) -> None:
    """Raise CheckpointError when the processes do not all continue from the same checkpoint. All call this."""
    own = None if start is None else (start[0].name, start[1].training)
    step = None if own is None or own[1] is None else (own[0], own[1].get("position", {}).get("step"))
    if len(set(all_gather_object(step))) > 1:
        raise CheckpointError(
            "the machines do not find the same checkpoint in the run folder; put `run_dir` on a disk that they share"
        )


def check_data(path: Path, trained_on: dict[str, Any] | None, given: dict[str, Any]) -> None:
    """Raise CheckpointError when the run of the checkpoint ``path`` was trained on other data than is ``given``.

    Checkpoints of version 0.1.0 have no record, and that is said.
    """
    if trained_on is None:
        if rank() == 0:
            log.warning(
                "'%s' does not say what it was trained on (version 0.1.0 did not note it): whether the data is still "
                "the same cannot be told",
                path,
            )
        return
    difference = data_difference(trained_on, given)
    if difference is None:
        return
    raise CheckpointError(
        f"'{path}' was trained on other data: {difference}; resume on the data it was trained on "
        "(`data_root`), or start a new run in another `run_dir`"
    )


def make_run_folder(run_dir: Path) -> None:
    """Create the folder, if need be. Raises PersonSearchError when nothing can be written into it."""
    with _written_into(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=run_dir).close()


def write_config(run_dir: Path, config: Config) -> None:
    """Write the effective config into the folder. Raises PersonSearchError when that is impossible."""
    with _written_into(run_dir):
        atomic_write_text(run_dir / CONFIG_FILE, to_yaml(config))


@contextmanager
def _written_into(run_dir: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PersonSearchError(
            f"cannot write into the run folder '{run_dir}': {error.strerror}; choose another `run_dir`"
        ) from None


def wanted_scenes(split: Split, *, all_images: bool) -> list[int]:
    """Numbers of the scenes with an identity, or of all. Raises DataError when no scene has one."""
    scenes = [number for number, scene in enumerate(split.scenes) if scene.has_identity]
    if not scenes:
        raise DataError(
            f"none of the {len(split.scenes)} training scenes of '{split.dataset}' holds a person with an identity; "
            "re-identification cannot be trained on it"
        )
    return list(range(len(split.scenes))) if all_images else scenes


def note_unreadable(
    run_dir: Path,
    split: Split,
    scenes: Sequence[int],
    workers: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the names of the images of ``scenes`` that cannot be read into the run folder, once, and warn of each."""
    path = run_dir / UNREADABLE
    if path.exists():
        return
    bad = unreadable_scenes(split, scenes, workers=workers, progress=progress)
    for error in bad.values():
        log.warning("left out of training: %s", error)
    atomic_write_text(path, "".join(f"{split.scenes[number].name}\n" for number in bad))


def note_aspect_ratios(run_dir: Path, split: Split, scenes: list[int]) -> None:
    """Write width / height of the training images into the run folder, once. Raises DataError for an unreadable one."""
    path = run_dir / ASPECT_RATIOS
    if path.exists():
        return
    ratios = aspect_ratios(split, scenes)
    names = [split.scenes[number].name for number in scenes]
    atomic_write_text(path, json.dumps(dict(zip(names, ratios, strict=True))))


def noted_aspect_ratios(run_dir: Path, split: Split, scenes: list[int]) -> list[float]:
    """Width / height of the images of ``scenes``, as noted when the run began. Raises DataError for other scenes."""
    noted = json.loads((run_dir / ASPECT_RATIOS).read_text(encoding="utf-8"))
    try:
        return [noted[split.scenes[number].name] for number in scenes]
    except KeyError as missing:
        raise DataError(
            f"'{run_dir / ASPECT_RATIOS}' knows nothing of image {missing}; delete the file if the data has changed"
        ) from None


def scenes_to_train_on(run_dir: Path, split: Split, *, all_images: bool) -> list[int]:
    """The scenes with an identity, or all, without those noted as unreadable when the run began."""
    path = run_dir / UNREADABLE
    noted = set(path.read_text(encoding="utf-8").splitlines()) if path.exists() else set()
    wanted = wanted_scenes(split, all_images=all_images)
    scenes = [number for number in wanted if split.scenes[number].name not in noted]
    if not scenes:
        raise DataError(f"no training image of '{split.dataset}' under '{split.image_root}' can be read; see '{path}'")
    return scenes
