"""Pictures of every kind become (3, H, W) uint8 RGB; everything else becomes an error with the path in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from person_search.data.decode import UnreadableImageError, read_image
from person_search.errors import DataError

HEIGHT, WIDTH = 20, 30


def picture() -> np.ndarray:
    """(H, W, 3): red rises to the right, green downwards, blue is constant."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns * 8, rows * 12, np.full_like(rows, 60)], axis=2).astype(np.uint8)


def assert_like(image: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    assert image.dtype == torch.uint8
    assert tuple(image.shape) == (3, *expected.shape[:2])
    difference = np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected.astype(int))
    assert difference.mean() <= tolerance


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [("RGB", "a.png", 0), ("RGB", "a.jpg", 4), ("RGB", "a.webp", 6), ("RGBA", "a.png", 0), ("CMYK", "a.jpg", 6)],
)
def test_colour_pictures(tmp_path: Path, mode: str, name: str, tolerance: float) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / name)
    assert_like(read_image(tmp_path / name), picture(), tolerance)


@pytest.mark.parametrize(("mode", "name", "tolerance"), [("L", "a.png", 0), ("L", "a.jpg", 3), ("LA", "a.png", 0)])
def test_grey_pictures_get_three_equal_channels(tmp_path: Path, mode: str, name: str, tolerance: float) -> None:
    grey = Image.fromarray(picture()).convert("L")
    grey.convert(mode).save(tmp_path / name)
    assert_like(read_image(tmp_path / name), np.asarray(grey.convert("RGB")), tolerance)


def test_sixteen_bits_keep_their_upper_half(tmp_path: Path) -> None:
    values = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 100).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image[0].numpy(), values >> 8)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif")[:, 5, 5].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [(3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1)), (8, np.rot90), (2, np.fliplr)],
)
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, turn) -> None:
    image = Image.fromarray(picture())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert_like(read_image(tmp_path / "a.jpg"), turn(picture()), 4)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.01, 0.999))
def test_a_jpeg_cut_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    Image.fromarray(picture()).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(UnreadableImageError, match=r"cut\.jpg"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("zeros.jpg", "half zeros", "JPEG data is cut short or damaged"),
        ("cut.png", "half", "PNG data is cut short or damaged"),
        ("empty.jpg", b"", "empty"),
        ("text.jpg", b"hello, this is no picture", "expected JPEG, PNG, WebP, GIF"),
    ],
)
def test_damaged_files_are_refused_with_path_and_reason(
    tmp_path: Path, name: str, content: bytes | str, reason: str
) -> None:
    path = tmp_path / name
    if isinstance(content, str):
        Image.fromarray(picture()).save(path)
        data = path.read_bytes()
        half = len(data) // 2
        content = data[:half] + (bytes(len(data) - half) if "zeros" in content else b"")
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.jpg", "."])
def test_no_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnreadableImageError) as caught:
        read_image(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
