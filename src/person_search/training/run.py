"""One training on one process: the loop, and what a checkpoint keeps of it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from person_search.checkpoints.checkpoint import (
    BEST,
    LAST,
    Checkpoint,
    check_finite,
    drop_old_checkpoints,
    epoch_name,
    load_model_state,
    save_checkpoint,
)
from person_search.config import Config, to_builtins
from person_search.config.sections import flat
from person_search.data.fingerprint import data_record
from person_search.data.loading import Batch, TrainingOrder, raise_errors, training_batches
from person_search.data.scene import Split
from person_search.errors import CheckpointError, DataError, UsageError
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.distributed import (
    all_gather_object,
    average_statistics,
    errors_on_all_ranks,
    raise_on_all_ranks,
)
from person_search.runtime.processes import random_state, set_random_state
from person_search.runtime.stopping import InterruptedRunError, StoppedWaitingError, StopRequest, stop_on_signals
from person_search.training.curves import Curves, RunningMeans
from person_search.training.divergence import SkippedSteps
from person_search.training.optimizers import build_optimizers, restore_optimizer, set_learning_rates
from person_search.training.progress import RunProgress
from person_search.training.resuming import (
    CONFIG_FILE,
    resume_command,
)
from person_search.training.run_folder import (
    Position,
    check_data,
    noted_aspect_ratios,
    scenes_to_train_on,
)
from person_search.training.schedules import build_schedules
from person_search.training.step import StepResult, TrainingStep
from person_search.training.validation import Validation, selection_metric

log = logging.getLogger(__name__)

PICTURES_EVERY = 5
"""Logged rows between pictures of proposals."""


@dataclass(frozen=True)
class TrainingOutcome:
    """What a finished run left.

    Attributes:
        last, best: checkpoint files; best is None without validation.
        step, epoch, skipped: steps taken, epochs completed, steps skipped as not finite.
        best_result: validation mAP of ``best`` (detection AP where no search was asked).
        seconds: time spent in steps.
    """

    last: Path
    best: Path | None
    step: int
    epoch: int
    skipped: int
    best_result: float | None
    seconds: float


class Run:
    """One training on one process: everything that changes while it goes on, and that a checkpoint keeps."""

    def __init__(
        self,
        config: Config,
        fabric: Any,
        scaler: torch.amp.GradScaler | None,
        model: PersonSearchModel,
        split: Split,
        validation: Validation | None,
    ):
        self.config, self.fabric, self.scaler, self.model = config, fabric, scaler, model
        self.validation = validation
        settings = config.training
        scenes = scenes_to_train_on(settings.run_dir, split, all_images=settings.all_images)
        self.order = TrainingOrder(
            scenes,
            flip=settings.flip,
            flip_at_random=settings.flip_at_random,
            batch_size=settings.batch_size,
            accumulate=settings.accumulate,
            seed=settings.seed,
            rank=fabric.global_rank,
            processes=fabric.world_size,
            aspect_ratios=noted_aspect_ratios(settings.run_dir, split, scenes)
            if settings.group_by_aspect_ratio
            else None,
        )
        self.loader = training_batches(split, self.order, workers=config.data.workers, pin=fabric.device.type == "cuda")
        self.optimizers = build_optimizers(model, settings)
        self.schedules = build_schedules(settings, self.order.steps)
        self.take_step = TrainingStep(
            fabric,
            model,
            list(self.optimizers.values()),
            clip_grad=settings.clip_grad,
            unclipped=model.unclipped_parameters(),
            scaler=scaler,
        )
        self.data = data_record(split)
        self.position = Position(images_per_step=self.order.images_per_step)
        self.skipped = SkippedSteps(config)
        self.total_steps = self._count_steps()
        self.curves: Curves | None = None
        self.means = RunningMeans()
        # What a plug-in draws for its images, processes draw differently; the weights they start from are the same.
        torch.manual_seed(settings.seed + fabric.global_rank)
        self.randomness = random_state(fabric.device)

    def _count_steps(self) -> int:
        """Steps taken when the run is over: those taken so far, in steps of whatever size, and those left."""
        position, settings = self.position, self.config.training
        self.order.start_at(position.epoch, position.images, position.parts)
        epochs_left = settings.max_epochs - position.epoch
        left = len(self.order.step_sizes) + (epochs_left - 1) * self.order.steps if epochs_left > 0 else 0
        whole = position.step + left
        return whole if settings.max_steps is None else min(whole, settings.max_steps)

    # The loop.

    def fit(self, *, show_progress: bool) -> TrainingOutcome:
        """Train to the end."""
        settings = self.config.training
        if self.fabric.is_global_zero:
            self.curves = Curves(settings.run_dir, from_step=self.position.step)
        progress = RunProgress(total=self.total_steps, done=self.position.step, shown=show_progress)
        try:
            with stop_on_signals() as stop, progress:
                set_random_state(self.randomness, self.fabric.device)
                self._validate_if_due(stop, progress)
                while not self.finished:
                    self._run_epoch(stop, progress)
                    self._validate_if_due(stop, progress)
                with errors_on_all_ranks():
                    self.skipped.at_end()
        finally:
            if self.curves:
                self.curves.close()
        best = settings.run_dir / BEST
        position = self.position
        return TrainingOutcome(
            last=settings.run_dir / LAST,
            best=best if best.exists() else None,
            step=position.step,
            epoch=position.epoch,
            skipped=position.skipped,
            best_result=position.best,
            seconds=position.seconds,
        )

    @property
    def finished(self) -> bool:
        """Whether the last epoch or the last step is done."""
        return self.position.step >= self.total_steps or self.position.epoch >= self.config.training.max_epochs

    def _run_epoch(self, stop: StopRequest, progress: RunProgress) -> None:
        """The rest of the running epoch, or as far as the run goes. Raises InterruptedRunError when told to stop."""
        position = self.position
        self.order.start_at(position.epoch, position.images, position.parts)
        self.model.train()
        batches = iter(self.loader)
        for size in self.order.step_sizes:
            result = self._step(batches, size, stop)
            progress.step(position.step, f"loss {result.loss:.3f}")
            if result.stop:
                self._save(LAST)
                raise_on_all_ranks(self._interruption())
            if position.step >= self.total_steps:
                break
            every = self.config.training.checkpoint_every
            if every and position.step % every == 0 and position.images < self.order.end:
                self._save(LAST)
        if position.images >= self.order.end:
            self._end_epoch()
        self._save(LAST)

    def _step(self, batches: Iterator[Batch | DataError], size: int, stop: StopRequest) -> StepResult:
        """Take and note the next step of the epoch, of ``size`` images."""
        began = time.perf_counter()
        position, settings = self.position, self.config.training
        # Schedules count in steps of the present size, whatever the size of those before.
        number = min(position.images // self.order.images_per_step, self.order.steps - 1)
        rates = set_learning_rates(self.optimizers, self.schedules, epoch=position.epoch, step=number)
        try:
            with stop.waiting(alone=self.fabric.world_size == 1):
                group = list(raise_errors(islice(batches, self.order.batches_in(size))))
        except StoppedWaitingError:
            self._save(LAST)
            raise self._interruption() from None
        show = (
            self.curves is not None and settings.display and position.step % (PICTURES_EVERY * settings.log_every) == 0
        )
        self.model.keep_samples = show
        result = self.take_step(group, stop=stop.wanted)
        position.step += 1
        position.images += size
        position.seconds += time.perf_counter() - began
        if result.skipped:
            position.skipped += 1
            log.log(
                logging.WARNING if self.fabric.is_global_zero else logging.DEBUG,
                "step %d: the %s is not finite; the batch was skipped (%d so far)",
                position.step,
                "gradient" if math.isfinite(result.loss) else "loss",
                position.skipped,
            )
        else:
            position.loss_sum += result.loss
            position.loss_steps += 1
            self.means.add({"loss": result.loss} | result.values)
        if self.curves and (position.step % settings.log_every == 0 or position.step == self.total_steps):
            row = self.means.take() | rates | {"skipped": position.skipped}
            self.curves.add(step=position.step, epoch=position.epoch + 1, values=row)
        if self.curves and show:
            # What draws is imported by runs that display.
            from person_search.training.pictures import show_proposals

            show_proposals(self.curves, group[-1], self.model.samples, step=position.step)
            self.model.samples = []
        with errors_on_all_ranks() if result.skipped else nullcontext():
            self.skipped.note(result.skipped)
        return result

    def _end_epoch(self) -> None:
        position = self.position
        mean_loss = position.loss_sum / position.loss_steps if position.loss_steps else math.nan
        for schedule in self.schedules.values():
            schedule.end_epoch(mean_loss)
        position.end_epoch()
        self._save(epoch_name(position.epoch))
        keep = self.config.training.keep_checkpoints
        if keep is not None and self.fabric.is_global_zero:
            drop_old_checkpoints(self.config.training.run_dir, epoch=position.epoch, keep=keep)

    def _validate_if_due(self, stop: StopRequest, progress: RunProgress) -> None:
        """Validate where the schedule says so, or at the end; the checkpoint before it is already written."""
        position = self.position
        if self.validation is None or position.validated >= position.step or self.skipped.doubtful:
            return
        if not self._validation_is_due():
            return

        def show(done: int, total: int) -> None:
            progress.subtask("validation", done, total)
            if stop.wanted:
                raise self._interruption()

        average_statistics(self.model)
        try:
            with stop.waiting(alone=self.fabric.world_size == 1):
                metrics = self.validation.run(self.model, self.config, progress=show)
        except StoppedWaitingError:
            raise self._interruption() from None
        position.validated = position.step
        result = selection_metric(metrics)
        if result > (-math.inf if position.best is None else position.best):
            position.best = result
            self._save(BEST, for_use=True)
        self._save(LAST)
        if self.curves:
            self.curves.add(step=position.step, epoch=position.epoch, values=metrics)
            if self.config.training.display and self.validation.results:
                from person_search.training.pictures import show_rankings

                show_rankings(self.curves, self.validation.results, self.validation.split, step=position.step)

    def _validation_is_due(self) -> bool:
        """Whether the run is over, or at the end of an epoch after which the settings want validation."""
        settings, epoch = self.config.training, self.position.epoch
        if self.finished:
            return True
        if self.position.images:
            return False
        if settings.validate_epochs is not None:
            return epoch in settings.validate_epochs
        return epoch % settings.validate_every == 0

    def _interruption(self) -> InterruptedRunError:
        run_dir = self.config.training.run_dir
        written = f"'{run_dir / LAST}' is written"
        kept = "the checkpoints from before steps were skipped are kept" if self.skipped.doubtful else written
        return InterruptedRunError(
            f"stopped after step {self.position.step} of {self.total_steps}; {kept}; "
            f"continue with: {resume_command(run_dir)}"
        )

    # Checkpoints.

    def _save(self, name: str, *, for_use: bool = False) -> None:
        """Write a checkpoint: to resume from, or ``for_use``, with the model alone. All processes call this.

        Weights with which steps fail do not take the place of good ones.
        """
        if self.skipped.doubtful:
            log.warning("'%s' is not written: the newest steps were skipped as not finite", name)
            return
        average_statistics(self.model)
        randomness = all_gather_object(random_state(self.fabric.device))
        with errors_on_all_ranks():
            if self.fabric.is_global_zero:
                training = None if for_use else self._training_state(randomness)
                if training is not None and name == LAST:
                    training |= self._remembered()
                check_finite(self.model.state_dict(), f"the weights are broken after step {self.position.step}")
                contents = Checkpoint(
                    self.model.config, self.model.num_identities, self.model.state_dict(), training, self.data
                )
                save_checkpoint(self.config.training.run_dir / name, contents)

    def _training_state(self, randomness: list[dict[str, torch.Tensor]]) -> dict[str, Any]:
        return {
            "optimizers": {
                name: {"kind": type(optimizer).__name__, "state": optimizer.state_dict()}
                for name, optimizer in self.optimizers.items()
            },
            "schedules": {name: schedule.state_dict() for name, schedule in self.schedules.items()},
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "position": asdict(self.position),
            "randomness": randomness,
            "settings": to_builtins(self.config.model_dump()),
        }

    def _remembered(self) -> dict[str, Any]:
        """What the model remembers of scenes, which is large: in the newest checkpoint alone, if at all."""
        memory = self.model.scene_memory
        return {"scene_memory": memory.state()} if memory is not None and self.config.training.checkpoint_memory else {}

    def restore(self, path: Path, checkpoint: Checkpoint, *, began_with: Config) -> None:
        """Continue from ``checkpoint``, written with the settings ``began_with``.

        Raises CheckpointError when it is of another training, UsageError for fewer steps than it has taken.
        """
        state = checkpoint.training or {}
        check_data(path, checkpoint.data, self.data)
        given = flat(self.config.model)
        changed = [key for key, value in flat(checkpoint.model_config).items() if value != given.get(key, value)]
        if changed:
            raise CheckpointError(
                f"checkpoint '{path}' was trained with other model settings than '{CONFIG_FILE}' beside it has now: "
                f"{', '.join(changed)}; make them what they were"
            )
        load_model_state(self.model, checkpoint, path)
        kinds = {name: type(optimizer).__name__ for name, optimizer in self.optimizers.items()}
        try:
            saved = {name: value["kind"] for name, value in state["optimizers"].items()}
            if saved != kinds:
                raise CheckpointError(
                    f"checkpoint '{path}' was trained with {saved}, the settings ask for {kinds}; keep the optimisers"
                )
            for name, optimizer in self.optimizers.items():
                restore_optimizer(optimizer, state["optimizers"][name]["state"])
            for name, schedule in self.schedules.items():
                schedule.load_state_dict(state["schedules"][name])
            if self.scaler and state["scaler"]:
                self.scaler.load_state_dict(state["scaler"])
            if self.model.scene_memory is not None and "scene_memory" in state:
                self.model.scene_memory.load(state["scene_memory"])
            position = Position(**state["position"])
            randomness = state["randomness"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"checkpoint '{path}' does not fit this training ({error!r}); resume with its settings"
            ) from None
        if self.model.scene_memory is not None and "scene_memory" not in state and self.fabric.is_global_zero:
            log.warning(
                "'%s' does not hold the scenes that the gallery filter network remembers; it begins with none again",
                path,
            )
        # A process that the saved run did not have keeps its own start.
        if self.fabric.global_rank < len(randomness):
            self.randomness = randomness[self.fabric.global_rank]
        before = began_with.training
        position.images_per_step = position.images_per_step or before.batch_size * before.accumulate * len(randomness)
        position.go_on_with(self.order.images_per_step)
        self.position = position
        self.total_steps = self._count_steps()
        if self.total_steps < position.step:
            raise UsageError(
                f"`max_steps` {self.total_steps}: '{path}' has taken {position.step} already; expected that or more"
            )
