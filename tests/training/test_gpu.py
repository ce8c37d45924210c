"""What only a GPU shows: copies that overlap with work, half precision, compiled code, NCCL. Run by `make test-gpu`."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import scenarios
import torch

from conftest import make_split
from person_search.checkpoints.checkpoint import read_checkpoint
from person_search.config import Config, with_settings
from person_search.data.loading import TrainingOrder, training_batches
from person_search.data.scene import Dataset
from person_search.evaluation.predict import predict
from person_search.models.acceleration import accelerate
from person_search.models.building import build_model
from person_search.models.detections import Detections, ImageResult
from person_search.models.person_search_model import PersonSearchModel
from person_search.models.streaming import CopyToHost, autocast
from person_search.training.trainer import train

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs here")


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Without TF32, whose 10 bits would hide what is compared."""
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    for kind in kinds:
        kind.allow_tf32 = False
    yield
    for kind, allowed in zip(kinds, before, strict=True):
        kind.allow_tf32 = allowed


def small(config: Config) -> PersonSearchModel:
    """The tiny model of ``config`` on the GPU, with its settings for speed."""
    torch.manual_seed(0)
    model = build_model(config.model, 4, load_weights=False).to(DEVICE)
    accelerate(model, config.training)
    return model


def losses_and_gradients(model: PersonSearchModel) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Of one pass over some images."""
    images, targets = scenarios.some_images()
    device = model.device
    # The draws of an image depend on the device, so nothing is drawn: all candidates train.
    model.rpn.fg_bg_sampler.batch_size_per_image = model.sample_rois.number = 10**6
    losses = model.train()([image.to(device) for image in images], [target.to(device) for target in targets])
    sum(losses.values()).backward()
    gradients = {name: p.grad.cpu().float() for name, p in model.named_parameters() if p.grad is not None}
    return {name: loss.item() for name, loss in losses.items()}, gradients


def test_batches_come_in_page_locked_memory_and_arrive_unchanged(tmp_path: Path) -> None:
    split = make_split(tmp_path, "train", 4, seed=0)
    order = TrainingOrder(range(4), flip=True, batch_size=4)
    here, there = (next(iter(training_batches(split, order, workers=1, pin=pin))) for pin in (False, True))
    assert all(image.is_pinned() for image in there.images)
    moved = there.to(DEVICE)
    torch.cuda.synchronize()
    assert all(image.is_cuda for image in moved.images)
    for one, other in zip(here.to("cpu").images, moved.images, strict=True):
        assert torch.equal(one, other.cpu())


def test_results_copied_while_the_device_works_are_whole() -> None:
    busy = torch.rand(4096, 4096, device=DEVICE)
    for number in range(8):
        for _ in range(10):
            busy = (busy @ busy).softmax(1)
        rows = busy[:500]
        copied = CopyToHost([ImageResult(Detections(rows[:, :4] + number, rows[:, 0], rows), [])])
        expected = rows.clone()
        (found,) = copied.wait()
        busy.add_(0.1)
        assert torch.equal(found.detections.embeddings, expected.cpu())
        assert not found.detections.embeddings.is_pinned()


def test_a_split_is_predicted_as_on_the_cpu(make_config: Callable[..., Config], tmp_path: Path) -> None:
    split = make_split(tmp_path, "test", 6, seed=2)
    config = make_config(score_threshold=0.0, eval_batch_size=2, workers=1)
    model = small(config).eval()
    found = predict(model, split, config)
    expected = predict(copy.deepcopy(model).cpu(), split, config)
    np.testing.assert_array_equal(found.offsets, expected.offsets)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    np.testing.assert_allclose(found.query_embeddings, expected.query_embeddings, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"channels_last": True}, {"checkpoint_trunk": True}])
def test_losses_and_gradients_are_those_of_the_cpu(make_config: Callable[..., Config], settings: dict) -> None:
    config = make_config(**settings)
    losses, gradients = losses_and_gradients(small(config))
    expected, wanted = losses_and_gradients(small(make_config()).cpu())
    assert losses == pytest.approx(expected, rel=1e-3)
    assert gradients.keys() == wanted.keys()
    largest = max(float(value.norm()) for value in wanted.values())
    for name, value in wanted.items():
        assert float((gradients[name] - value).norm()) <= 2e-2 * float(value.norm()) + 1e-4 * largest, name


def test_bfloat16_is_near_float32(make_config: Callable[..., Config]) -> None:
    images = [image.to(DEVICE) for image in scenarios.some_images()[0]]
    boxes = [torch.tensor([[8.0, 4, 26, 44]])] * len(images)
    model = small(make_config(channels_last=True)).eval()
    with autocast(model.device, "bf16"):
        found = torch.cat(model.embed(images, boxes)).float()
    expected = torch.cat(copy.deepcopy(model).cpu().embed([image.cpu() for image in images], boxes))
    assert float((found.cpu() * expected).sum(1).min()) > 0.99


def test_compiled_code_gives_the_same(make_config: Callable[..., Config]) -> None:
    losses, _ = losses_and_gradients(small(make_config(compile=True)))
    expected, _ = losses_and_gradients(small(make_config()))
    assert losses == pytest.approx(expected, rel=1e-3)


def test_float16_trains_scales_and_resumes(make_config: Callable[..., Config], dataset: Dataset) -> None:
    config = make_config(device=DEVICE, precision="16", max_epochs=2)
    outcome = train(config, dataset=dataset, show_progress=False)
    state = read_checkpoint(outcome.last).training
    assert state["scaler"]["scale"] > 0
    assert outcome.skipped < outcome.step
    resumed = train(with_settings(config, max_epochs=3), resume=True, dataset=dataset, show_progress=False)
    assert resumed.epoch == 3
    assert resumed.step > outcome.step


def test_a_gradient_that_overflows_lowers_the_scale_and_changes_nothing(make_config: Callable[..., Config]) -> None:
    config = make_config(device=DEVICE, precision="16")
    fabric, scaler = scenarios.start_fabric(config.training)
    model = small(config).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    step = scenarios.TrainingStep(fabric, model, [optimizer], scaler=scaler)
    images, targets = scenarios.some_images()
    step([scenarios.Batch(images, targets, [0, 1, 2, 3])])
    before, scale = copy.deepcopy(model.state_dict()), scaler.get_scale()
    images[0][:] = float("nan")
    result = step([scenarios.Batch(images, targets, [0, 1, 2, 3])])
    assert result.skipped
    assert scaler.get_scale() < scale
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@two_gpus
def test_two_gpus_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    """NCCL, and normalisation over both: weights, tables and running statistics agree."""
    one, two, data = tmp_path / "one", tmp_path / "two", tmp_path / "data"
    program = [str(Path(scenarios.__file__)), str(two), str(data), "gpu"]
    scenarios.train_on_gpus(one, data)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NVIDIA_TF32_OVERRIDE": "0"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    ours, theirs = (read_checkpoint(root / "synchronised" / "last.pt").model for root in (two, one))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )
