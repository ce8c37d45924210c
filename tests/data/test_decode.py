"""Pictures of every kind become (3, H, W) uint8 RGB; everything else becomes an error with the path in it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from person_search.data.decode import read_image
from person_search.data.image_sizes import read_size
from person_search.data.unreadable import UnreadableImageError
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


def saved(path: Path, mode: str, orientation: int, **options: object) -> bytes:
    """Write a picture of ``mode`` whose pixels are all different from their neighbours, and return the file."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    image = Image.fromarray(picture())
    if mode == "I;16":
        image = Image.fromarray((rows * 2000 + columns * 700).astype(np.uint16))
    elif mode == "P+transparency":
        image = image.convert("P")
        options["transparency"] = bytes(range(0, 250, 10))
    elif mode == "RGBA":
        image.putalpha(Image.fromarray((columns * 8).astype(np.uint8)))
    else:
        image = image.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path.read_bytes()


def as_viewed(data: bytes) -> np.ndarray:
    """(H, W, 3) of a file as Pillow turns it; from memory, because Pillow mixes up the sides of mapped TIFF files."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode.startswith("I"):
        return np.stack([(np.asarray(image) >> 8).astype(np.uint8)] * 3, axis=2)
    return np.asarray(image.convert("RGBA") if image.mode == "P" else image.convert("RGB"))[..., :3]


LOSSLESS = [
    *[(name, mode) for name in ("a.png", "a.tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
    *[("a.webp", mode) for mode in ("L", "RGB", "RGBA")],
    *[("a.avif", mode) for mode in ("L", "RGB", "RGBA")],
    ("a.png", "P+transparency"),
    ("a.tif", "CMYK"),
]


@pytest.mark.parametrize(("name", "mode"), LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_every_format_and_mode_are_turned_as_pillow_turns_them(
    tmp_path: Path, name: str, mode: str, orientation: int
) -> None:
    data = saved(tmp_path / name, mode, orientation, **({"lossless": True} if name == "a.webp" else {}))
    expected = as_viewed(data)
    image = read_image(tmp_path / name)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    assert read_size(tmp_path / name) == (expected.shape[1], expected.shape[0])
    assert expected.shape[:2] == ((WIDTH, HEIGHT) if orientation >= 5 else (HEIGHT, WIDTH))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    st.sampled_from(["a.jpg", "a.mpo"]), st.sampled_from(["L", "RGB", "CMYK"]), st.integers(1, 8),
    st.sampled_from([0, 1, 2]), st.booleans(), st.integers(70, 98),
)  # fmt: skip
def test_jpegs_are_turned_as_pillow_turns_them(
    tmp_path: Path, name: str, mode: str, orientation: int, subsampling: int, progressive: bool, quality: int
) -> None:
    data = saved(tmp_path / name, mode, orientation, subsampling=subsampling, progressive=progressive, quality=quality)
    expected = as_viewed(data)
    image = read_image(tmp_path / name).permute(1, 2, 0).numpy()
    assert image.shape == expected.shape
    # Chroma is upsampled by two libraries: small differences are no difference in turning.
    assert np.abs(image.astype(int) - expected).max() <= 4
    assert read_size(tmp_path / name) == (expected.shape[1], expected.shape[0])


@pytest.mark.parametrize(
    ("mode", "name", "tolerance"),
    [("RGB", "a.jpg", 4), ("RGB", "a.webp", 6), ("CMYK", "a.jpg", 6), ("RGB", "a.avif", 6)],
)
def test_colours_survive_lossy_formats(tmp_path: Path, mode: str, name: str, tolerance: float) -> None:
    Image.fromarray(picture()).convert(mode).save(tmp_path / name)
    assert_like(read_image(tmp_path / name), picture(), tolerance)


@pytest.mark.parametrize("name", ["a.bmp", "a.ppm", "a.gif", "a.jfif"])
def test_formats_without_orientation(tmp_path: Path, name: str) -> None:
    Image.fromarray(picture()).save(tmp_path / name, format={"a.jfif": "JPEG"}.get(name))
    assert_like(read_image(tmp_path / name), picture(), {"a.gif": 14, "a.jfif": 4}.get(name, 0))
    assert read_size(tmp_path / name) == (WIDTH, HEIGHT)


@pytest.mark.parametrize(("mode", "name", "tolerance"), [("L", "a.png", 0), ("L", "a.jpg", 3), ("LA", "a.png", 0)])
def test_grey_pictures_get_three_equal_channels(tmp_path: Path, mode: str, name: str, tolerance: float) -> None:
    grey = Image.fromarray(picture()).convert("L")
    grey.convert(mode).save(tmp_path / name)
    assert_like(read_image(tmp_path / name), np.asarray(grey.convert("RGB")), tolerance)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_keep_their_upper_half(tmp_path: Path, name: str) -> None:
    values = (np.arange(HEIGHT * WIDTH, dtype=np.uint16) * 100).reshape(HEIGHT, WIDTH)
    Image.fromarray(values).save(tmp_path / name)
    image = read_image(tmp_path / name)
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image[0].numpy(), values >> 8)


def test_measurements_are_no_picture(tmp_path: Path) -> None:
    Image.fromarray(np.full((HEIGHT, WIDTH), 0.5, np.float32)).save(tmp_path / "depth.tif")
    with pytest.raises(UnreadableImageError, match=r"depth\.tif': its samples have more than 16 bits; convert it"):
        read_image(tmp_path / "depth.tif")


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif", "a.avif"])
def test_an_animation_gives_its_first_frame(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (WIDTH, HEIGHT), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert Image.open(tmp_path / name).n_frames == 2
    red, green, blue = read_image(tmp_path / name)[:, 5, 5].tolist()
    assert red > 250
    assert max(green, blue) < 5
    assert read_size(tmp_path / name) == (WIDTH, HEIGHT)


XMP = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x='adobe:ns:meta/'>%s</x:xmpmeta>"


def segment(content: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


@pytest.mark.parametrize("order", ["exif first", "xmp first", "xmp between", "comment first"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_the_order_of_a_jpegs_segments_does_not_matter(tmp_path: Path, order: str, orientation: int) -> None:
    plain, turned = saved(tmp_path / "a.jpg", "RGB", 1), saved(tmp_path / "b.jpg", "RGB", orientation)
    exif = turned[turned.index(b"\xff\xe1") :][: turned.index(b"\xff\xdb") - turned.index(b"\xff\xe1")]
    assert exif[4:10] == b"Exif\0\0"
    rest = plain[plain.index(b"\xff\xdb") :]
    jfif = plain[2 : plain.index(b"\xff\xe1")]
    xmp = segment(XMP % b"what a telephone says of its picture")
    parts = {
        "exif first": [exif, jfif, xmp],
        "xmp first": [xmp, exif],
        "xmp between": [jfif, xmp, exif, xmp],
        "comment first": [b"\xff\xfe\0\x06abcd", xmp, jfif, exif],
    }[order]
    data = b"".join([b"\xff\xd8", *parts, rest])
    (tmp_path / "c.jpg").write_bytes(data)
    image = read_image(tmp_path / "c.jpg").permute(1, 2, 0).numpy()
    assert np.abs(image.astype(int) - as_viewed(turned)).max() <= 4
    assert read_size(tmp_path / "c.jpg") == (image.shape[1], image.shape[0])


@pytest.mark.parametrize("place", ["before the pixels", "after the pixels"])
@pytest.mark.parametrize("frames", [1, 2])
def test_a_pngs_orientation_may_stand_anywhere(tmp_path: Path, place: str, frames: int) -> None:
    path = tmp_path / "a.png"
    data = saved(path, "RGB", 6, save_all=frames > 1, append_images=[Image.new("RGB", (WIDTH, HEIGHT))] * (frames - 1))
    expected = np.rot90(picture(), -1)
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    if place == "after the pixels":
        tail = data.index(b"IEND") - 4
        path.write_bytes(data[:start] + data[end:tail] + data[start:end] + data[tail:])
    np.testing.assert_array_equal(read_image(path).permute(1, 2, 0).numpy(), expected)
    assert read_size(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", [0, 9, 200])
def test_an_orientation_that_is_none_is_left_alone(tmp_path: Path, orientation: int) -> None:
    saved(tmp_path / "a.png", "RGB", orientation)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), picture())
    assert read_size(tmp_path / "a.png") == (WIDTH, HEIGHT)


def test_a_picture_with_damaged_exif_data_is_shown_unturned(tmp_path: Path) -> None:
    data = saved(tmp_path / "a.png", "RGB", 1)
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=b"Exif\0\0II nothing of the kind")
    assert tmp_path.joinpath("a.png").read_bytes() != data
    np.testing.assert_array_equal(read_image(tmp_path / "a.png").permute(1, 2, 0).numpy(), picture())
    assert read_size(tmp_path / "a.png") == (WIDTH, HEIGHT)


def test_pictures_beyond_pillows_limit_are_read_and_the_limit_is_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for name in ("a.png", "a.jpg", "a.webp", "a.gif", "a.tif", "a.avif"):
        Image.fromarray(picture()).save(tmp_path / name)
        assert read_image(tmp_path / name).shape == (3, HEIGHT, WIDTH)
        assert read_size(tmp_path / name) == (WIDTH, HEIGHT)
        assert Image.MAX_IMAGE_PIXELS == 100
    assert not [str(warning.message) for warning in recwarn if warning.category is Image.DecompressionBombWarning]


@pytest.mark.parametrize("read", [read_image, read_size])
def test_a_picture_with_more_pixels_than_memory_is_refused_by_name(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    header = struct.pack(">4sIIBBBBB", b"IHDR", 60_000, 50_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "sky.png").write_bytes(data + struct.pack(">I4sI", 0, b"IDAT", zlib.crc32(b"IDAT")))
    with pytest.raises(
        UnreadableImageError, match=r"sky\.png': it has 60000 x 50000 pixels, and at most 1,000,000,000"
    ):
        read(tmp_path / "sky.png")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@pytest.mark.filterwarnings("ignore::UserWarning")
@given(
    st.sampled_from(["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tif", "a.avif", "a.ppm"]),
    st.dictionaries(st.floats(0, 0.999), st.integers(0, 255), max_size=3),
    st.floats(0, 1),
)
def test_a_damaged_file_gives_its_pixels_or_an_error_that_names_it(
    tmp_path: Path, name: str, changes: dict[float, int], share: float
) -> None:
    """Size and pixels agree where there are any; a file that is only cut short gives all of its pixels or none."""
    path = tmp_path / name
    Image.fromarray(picture()).save(path)
    whole, data = read_image(path), bytearray(path.read_bytes())
    for place, value in changes.items():
        data[int(place * len(data))] = value
    path.write_bytes(data[: round(share * len(data))])
    image, message = None, ""
    try:
        image = read_image(path)
    except UnreadableImageError as error:
        message = str(error)
    if image is None:
        assert str(path) in message
        assert "\n" not in message
    else:
        assert read_size(path) == (image.shape[2], image.shape[1])
        assert changes or torch.equal(image, whole)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
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
        ("cut.webp", "half", "WebP data is cut short or damaged"),
        ("cut.gif", "half", "GIF data is cut short or damaged"),
        ("cut.bmp", "half", "BMP data is cut short or damaged"),
        ("cut.tif", "half", "TIFF data is cut short or damaged"),
        ("cut.avif", "half", "AVIF data is cut short or damaged"),
        ("phone.jpg", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is a HEIC picture, which is not read"),
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


def test_damage_is_told_without_lines_of_source(tmp_path: Path) -> None:
    path = tmp_path / "cut.jpg"
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(UnreadableImageError, match=r"its JPEG data is cut short or damaged \(Image is incomplete"):
        read_image(path)
