"""What one process does alone in the tests, and two do together: run by torchrun, and imported by the tests."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from conftest import TinyDataset, make_split, tiny_config
from person_search.checkpoints.checkpoint import save_checkpoint
from person_search.config import Config
from person_search.data.loading import Batch
from person_search.data.scene import Split
from person_search.data.target import Target
from person_search.errors import PersonSearchError
from person_search.evaluation.predict import predict
from person_search.models.building import build_model
from person_search.models.person_search_model import PersonSearchModel
from person_search.runtime.distributed import all_gather_object, average_statistics, rank, world_size
from person_search.runtime.fabric import start_fabric
from person_search.runtime.launch import leave_group
from person_search.training import run as training_run
from person_search.training import trainer
from person_search.training.step import TrainingStep

THREADS = Path("/proc/self/task")
TRAININGS: dict[str, dict[str, Any]] = {
    "baseline": {"validate_every": 1},
    # One image and, now and then, one row for re-ID in a process.
    "softmax": {"reid_loss": "softmax", "uni_optim": True, "levels": ("C4", "C5"), "accumulate": 2, "pk_per_person": 1},
    "oim": {"method": "oim"},
    "nae": {"method": "nae", "accumulate": 2},
    "seqnet": {"method": "seqnet"},
    "nae4ps": {"method": "nae4ps"},
    "nae-plus": {"method": "nae-plus"},
    # Blocks are left out at random, and the first stage is a stem of its own.
    "seqnext": {"method": "seqnext", "backbone": "convnext_tiny"},
    "oimnet+++": {"method": "oimnet+++"},
    "proto": {"method": "oim", "embedding_norm": "proto"},
    "coat": {"method": "coat"},
    # Every process holds the scenes of all in its memory, and compares with all.
    "gfn": {"method": "seqnet", "gfn": True},
    "gfn-separate": {"gfn": True, "gfn_objective": "separate", "gfn_query": "oim", "accumulate": 2},
}
"""Settings of the trainings that must not depend on the number of processes."""
METHODS: dict[str, dict[str, Any]] = {
    name: {"method": name}
    for name in ("baseline", "oim", "nae", "seqnet", "nae4ps", "nae-plus", "seqnext", "oimnet+++", "coat")
} | {"gfn": {"method": "seqnet", "gfn": True}}
"""Settings of the models whose steps must not."""


@contextlib.contextmanager
def frozen_normalisation() -> Iterator[None]:
    """Batch normalisation as in evaluation: otherwise each process normalises by its own images."""
    train = PersonSearchModel.train

    def frozen(self: PersonSearchModel, mode: bool = True) -> PersonSearchModel:
        train(self, mode)
        for part in self.modules():
            if isinstance(part, _BatchNorm):
                part.eval()
        return self

    with mock.patch.object(PersonSearchModel, "train", frozen):
        yield


def config_of(root: Path, name: str, **settings: Any) -> Config:
    """The tiny config in ``root / name``, for a step of 4 images whatever the number of processes."""
    accumulate = settings.get("accumulate", 1)
    shared = {"batch_size": 4 // world_size() // accumulate, "lr": 0.01, "clip_grad": 20, "score_threshold": 0.0}
    return tiny_config(root / name, **(shared | settings))


def run_trainings(root: Path, data: Path) -> None:
    with frozen_normalisation():
        for name, settings in TRAININGS.items():
            train(config_of(root, name, **settings), data)


def train(config: Config, data: Path, *, resume: bool = False) -> None:
    trainer.train(config, resume=resume, dataset=TinyDataset(data), show_progress=False)


def train_on_gpus(root: Path, data: Path) -> None:
    """Normalisation over the images of all processes together, which only GPUs can: none is frozen."""
    train(config_of(root, "synchronised", device="cuda", sync_batch_norm=True), data)


def resume_alone_begun(root: Path, data: Path) -> None:
    """Go on with what one process began in ``root / begun``."""
    with frozen_normalisation():
        train(config_of(root, "begun", **TRAININGS["baseline"]), data, resume=True)


def uneven_step(root: Path, data: Path) -> None:
    """Steps in which the second half of the images holds nobody at all, of which one is not finite."""
    for name, settings in METHODS.items():
        with frozen_normalisation():
            model, step = make_step(config_of(root, "step", **settings))
            images, targets = some_images()
            good = step([own_half(images, targets)])
            before = {key: value.clone() for key, value in model.state_dict().items()}
            stored = None if model.scene_memory is None else dict(model.scene_memory.scenes)
            images[-1][:] = float("nan")
            bad = step([own_half(images, targets)])
        assert bad.skipped
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert stored is None or (len(stored) == 4 and model.scene_memory.scenes == stored)
        if rank() == 0:
            torch.save({"model": before, "values": good.values | {"loss": good.loss}}, root / f"step-{name}.pt")


def make_step(config: Config) -> tuple[PersonSearchModel, TrainingStep]:
    fabric, _ = start_fabric(config.training)
    torch.manual_seed(0)
    model = build_model(config.model, 4, load_weights=False).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    return model, TrainingStep(fabric, model, [optimizer], clip_grad=20)


def some_images() -> tuple[list[torch.Tensor], list[Target]]:
    """Four images: people with and without identity in the first two, nobody in the others."""
    draw = torch.Generator().manual_seed(3)
    images = [torch.rand(3, 64, 96, generator=draw) for _ in range(4)]
    boxes = torch.tensor([[8.0, 4, 26, 44], [50, 10, 68, 50]])
    ids = [[0, -1], [2, 3], [], []]
    return images, [
        Target(boxes[: len(who)], torch.tensor(who, dtype=torch.int64), torch.zeros(0, 4), seed=number, scene=number)
        for number, who in enumerate(ids)
    ]


def own_half(images: list[torch.Tensor], targets: list[Target]) -> Batch:
    """This process's consecutive share."""
    size = len(images) // world_size()
    own = slice(rank() * size, (rank() + 1) * size)
    return Batch(images[own], targets[own], list(range(size)))


def statistics_are_averaged(root: Path) -> None:
    """Normalisation that trains follows each process's own images until it is averaged."""
    model, step = make_step(config_of(root, "step"))
    step([own_half(*some_images())])
    own = [part.running_mean.clone() for part in model.modules() if isinstance(part, _BatchNorm)]
    average_statistics(model)
    averaged = [part.running_mean for part in model.modules() if isinstance(part, _BatchNorm)]
    others = all_gather_object(own)
    assert any(not torch.equal(one, other) for one, other in zip(*others, strict=True))
    for found, parts in zip(averaged, zip(*others, strict=True), strict=True):
        torch.testing.assert_close(found, torch.stack(parts).mean(0))


def scenes_to_look_at(data: Path, *, broken: int | None = None) -> Split:
    """The test scenes; number ``broken`` is not to be found."""
    split = make_split(data, "test", 6, seed=2)
    all_gather_object("written")
    if broken is not None:
        split.scenes[broken] = dataclasses.replace(split.scenes[broken], name="nowhere.jpg")
    return split


def run_prediction(root: Path, data: Path) -> None:
    """Predictions of a model that every process builds alike, from three batches."""
    config = config_of(root, "prediction", eval_batch_size=2)
    torch.manual_seed(0)
    model = build_model(config.model, 4, load_weights=False).eval()
    found = predict(model, scenes_to_look_at(data), config)
    assert (found is None) == (rank() > 0)
    if found is not None:
        found.save(root / "predictions.npz")


def errors(root: Path, data: Path) -> dict[str, str]:
    """What this process is told when another one fails, by what failed."""

    def full(path: Path, checkpoint: Any) -> None:
        if rank() == 0:
            with mock.patch("os.fsync", side_effect=OSError(28, "No space left on device")):
                save_checkpoint(path, checkpoint)
        raise AssertionError("only the first process writes")

    def unreadable() -> None:
        config = config_of(root, "prediction", eval_batch_size=2)
        predict(build_model(config.model, 4, load_weights=False), scenes_to_look_at(data, broken=2), config)

    def unwritable() -> None:
        with mock.patch.object(training_run, "save_checkpoint", full):
            train(config_of(root, "full", max_steps=1), data)

    return {"checkpoint": told(unwritable), "image": told(unreadable)}


def told(act: Callable[[], None]) -> str:
    try:
        act()
    except PersonSearchError as error:
        return f"{'elsewhere' if error.shown_elsewhere else 'here'}: {error}"
    return "nothing"


def main() -> None:
    """As one of several processes, everything, or what wants GPUs: ``scenarios.py ROOT DATA [gpu]``."""
    root, data = map(Path, sys.argv[1:3])
    if sys.argv[3:] == ["gpu"]:
        train_on_gpus(root, data)
        leave_group()
        return
    torch.set_num_threads(1)
    start_fabric(config_of(root, "start").training)
    run_trainings(root, data)
    resume_alone_begun(root, data)
    uneven_step(root, data)
    statistics_are_averaged(root)
    run_prediction(root, data)
    (root / f"errors-{rank()}.json").write_text(json.dumps(errors(root, data)))
    assert np.all(all_gather_object(rank()) == np.arange(world_size()))
    # Left running, torch.distributed's threads now and then abort a process that has done its work.
    assert gloo_threads() or not THREADS.is_dir()
    leave_group()
    assert not gloo_threads()


def gloo_threads() -> list[str]:
    """Names of this process's threads that serve to talk to the others, where the system tells."""
    return [name for path in THREADS.glob("*/comm") if "gloo" in (name := path.read_text())]


if __name__ == "__main__":
    main()
