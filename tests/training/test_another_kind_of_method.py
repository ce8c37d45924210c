"""A method without anchors, proposals and RoIs is one like any other to the rest of the program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms

from conftest import TinyDataset, write_coco
from person_search.checkpoints.checkpoint import read_checkpoint
from person_search.checkpoints.loading import load_model
from person_search.commandline import cli
from person_search.config import Config, MethodSettings, with_settings
from person_search.data.target import Target
from person_search.errors import UsageError
from person_search.evaluation.predict import predict
from person_search.models.detections import Detections, GivenPerson, ImageResult
from person_search.models.oim_loss import OIMLoss
from person_search.models.person_search_model import HeavyParts, PersonSearchModel
from person_search.models.settings import OimLossSettings
from person_search.registry import methods
from person_search.training.trainer import train

STRIDE = 8


@dataclass
class Cells:
    """What the network says of every cell of one image: (n,) logits, (n, 4) boxes, (n, D) embeddings."""

    logits: Tensor
    boxes: Tensor
    embeddings: Tensor
    centres: Tensor
    shape: tuple[int, int]


class CentreSettings(MethodSettings):
    """Centres."""

    embedding: int = Field(12, description="length of an embedding")


class CentreNet(PersonSearchModel):
    """Every cell of a map says whether somebody is there, how far the four sides are, and who it is."""

    Settings = CentreSettings

    def __init__(self, config: CentreSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities)
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 8), (8, 16), (16, 16)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Conv2d(16, 1 + 4 + config.embedding, 1)
        self.reid_loss = OIMLoss(config.embedding, num_identities, OimLossSettings())

    def look(self, image: Tensor) -> Cells:
        pixels = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        maps = self.head(self.body(pixels[None]))[0].float()
        rows, columns = (torch.arange(size, device=maps.device) * STRIDE + STRIDE / 2 for size in maps.shape[1:])
        centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(-1, 2)
        logits, sides, embeddings = maps.flatten(1).t().split([1, 4, self.config.embedding], 1)
        reach = STRIDE * sides.clamp(max=4).exp()
        boxes = torch.cat([centres - reach[:, :2], centres + reach[:, 2:]], 1)
        return Cells(logits[:, 0], boxes, F.normalize(embeddings, dim=1), centres, (maps.shape[1], maps.shape[2]))

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        person, box, vectors, labels = [], [], [], []
        self.samples = []
        for image, target in zip(images, targets, strict=True):
            cells = self.look(image)
            inside = (
                (cells.centres[:, None] > target.boxes[:, :2]) & (cells.centres[:, None] < target.boxes[:, 2:])
            ).all(2)
            hit, owner = inside.any(1), inside.float().argmax(1) if len(target.boxes) else inside.sum(1)
            person.append(F.binary_cross_entropy_with_logits(cells.logits, hit.float()))
            box.append(F.smooth_l1_loss(cells.boxes[hit] / STRIDE, target.boxes[owner[hit]] / STRIDE, reduction="sum"))
            vectors.append(cells.embeddings[hit])
            labels.append(target.person_ids[owner[hit]])
            self.samples.append((cells.boxes[hit].detach(), labels[-1]))
        reid, accuracy = self.reid_loss(torch.cat(vectors), torch.cat(labels))
        self.metrics = {"identity_accuracy": accuracy}
        return {"person": torch.stack(person).mean(), "box": 0.01 * torch.stack(box).mean(), "reid": 0.1 * reid}

    @torch.no_grad()
    def detect_and_embed(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None = None, *, context: bool = False
    ) -> list[ImageResult]:
        results = []
        for i, image in enumerate(images):
            cells = self.look(image)
            scores = cells.logits.sigmoid()
            given = torch.zeros(0, 4) if boxes is None else boxes[i].to(image.device).float()
            beside = [self.kept(cells, scores, box[None]) for box in given] if context else [None] * len(given)
            people = zip(given, self.at(cells, given), beside, strict=True)
            results.append(
                ImageResult(self.kept(cells, scores, given[:0]), [GivenPerson(*person) for person in people])
            )
        return results

    @torch.no_grad()
    def embed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        return [self.at(self.look(image), given.to(image.device)) for image, given in zip(images, boxes, strict=True)]

    def kept(self, cells: Cells, scores: Tensor, given: Tensor) -> Detections:
        every = torch.cat([scores.new_full((len(given),), torch.inf), scores])
        rows = nms(torch.cat([given, cells.boxes]), every, 0.4)[len(given) : 6] - len(given)
        return Detections(cells.boxes[rows], scores[rows], cells.embeddings[rows])

    def at(self, cells: Cells, boxes: Tensor) -> Tensor:
        """Embeddings at the cells in which the centres of (n, 4) ``boxes`` lie."""
        (height, width), centres = cells.shape, (boxes[:, :2] + boxes[:, 2:]) / (2 * STRIDE)
        return cells.embeddings[
            centres[:, 1].long().clamp(0, height - 1) * width + centres[:, 0].long().clamp(0, width - 1)
        ]

    def heavy_parts(self) -> HeavyParts:
        return HeavyParts(per_image=[self.body])


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods._registered, "centre", CentreNet)


def settings_of(run_dir: Path, **settings: object) -> Config:
    """A short training of it."""
    short = {"method": "centre", "run_dir": run_dir, "workers": 0, "device": "cpu", "batch_size": 2, "log_every": 1}
    return with_settings(Config(), **short, **settings)


def test_it_trains_and_resumed_it_ends_where_one_that_was_never_stopped_does(tmp_path: Path) -> None:
    settings = {"max_epochs": 4, "lr": 0.02, "validate_every": 2}
    dataset = TinyDataset(tmp_path / "data")
    whole = train(settings_of(tmp_path / "whole", **settings), dataset=dataset, show_progress=False)
    train(settings_of(tmp_path / "parts", **settings, max_steps=3), dataset=dataset, show_progress=False)
    parts = train(settings_of(tmp_path / "parts", **settings), dataset=dataset, resume=True, show_progress=False)
    assert whole.step == parts.step == 16
    one, other = (read_checkpoint(outcome.last).model for outcome in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert whole.best is not None
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss/person"] for row in rows if "loss/person" in row]
    assert sum(losses[-3:]) < 0.7 * sum(losses[:3])
    assert all("identity_accuracy" in row for row in rows if "loss" in row)


def test_what_it_finds_is_predicted_with_the_people_beside_queries(tmp_path: Path) -> None:
    split = TinyDataset(tmp_path).split("test")
    config = settings_of(tmp_path, cbgm=True, eval_batch_size=4)
    torch.manual_seed(0)
    model = CentreNet(config.model, 4)
    found = predict(model, split, config)
    assert found is not None
    found.validate()
    assert len(found) > len(split.scenes)
    assert found.query_offsets is not None
    assert found.query_offsets[-1] > len(split.queries)
    given = predict(model, split, settings_of(tmp_path, use_gt_boxes=True))
    assert given is not None
    assert given.query_embeddings.tolist() == found.query_embeddings.tolist()


def test_the_command_line_evaluates_it_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_coco(tmp_path / "data")

    def run(*words: object) -> None:
        assert cli.run([str(word) for word in words], cli.dispatch) == 0

    data = ("--dataset", "coco", "--data-root", "data", "--workers", 0, "--device", "cpu")
    run(
        "train",
        *data,
        "--method",
        "centre",
        "--run-dir",
        "run",
        "--max-epochs",
        1,
        "--batch-size",
        2,
        "--validate-every",
        0,
    )
    run("evaluate", "--checkpoint", "run", *data, "--cbgm", "--search-threshold", 0, "--detection-threshold", 0)
    (results,) = (tmp_path / "run" / "evaluation").glob("*/results.json")
    assert json.loads(results.read_text())["detections"] > 0
    run("report", "--run-dir", "run")
    assert 'id="proposals"' not in (tmp_path / "report" / "index.html").read_text()
    assert isinstance(load_model("run"), CentreNet)


def test_nothing_of_it_can_be_recomputed(tmp_path: Path) -> None:
    config = settings_of(tmp_path / "run", checkpoint_trunk=True)
    with pytest.raises(UsageError, match="method 'centre' has no part that can be recomputed"):
        train(config, dataset=TinyDataset(tmp_path / "data"), show_progress=False)
