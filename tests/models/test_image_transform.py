"""Resizing, normalising and the way of boxes there and back."""

from __future__ import annotations

import pytest
import torch

from person_search.models.backbones.backbone import CAFFE, IMAGENET
from person_search.models.image_transform import ImageTransform


def transform(shorter=600, longer=1000, normalisation=IMAGENET):
    shorter = shorter if isinstance(shorter, tuple) else (shorter,)
    return ImageTransform(shorter_side=shorter, longer_side=longer, normalisation=normalisation).eval()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (1080, 1920, (562, 1000)),
        (600, 800, (600, 800)),
        (480, 640, (600, 800)),
        (576, 768, (600, 800)),
        (300, 900, (333, 1000)),
    ],
)
def test_output_size(height, width, expected):
    assert transform().output_size(height, width, 600) == expected


def test_an_exact_fit_does_not_lose_a_pixel_to_rounding():
    """38 x (174 / 38) is 173.99999999999997 in floating point."""
    assert transform().output_size(38, 76, 174) == (174, 348)
    for side in range(1, 400):
        assert transform(longer=10**6).output_size(side, side, 600) == (600, 600)


def test_sides_are_rounded_down_and_never_to_nothing():
    assert transform(100, 1000).output_size(300, 599, 100) == (100, 199)
    assert transform(600, 100).output_size(1, 1000, 600) == (1, 100)


def test_batch_is_padded_with_zeros_to_a_multiple_of_32():
    batch = transform(96, 128)([torch.full((3, 96, 100), 255, dtype=torch.uint8), torch.zeros(3, 100, 96)])
    assert batch.tensors.shape == (2, 3, 128, 128)
    assert batch.sizes == [(96, 100), (100, 96)]
    assert not batch.tensors[0, :, 96:].any()
    assert not batch.tensors[0, :, :, 100:].any()
    assert batch.tensors[0, :, :96, :100].all()


def test_boxes_there_and_back_use_the_scale_of_the_rounded_size():
    batch = transform()([torch.zeros(3, 1080, 1920)])
    box = torch.tensor([[0.0, 0.0, 1920.0, 1080.0]])
    torch.testing.assert_close(batch.to_batch(box, 0), torch.tensor([[0.0, 0.0, 1000.0, 562.0]]))
    torch.testing.assert_close(batch.to_original(batch.to_batch(box, 0), 0), box)


def test_flavours_normalise_as_their_weights_expect():
    red = torch.zeros(3, 32, 32)
    red[0] = 1.0
    plain = transform(32, 32)([red]).tensors[0, :, 0, 0]
    torch.testing.assert_close(plain, torch.tensor([(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]))
    caffe = transform(32, 32, CAFFE)([red]).tensors[0, :, 0, 0]
    torch.testing.assert_close(caffe, torch.tensor([-102.9801, -115.9465, 255 - 122.7717]))


def test_uint8_and_float_are_the_same_picture():
    pixels = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one, other = transform(64, 100)([pixels]), transform(64, 100)([pixels / 255])
    torch.testing.assert_close(one.tensors, other.tensors)


def test_several_sides_are_drawn_in_training_and_the_last_is_used_in_test():
    torch.manual_seed(0)
    several = transform((32, 64, 96), 200)
    image = [torch.zeros(3, 32, 32)]
    assert several(image).sizes == [(96, 96)]
    several.train()
    assert {several(image).sizes[0][0] for _ in range(40)} == {32, 64, 96}


def test_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="RGB"):
        transform()([torch.zeros(1, 10, 10)])
