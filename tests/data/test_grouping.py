"""Images of like shape in one step, and their sizes from headers."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from person_search.data.decode import read_image
from person_search.data.grouping import aspect_group, in_groups
from person_search.data.image_sizes import aspect_ratios, read_size
from person_search.data.loading import TrainingOrder
from person_search.data.scene import Scene, Split, as_boxes
from person_search.data.unreadable import UnreadableImageError

RATIOS = [16 / 9, 4 / 3, 3 / 4] * 9


@settings(deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 7), st.randoms(use_true_random=False))
def test_every_number_is_there_once_and_only_the_rest_is_mixed(groups, size, random) -> None:
    order = random.sample(range(len(groups)), len(groups))
    arranged = in_groups(order, groups, size).tolist()
    assert len(arranged) == len(groups) // size * size
    assert len(set(arranged)) == len(arranged)
    steps = [{groups[number] for number in arranged[i : i + size]} for i in range(0, len(arranged), size)]
    pure = sum(groups.count(group) // size for group in set(groups))
    assert all(len(step) == 1 for step in steps[:pure])
    assert arranged == in_groups(order, groups, size).tolist()


def test_shapes_of_cameras_are_told_apart_and_like_ones_are_not() -> None:
    assert len({aspect_group(ratio) for ratio in (16 / 9, 4 / 3, 1, 3 / 4, 9 / 16)}) == 5
    assert aspect_group(1920 / 1080) == aspect_group(1280 / 720) == aspect_group(1000 / 562)


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (2, 2)])
def test_steps_of_one_shape_whatever_the_number_of_processes(processes: int, accumulate: int) -> None:
    def order(rank: int, batch: int, **options: int) -> TrainingOrder:
        return TrainingOrder(
            range(len(RATIOS)), flip=True, batch_size=batch, seed=3, rank=rank, aspect_ratios=RATIOS, **options
        )

    one = order(0, 8)
    many = [
        order(rank, 8 // processes // accumulate, processes=processes, accumulate=accumulate)
        for rank in range(processes)
    ]
    parts = [[item for batch in shares for item in batch] for shares in zip(*many, strict=True)]
    steps = [list(chain(*parts[i : i + accumulate])) for i in range(0, len(parts), accumulate)]
    assert steps == list(one)
    shapes = [{aspect_group(RATIOS[item.scene]) for item in step} for step in steps]
    assert len(shapes) == 54 // 8
    assert [len(shape) for shape in shapes] == [1] * 6
    one.start_at(0, 2 * 8)
    assert list(one) == steps[2:]
    one.start_at(1)
    assert list(one) != steps


def test_sizes_come_from_headers_as_the_picture_is_seen(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg")
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("L", (30, 60)).save(tmp_path / "c.png")
    for name in ("a.jpg", "turned.jpg", "c.png"):
        _, height, width = read_image(tmp_path / name).shape
        assert read_size(tmp_path / name) == (width, height)
    scenes = [Scene(name, as_boxes([]), np.zeros(0, np.int64)) for name in ("a.jpg", "turned.jpg")]
    assert aspect_ratios(Split("tiny", "train", tmp_path, scenes, 1), [1, 0]) == [0.5, 2.0]


@pytest.mark.parametrize("content", [None, b"", b"nothing", b"\x89PNG\r\n\x1a\n"])
def test_a_header_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "b.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"b\.png"):
        read_size(tmp_path / "b.png")
