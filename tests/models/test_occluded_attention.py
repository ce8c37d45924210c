"""Strips of features that RoIs exchange in training."""

from __future__ import annotations

import pytest
import torch

from person_search.data.target import Target
from person_search.models.occluded_attention import Exchange, draw_exchange
from person_search.models.random_draws import Draw, generator_of_batch, seed_of_batch

CPU = torch.device("cpu")


def test_every_roi_takes_the_strip_of_its_partner_and_keeps_the_rest() -> None:
    features = torch.rand(3, 2, 4, 5)
    partners = torch.tensor([2, 0, 1])
    for is_column in (True, False):
        strip = torch.zeros(4, 5, dtype=torch.bool)
        (strip.t() if is_column else strip)[3] = True
        exchanged = Exchange(is_column, 3, partners, [3])(features)
        assert torch.equal(exchanged[..., strip], features[partners][..., strip])
        assert torch.equal(exchanged[..., ~strip], features[..., ~strip])


def test_the_gradient_of_a_strip_goes_to_the_roi_that_it_is_from() -> None:
    features = torch.zeros(2, 1, 3, 3, requires_grad=True)
    swapped = Exchange(True, 0, torch.tensor([1, 0]), [2])(features)
    swapped[0].sum().backward()
    expected = torch.zeros(2, 1, 3, 3)
    expected[0, :, :, 1:] = 1
    expected[1, :, :, 0] = 1
    assert torch.equal(features.grad, expected)


def test_rows_and_columns_are_as_likely_and_the_last_is_never_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_exchange(4, (14, 9), generator, CPU) for _ in range(600)]
    columns = [each.position for each in drawn if each.column]
    rows = [each.position for each in drawn if not each.column]
    assert len(columns) == pytest.approx(300, abs=50)
    assert set(rows) == set(range(13))
    assert set(columns) == set(range(8))
    assert all(sorted(each.partners.tolist()) == [0, 1, 2, 3] for each in drawn)
    assert len({tuple(each.partners.tolist()) for each in drawn}) == 24


@pytest.mark.parametrize("number", [0, 1])
def test_one_roi_or_none_exchanges_with_itself(number: int) -> None:
    features = torch.rand(number, 2, 1, 1)
    exchange = draw_exchange(number, (1, 1), torch.Generator().manual_seed(0), CPU)
    assert torch.equal(exchange(features), features)


def test_a_batch_draws_by_the_seed_of_its_first_image() -> None:
    def target(seed: int | None) -> Target:
        return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 4), seed)

    assert seed_of_batch([target(2**61), target(7)], CPU) == 2**61
    torch.manual_seed(0)
    one, other = (seed_of_batch([target(None), target(7)], CPU) for _ in range(2))
    assert one != other
    first, again, later = (
        torch.rand(2, generator=generator_of_batch(5, draw))
        for draw in (Draw.EXCHANGE, Draw.EXCHANGE, Draw.LATER_EXCHANGE)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
