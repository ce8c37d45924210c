"""Outputs of the reference implementations, to agree with.

``tests/golden`` holds a sample of each (its README says how they were made). Where the whole arrays lie beside the
checkout, in ``../shared/golden``, these are compared instead.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from person_search.data.target import Target

SAMPLES = Path(__file__).resolve().parents[1] / "golden"
WHOLE = SAMPLES.parents[1].parent / "shared" / "golden"
SETTINGS = {
    "shorter_side": 192,
    "longer_side": 320,
    "score_threshold": 0.0,
    "rpn_post_nms_train": 60,
    "rpn_batch_per_image": 10**6,
    "roi_batch_per_image": 10**6,
}
"""What all ran with: no rescaling, nothing dropped, samplers that take every candidate."""
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


def released_state(name, golden, *, queue_rows=QUEUE_ROWS, drawn_as=lambda key: key):
    """The state dict that the implementation of ``name`` saves, the last ``queue_rows`` of its queues being filled.

    ``drawn_as``: from the name of a tensor to the one that the formula draws it by, where that is another.
    """
    state = {}
    drawn = cache(lambda name, shape: torch.from_numpy(np.asarray(formula().tensor(name, shape))))
    for key, shape in layout(name).items():
        if key.endswith(".lut"):
            value = formula().table(*shape)
        elif key.endswith(".cq"):
            value = np.zeros(shape, np.float32)
            if queue_rows:
                value[-queue_rows:] = formula().table(queue_rows, shape[1], 6)
        elif f"weights/{key}" in golden.arrays:
            value = golden[f"weights/{key}"]
        else:
            state[key] = drawn(drawn_as(key), shape)
            continue
        state[key] = torch.from_numpy(np.asarray(value))
    return state


@contextmanager
def remembered_top(model, seen) -> Iterator[None]:
    """Within the block the top of ``model`` runs only on RoIs on which none of the same weights has run before.

    Outputs of several names are of models that agree up to there, at a quarter of a minute and more for each. ``seen``
    holds what these gave.
    """
    run = model.top.forward
    weights = sum(float(value.double().sum()) for value in model.top.state_dict().values())

    def remembered(aligned):
        key = weights, aligned.shape, float(aligned.double().sum())
        if key not in seen:
            seen[key] = run(aligned)
        return seen[key]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(model.top, "forward", remembered)
        yield


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


def assert_sampled(name, images, *, left_out):
    """What is kept of the outputs ``name`` is a sample of the whole, and ``left_out`` is what is drawn again here."""
    whole, kept = np.load(WHOLE / f"{name}.npz"), np.load(SAMPLES / f"{name}.npz")
    assert {*whole} - {*kept} == left_out
    assert all(np.array_equal(kept[key], sample(whole[key])) for key in kept)
    np.testing.assert_allclose(whole["lut"], formula().table(*whole["lut"].shape), rtol=0, atol=1e-7)
    if "cq_tail" in left_out:
        assert np.array_equal(whole["cq_tail"], formula().table(QUEUE_ROWS, 256, 6))
    assert all(np.array_equal(image, rgb) for image, rgb in zip(images, whole["rgb"], strict=True))


def in_their_order(golden, i, found):
    """Rows of ``found`` beside those of image ``i`` of the golden: scores that nearly tie may be ranked otherwise."""
    theirs = torch.from_numpy(golden[f"det{i}_boxes"])
    distance, rows = (theirs[:, None] - found.boxes[None]).abs().amax(2).min(1)
    assert len(theirs) == len(found) == len(rows.unique())
    assert distance.max() < 1e-2
    return found.take(rows)


def assert_people_agree(golden, i, people, queries, *, by_score=True, kept=None):
    """Detections of image ``i``, in the golden's order, and the embeddings of its true boxes.

    Args:
        by_score: the golden's embeddings are times the score.
        kept: how many embeddings the golden holds; None: all.
    """
    assert golden.relative(f"det{i}_boxes", people.boxes) < 1e-4
    assert golden.difference(f"det{i}_scores", people.scores) < 1e-5
    embeddings = people.embeddings * people.scores[:, None] if by_score else people.embeddings
    assert golden.relative(f"det{i}_embeddings", embeddings[:kept]) < 1e-4
    if queries is not None:
        assert golden.relative(f"query{i}_embeddings", queries) < 1e-4


def embeddings_of(result):
    """(n, D) of the people in given boxes."""
    return torch.stack([person.embedding for person in result.given])


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


def assert_gradients_agree(golden, norms, rename, *, floor, prefix="gradnorm/"):
    """The same parameters have a gradient, of the same length to 1 %; below ``floor`` of the largest it is rounding."""
    expected = {rename(key): float(value) for key, value in golden.below(prefix).items()}
    assert set(norms) == set(expected)
    least = floor * max(expected.values())
    for key, value in expected.items():
        assert norms[key] == pytest.approx(value, rel=1e-2, abs=1e-2 * least), key


def assert_state_agrees(golden, state, rename):
    """Tables, running statistics and the place in the queue after the step.

    Batch normalisation over a few RoIs amplifies float32's rounding, as in ``test_golden``.
    """
    for key in golden.below("after/"):
        if "reid_loss" in key:
            assert golden.difference(f"after/{key}", state[rename(key)]) < 1e-4, key
        else:
            assert golden.relative(f"after/{key}", state[rename(key)]) < 1e-4, key
    assert int(state["reid_loss.queue_head"]) == int(golden["header_after"])


def assert_statistics_agree(golden, state, rename):
    """The length of every running statistic after the step."""
    for key, length in golden.below("bufnorm/").items():
        assert float(state[rename(key)].norm()) == pytest.approx(float(length), rel=1e-4), key
