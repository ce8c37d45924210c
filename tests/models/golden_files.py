"""Outputs of the reference implementations, to agree with.

``tests/golden`` holds a sample of each (its README says how they were made). Where the whole arrays lie beside the
checkout, in ``../shared/golden``, these are compared instead.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from person_search.data.target import Target

SAMPLES = Path(__file__).resolve().parents[1] / "golden"
WHOLE = SAMPLES.parents[1].parent / "shared" / "golden"
QUEUE_ROWS = 40
"""Rows at the end of a queue that is not empty."""
KEPT = 6000
"""Numbers kept of an array that has more."""


def stride(size):
    """Of an array of ``size`` numbers every how-manieth is kept: a prime, so that all rows and columns take part."""
    step = max(1, -(-size // KEPT))
    while any(step % divisor == 0 for divisor in range(2, int(step**0.5) + 1)):
        step += 1
    return step


def sample(array):
    """The numbers kept of ``array``; all of it where it is small."""
    array = np.asarray(array)
    step = stride(array.size)
    return array if step == 1 else array.reshape(-1)[::step]


@cache
def formula():
    """The module that draws weights and pictures."""
    spec = importlib.util.spec_from_file_location("golden_formula", SAMPLES / "formula.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def layout(name):
    """{key: shape} of the state dict that the implementation of ``name`` saves."""
    return {key: tuple(shape) for key, shape in json.loads((SAMPLES / f"{name}.layout.json").read_text()).items()}


def released_state(name, golden):
    """The state dict that the implementation of ``name`` saves, the last ``QUEUE_ROWS`` of its queue being filled."""
    state = {}
    for key, shape in layout(name).items():
        if key.endswith("reid_loss.lut"):
            value = formula().table(*shape)
        elif key.endswith("reid_loss.cq"):
            value = np.zeros(shape, np.float32)
            value[-QUEUE_ROWS:] = formula().table(QUEUE_ROWS, shape[1], 6)
        else:
            value = golden.arrays.get(f"weights/{key}", formula().tensor(key, shape))
        state[key] = torch.from_numpy(np.asarray(value))
    return state


def make_images():
    """The two pictures, (3, 192, 320) uint8 RGB."""
    return [torch.from_numpy(formula().image(192, 320, number)) for number in (0, 1)]


class Golden:
    """The outputs called ``name``, by key: whole where they are at hand, else a sample.

    With a ``prefix``: those whose keys begin with it, which is left out.
    """

    def __init__(self, name, prefix=""):
        whole = WHOLE / f"{name}.npz"
        self.arrays = dict(np.load(whole if whole.exists() else SAMPLES / f"{name}.npz"))
        self.arrays = self.below(prefix)

    def __getitem__(self, key):
        return self.arrays[key]

    def below(self, prefix):
        """{rest of the key: array} of the keys that start with ``prefix``."""
        return {key.removeprefix(prefix): value for key, value in self.arrays.items() if key.startswith(prefix)}

    def difference(self, key, found):
        """The largest absolute difference of ``found`` from what is expected under ``key``."""
        found, expected = np.asarray(found), self.arrays[key]
        if expected.shape != found.shape:
            found = sample(found)
        assert found.shape == expected.shape, f"{key}: expected {expected.shape}, found {found.shape}"
        return float(np.abs(found.astype(np.float64) - expected).max())

    def relative(self, key, found):
        """``difference`` over the largest absolute value expected."""
        return self.difference(key, found) / float(np.abs(self.arrays[key]).max())


def targets_of(golden):
    """The people to train on, per image."""
    return [
        Target(torch.from_numpy(boxes), torch.from_numpy(ids), torch.zeros(0, 4))
        for boxes, ids in zip(golden["gt_boxes"], golden["pids"], strict=True)
    ]


def training_step(model, golden, images):
    """Losses, gradient norms and state after one training step on ``images`` from the weights of ``model``."""
    model = copy.deepcopy(model)
    losses = model.train()(images, targets_of(golden))
    sum(losses.values()).backward()
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    return {key: loss.item() for key, loss in losses.items()}, norms, model.state_dict()


def assert_losses_agree(golden, losses, names):
    """The same losses, named differently: {ours: theirs}; to 1e-4 each."""
    assert losses.keys() == names.keys()
    for ours, theirs in names.items():
        assert losses[ours] == pytest.approx(float(golden[f"loss/{theirs}"]), rel=1e-4), ours


def assert_gradients_agree(golden, norms, rename, *, floor):
    """The same parameters have a gradient, of the same length to 1 %; below ``floor`` of the largest it is rounding."""
    expected = {rename(key): float(value) for key, value in golden.below("gradnorm/").items()}
    assert set(norms) == set(expected)
    least = floor * max(expected.values())
    for key, value in expected.items():
        assert norms[key] == pytest.approx(value, rel=1e-2, abs=1e-2 * least), key
