"""OIM with sequential updates, and LOIM, against the same thing written as a loop over RoIs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from person_search.models.loim_loss import LOIMLoss
from person_search.models.sequential_oim_loss import SequentialOIMLoss
from person_search.models.settings import LoimLossSettings, SequentialOimLossSettings

IDENTITIES, FEATURES, QUEUE = 4, 6, 5


def make(**settings: object) -> SequentialOIMLoss:
    return SequentialOIMLoss(FEATURES, IDENTITIES, SequentialOimLossSettings(queue=QUEUE, **settings))


def make_loim(**settings: object) -> LOIMLoss:
    return LOIMLoss(FEATURES, IDENTITIES, LoimLossSettings(queue=QUEUE, **settings))


def unit(count: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed)), dim=1)


def by_hand(tables: dict[str, Tensor], x: Tensor, labels: list[int], scale: float, momenta: list[float]) -> Tensor:
    """The loss over labelled rows; ``tables`` (lut, queue, head) move row by row, each by its own momentum."""
    known = torch.tensor([label >= 0 for label in labels])
    rows = torch.cat([tables["lut"], tables["queue"]])
    loss = F.cross_entropy(scale * x[known] @ rows.t(), torch.tensor(labels)[known])
    for row, label, momentum in zip(x.detach(), labels, momenta, strict=True):
        if label >= 0:
            moved = momentum * tables["lut"][label] + (1 - momentum) * row
            tables["lut"][label] = moved / moved.norm()
        elif label == -1:
            tables["queue"][tables["head"]] = row
            tables["head"] = (tables["head"] + 1) % QUEUE
    return loss


@pytest.mark.parametrize("momentum", [0.5, 0.9, None])
def test_it_is_the_loop_over_rois(momentum: float | None) -> None:
    """The first batch meets empty rows only; one identity comes three times; the queue wraps, once all at once.

    Without a momentum it is LOIM, where every RoI has one of its own.
    """
    loss = make_loim(scale=12.0) if momentum is None else make(momentum=momentum, scale=12.0)
    tables = {"lut": torch.zeros(IDENTITIES, FEATURES), "queue": torch.zeros(QUEUE, FEATURES), "head": torch.tensor(0)}
    batches = [[0, -2, 2, -1, 2, -2, 0, 2], [1, -1, -1, -1, 2, 0], [3, *[-1] * 7, 3], [-1, 1, -1]]
    for seed, labels in enumerate(batches):
        mine, theirs = (unit(len(labels), seed).requires_grad_() for _ in range(2))
        overlaps = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.5
        steps = [min(max(each, 0.7), 0.9) for each in overlaps.tolist()]
        momenta = [1 - step if momentum is None else momentum for step in steps]
        found, _ = loss(mine, torch.tensor(labels), **({"overlaps": overlaps} if momentum is None else {}))
        found.backward()
        expected = by_hand(tables, theirs, labels, 12.0, momenta)
        expected.backward()
        torch.testing.assert_close(found, expected)
        # Normalising a unit vector once more takes the gradient's part along it away.
        along = (theirs.grad * theirs).sum(1, keepdim=True) * theirs
        torch.testing.assert_close(mine.grad, theirs.grad - along, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(loss.lut, tables["lut"])
        torch.testing.assert_close(loss.queue, tables["queue"])
        assert int(loss.queue_head) == int(tables["head"])
    assert int(loss.queue_head) == (1 + 3 + 7 + 2) % QUEUE


def test_losses_without_a_backward_pass_leave_the_tables_alone() -> None:
    loss = make()
    labels = torch.tensor([0, -1])
    loss(unit(2, 0).requires_grad_(), labels)
    with torch.no_grad():
        loss(unit(2, 0).requires_grad_(), labels)
    assert not loss.lut.any()
    assert not loss.queue.any()
    assert loss.queue_head == 0


def test_without_anybody_known_the_loss_is_zero_and_the_queue_moves() -> None:
    loss = make()
    rows = unit(3, 0).requires_grad_()
    found, accuracy = loss(rows, torch.tensor([-1, -2, -1]))
    found.backward()
    assert (found.item(), accuracy.item()) == (0, 0)
    assert not rows.grad.any()
    torch.testing.assert_close(loss.queue[:2], rows.detach()[[0, 2]])
    assert loss.queue_head == 2
    nobody = torch.zeros(0, FEATURES, requires_grad=True)
    found, _ = loss(nobody, torch.zeros(0, dtype=torch.int64))
    found.backward()
    assert found.item() == 0


def test_embeddings_of_any_length_count_by_their_direction() -> None:
    one, other = make(), make()
    rows, labels = unit(4, 1), torch.tensor([0, 1, -1, 0])
    for loss, factor in ((one, 1.0), (other, 5.0)):
        given = (factor * rows).requires_grad_()
        loss(given, labels)[0].backward()
    torch.testing.assert_close(one.lut, other.lut)
    torch.testing.assert_close(one.queue, other.queue)


@pytest.mark.parametrize(("identities", "length"), [(1000, 500), (1001, 5000)])
def test_the_published_lengths_of_the_queue(identities: int, length: int) -> None:
    assert len(SequentialOIMLoss(2, identities, SequentialOimLossSettings()).queue) == length


def test_loim_steps_no_less_and_no_more_than_its_bounds() -> None:
    """The true box itself, of overlap 1, does not replace what the row was."""
    loss = make_loim(min_step=0.6, max_step=0.8)
    loss.lut.copy_(unit(IDENTITIES, 7))
    x = unit(3, 8).requires_grad_()
    loss(x, torch.tensor([0, 1, 2]), overlaps=torch.tensor([0.5, 0.75, 1.0]))[0].backward()
    for row, (step, start, end) in enumerate(zip([0.6, 0.75, 0.8], unit(IDENTITIES, 7), x.detach(), strict=False)):
        torch.testing.assert_close(loss.lut[row], F.normalize((1 - step) * start + step * end, dim=0))


def test_loim_wants_overlaps_and_bounds_in_order() -> None:
    with pytest.raises(ValueError, match="overlap of every RoI"):
        make_loim()(unit(2, 0).requires_grad_(), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"oim_min_step 0\.95 exceeds oim_max_step 0\.9"):
        make_loim(min_step=0.95)
