"""Little scenes on disk, and a run on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import write_jpeg

from person_search.config import Config, with_settings
from person_search.data.scene import Dataset, Query, Scene, Split, SplitName, as_boxes

WIDTH, HEIGHT, IDENTITIES = 96, 64, 4


def make_split(root: Path, name: SplitName, scenes: int, seed: int) -> Split:
    """Scenes with two coloured people each, one of them sometimes without identity, and their pictures on disk."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(scenes):
        picture = np.full((3, HEIGHT, WIDTH), 120, np.uint8)
        ids, boxes = [number % IDENTITIES, (number + 1) % IDENTITIES if number % 3 else -1], []
        for place, identity in enumerate(ids):
            left, top = 8 + 44 * place + int(draw.integers(0, 12)), int(draw.integers(4, 16))
            color = [(identity + 1) * 50 % 256, (identity + 2) * 90 % 256, 40 * place]
            picture[:, top : top + 40, left : left + 18] = np.array(color, np.uint8)[:, None, None]
            boxes.append([left, top, left + 18, top + 40])
        made.append(Scene(f"{name}{number}.jpg", as_boxes(boxes), np.array(ids, np.int64)))
        write_jpeg(torch.from_numpy(picture), str(root / made[-1].name), quality=90)
    first = {int(scene.person_ids[0]): number for number, scene in reversed(list(enumerate(made)))}
    queries = [] if name == "train" else [Query(s, made[s].boxes[0], i) for i, s in sorted(first.items())]
    return Split("tiny", name, root, made, IDENTITIES, queries)


class TinyDataset(Dataset):
    """Four training scenes and six of validation and test, made in ``root``."""

    def split(self, name: SplitName) -> Split:
        self.root.mkdir(parents=True, exist_ok=True)
        return make_split(self.root, name, 4 if name == "train" else 6, seed=("train", "val", "test").index(name))

    def has_validation(self) -> bool:
        return True


def write_coco(root: Path) -> Path:
    """The scenes of ``TinyDataset`` as COCO files in the new folder ``root``."""
    (root / "images").mkdir(parents=True)
    for name in ("train", "test"):
        split = make_split(root / "images", name, 4 if name == "train" else 6, seed=0)
        images = [
            {"id": number, "file_name": scene.name, "width": WIDTH, "height": HEIGHT}
            for number, scene in enumerate(split.scenes)
        ]
        boxes = [
            {
                "id": 100 * number + place,
                "image_id": number,
                "category_id": 1,
                "bbox": [float(left), float(top), float(right - left), float(bottom - top)],
                "iscrowd": 0,
                "person_id": int(identity),
            }
            for number, scene in enumerate(split.scenes)
            for place, ((left, top, right, bottom), identity) in enumerate(
                zip(scene.boxes.tolist(), scene.person_ids, strict=True)
            )
        ]
        contents = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "person"}]}
        (root / f"{name}.json").write_text(json.dumps(contents))
    return root


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return TinyDataset(tmp_path / "tiny")


def tiny_config(run_dir: Path, **settings: object) -> Config:
    """A config of a tiny model in ``run_dir``, with settings by name over it."""
    tiny: dict[str, object] = {
        "run_dir": run_dir,
        "workers": 0,
        "backbone": "resnet18",
        "width": 0.125,
        "weights": "none",
        "shorter_side": 64,
        "longer_side": 96,
        "anchor_sizes": (24, 40),
        "rpn_post_nms_train": 30,
        "rpn_post_nms_test": 30,
        "roi_batch_per_image": 16,
        "batch_size": 2,
        "max_epochs": 2,
        "validate_every": 0,
        "log_every": 1,
        "device": "cpu",
    }
    return with_settings(Config(), **{**tiny, **settings})


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., Config]:
    """``tiny_config``, in a run folder of the test's own."""
    return lambda **settings: tiny_config(**{"run_dir": tmp_path / "run", **settings})
