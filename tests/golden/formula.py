"""Weights and pictures that need no file: each is drawn from its own name by NumPy's PCG64.

The outputs beside this file were made on exactly these numbers, so nothing here may change.
"""

from __future__ import annotations

import zlib

import numpy as np

RESCALER = {"weight": 1.0, "bias": 0.2, "running_mean": 300.0, "running_var": 2500.0}
"""The batch normalisation of an embedding's length gets constants that keep the sigmoid off its flat ends."""


def tensor(key, shape, seed=0):
    """The state-dict entry ``key`` of ``shape``: float32, or int64 for counters."""
    generator, shape = np.random.default_rng([seed, zlib.crc32(key.encode())]), tuple(shape)
    leaf = key.rsplit(".", 1)[-1]
    if "rescaler" in key and leaf in RESCALER:
        return np.full(shape, RESCALER[leaf], np.float32)
    if leaf == "num_batches_tracked" or (not shape and "count" in leaf):
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        values = generator.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        values = generator.normal(0, 0.1, shape)
    elif leaf == "layer_scale":  # large enough that a ConvNeXt's blocks count
        values = generator.uniform(0.1, 0.5, shape)
    elif leaf == "bias":
        values = generator.normal(0, 0.05, shape)
    elif len(shape) >= 2:  # convolutions and linear layers: He initialisation
        values = generator.normal(0, np.sqrt(2.0 / np.prod(shape[1:])), shape)
    else:  # a normalisation's weight
        values = generator.uniform(0.4, 0.8, shape)
    if ".fuser.norm." in key and leaf.startswith("running_"):  # of the size of what it normalises
        values = values * {"running_mean": 0.05, "running_var": 1e-4}[leaf]
    if "bbox_pred" in key or "cls_score" in key:  # small offsets and even scores, as untrained heads give
        values = values * 0.02
    return values.astype(np.float32)


def image(height, width, seed=0):
    """A picture of smooth blobs and noise: (3, height, width) uint8, RGB."""
    generator = np.random.default_rng([seed, height, width])
    coarse = generator.uniform(0, 255, (3, height // 16 + 2, width // 16 + 2))
    ys, xs = np.arange(height) / 16, np.arange(width) / 16
    top, left = ys.astype(int), xs.astype(int)
    down, right = (ys - top)[None, :, None], (xs - left)[None, None, :]
    corners = [coarse[:, top + dy][:, :, left + dx] for dy in (0, 1) for dx in (0, 1)]
    upper = corners[0] * (1 - right) + corners[1] * right
    lower = corners[2] * (1 - right) + corners[3] * right
    smooth = upper * (1 - down) + lower * down
    return np.clip(smooth + generator.normal(0, 12, smooth.shape), 0, 255).round().astype(np.uint8)


def table(rows, columns, number=5):
    """The OIM table before the training step: (rows, columns) float32, rows of unit length; 6: a filled queue."""
    values = np.random.default_rng([0, number]).standard_normal((rows, columns)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)
