"""Which normalisation of pictures a network was trained with, which the names and shapes of its tensors do not say."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

SPREAD = 57.0
"""Standard deviation of the colours of pictures as Caffe's networks read them; torchvision's read one near 1."""


def flavour_of(weight: Tensor, running_mean: Tensor, running_var: Tensor) -> str | None:
    """``"torchvision"`` or ``"caffe"``, from the first convolution (C, 3, k, k) and the statistics (C,) after it.

    Those are of what the convolution gave of the pictures it was trained on: with colours 57 times as large the
    variance is 3000 times what it should be, far more than pictures differ. None where they were never measured.
    """
    if torch.allclose(running_var, torch.ones(()), atol=1e-3) and not running_mean.any():
        return None
    given = F.conv2d(natural_noise(), weight.float(), stride=2).var((0, 2, 3))
    ratio = (running_var.float() / given.clamp(min=1e-12)).clamp(min=1e-12).log().median().exp()
    return "caffe" if ratio > SPREAD else "torchvision"


def natural_noise(side: int = 64) -> Tensor:
    """(1, 3, side, side) noise of variance 1 that, as in photographs, varies slowly in space and little in hue."""
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    frequency = torch.hypot(rows, columns).clamp(min=1 / side)
    grey, colour = (
        torch.fft.irfft2(torch.fft.rfft2(torch.randn(number, side, side, generator=generator)) / frequency)
        for number in (1, 3)
    )
    noise = grey / grey.std() + 0.3 * colour / colour.std()
    return (noise / noise.std())[None]
