"""OIM against its definition, written out step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from person_search.models.oim_loss import OIMLoss
from person_search.models.settings import LossSettings, OimLossSettings
from person_search.models.softmax_loss import SoftmaxLoss


def oim(identities=4, features=3, queue=5, **settings):
    return OIMLoss(features, identities, OimLossSettings(queue=queue, **settings))


class Plain:
    """The rules of OIM, one person at a time."""

    def __init__(self, identities, features, queue, scale=30.0, momentum=0.5):
        self.lut = [np.zeros(features) for _ in range(identities)]
        self.queue, self.length, self.scale, self.momentum = [], queue, scale, momentum

    def step(self, embeddings, labels):
        unit = [x / max(np.linalg.norm(x), 1e-12) for x in embeddings]
        for x, y in zip(unit, labels, strict=True):
            if y == -1:
                self.queue = [*self.queue, x][-self.length :]
        losses = []
        for x, y in zip(unit, labels, strict=True):
            if y >= 0:
                logits = np.array([self.scale * (row @ x) for row in [*self.lut, *self.queue]])
                losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[y])
        before = [row.copy() for row in self.lut]
        for x, y in zip(unit, labels, strict=True):
            if y >= 0:
                row = self.momentum * before[y] + (1 - self.momentum) * x
                self.lut[y] = row / max(np.linalg.norm(row), 1e-12)
        return np.mean(losses) if losses else 0.0


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(-2, 3), min_size=0, max_size=8), min_size=1, max_size=4), st.integers(0, 1000))
def test_agrees_with_the_definition_over_several_steps(steps, seed):
    generator = np.random.default_rng(seed)
    loss, plain = oim(), Plain(4, 3, 5)
    for labels in steps:
        embeddings = generator.normal(size=(len(labels), 3)).astype(np.float32)
        value, _ = loss(torch.from_numpy(embeddings), torch.tensor(labels, dtype=torch.int64))
        assert value.item() == pytest.approx(plain.step(embeddings.astype(np.float64), labels), abs=1e-4)
    np.testing.assert_allclose(loss.lut, np.stack(plain.lut), atol=1e-5)
    count = int(loss.queue_count)
    assert count == len(plain.queue)
    if count:
        np.testing.assert_allclose(loss.queue[-count:], np.stack(plain.queue), atol=1e-6)
    assert not loss.queue[: 5 - count].any()


def test_last_row_of_an_identity_wins_and_starts_from_the_old_row():
    loss = oim(identities=2, features=2)
    loss.lut[0] = torch.tensor([1.0, 0.0])
    loss(torch.tensor([[-1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    torch.testing.assert_close(loss.lut[0], F.normalize(torch.tensor([0.5, 0.5]), dim=0))


def test_momentum_is_the_share_of_the_old_row():
    loss = oim(identities=1, features=2, momentum=0.8)
    loss.lut[0] = torch.tensor([1.0, 0.0])
    loss(torch.tensor([[0.0, 3.0]]), torch.tensor([0]))
    torch.testing.assert_close(loss.lut[0], F.normalize(torch.tensor([0.8, 0.2]), dim=0))


def test_background_enters_neither_loss_nor_queue():
    loss = oim()
    value, accuracy = loss(torch.randn(3, 3, requires_grad=True), torch.tensor([-2, -2, -2]))
    value.backward()
    assert value.item() == 0
    assert accuracy.item() == 0
    assert int(loss.queue_count) == 0


def test_a_batch_without_identity_advances_the_queue_with_zero_loss_and_gradient():
    loss = oim()
    embeddings = torch.randn(3, 3, requires_grad=True)
    value, _ = loss(embeddings, torch.tensor([-1, -1, -2]))
    value.backward()
    assert value.item() == 0
    assert int(loss.queue_count) == 2
    assert not embeddings.grad.any()


def test_no_gradient_reaches_the_tables_and_finite_gradients_reach_the_embeddings():
    loss = oim()
    embeddings = torch.randn(4, 3, requires_grad=True)
    loss(embeddings, torch.tensor([0, 1, -1, 2]))[0].backward()
    assert embeddings.grad[:2].abs().sum() > 0
    assert torch.isfinite(embeddings.grad).all()
    assert not loss.lut.requires_grad
    assert list(loss.parameters()) == []


@pytest.mark.parametrize(("identities", "length"), [(1000, 500), (1001, 5000)])
def test_standard_queue_length_follows_the_number_of_identities(identities, length):
    assert len(OIMLoss(2, identities, OimLossSettings()).queue) == length


def test_accuracy_is_that_of_labelled_people():
    loss = oim(identities=3, features=3)
    loss.lut.copy_(torch.eye(3))
    _, accuracy = loss(torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, -1]))
    assert accuracy.item() == pytest.approx(2 / 3)


def test_softmax_takes_labelled_people_only():
    torch.manual_seed(0)
    loss = SoftmaxLoss(3, 4, LossSettings(name="softmax"))
    embeddings, labels = torch.randn(5, 3), torch.tensor([0, -1, 3, -2, 1])
    value, _ = loss(embeddings, labels)
    labelled = labels >= 0
    torch.testing.assert_close(value, F.cross_entropy(loss.classifier(embeddings[labelled]), labels[labelled]))
    assert loss.classifier.bias is None
    assert loss.classifier.weight.std().item() < 0.01
    assert loss(torch.randn(2, 3), torch.tensor([-1, -1]))[0].item() == 0
