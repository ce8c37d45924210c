"""What is drawn for an image depends on its seed, and on nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from person_search.config import method_settings
from person_search.data.target import Target
from person_search.models.building import build_model
from person_search.models.random_draws import Draw, choose, generator_of

PEOPLE = Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([0]), torch.zeros(0, 4))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(-1, 1), max_size=60), st.integers(1, 20), st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.integers()
)
def test_the_choice_has_the_numbers_asked_for(kinds, number, share, seed) -> None:
    values = torch.tensor(kinds, dtype=torch.float32)
    chosen = choose(values, number, share, torch.Generator().manual_seed(seed % 2**31))
    positive, negative = ((values[chosen] == kind).sum().item() for kind in (1, 0))
    assert chosen.shape == values.shape
    assert positive == min(kinds.count(1), int(number * share))
    assert negative == min(kinds.count(0), number - positive)
    assert not (values[chosen] < 0).any()


def test_every_candidate_is_as_likely_as_any_other() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.tensor([1, 0, 1, -1, 0, 0, 1, 0])
    counts = sum(choose(kinds, 4, 0.5, generator).int() for _ in range(3000)) / 3000
    torch.testing.assert_close(counts, torch.tensor([2 / 3, 0.5, 2 / 3, 0, 0.5, 0.5, 2 / 3, 0.5]), atol=0.04, rtol=0)


def test_draws_of_an_image_have_numbers_of_their_own() -> None:
    seeded = replace(PEOPLE, seed=7)
    drawn = [torch.rand(3, generator=generator_of(seeded, draw, torch.device("cpu"))) for draw in Draw]
    assert len({tuple(values.tolist()) for values in drawn}) == len(Draw)
    again = torch.rand(3, generator=generator_of(seeded.to("cpu"), Draw.ROIS, torch.device("cpu")))
    assert torch.equal(again, drawn[Draw.ROIS])
    assert generator_of(PEOPLE, Draw.ROIS, torch.device("cpu")) is None


def test_an_image_trains_on_the_same_rois_in_whichever_batch_it_is() -> None:
    """Alone or second in a batch, and whatever was drawn before; another seed draws others."""
    torch.manual_seed(0)
    config = method_settings(
        "baseline",
        backbone="resnet18",
        width=0.125,
        weights="none",
        shorter_side=(48, 64),
        longer_side=96,
        anchor_sizes=(24.0,),
        rpn_batch_per_image=20,
        roi_batch_per_image=8,
        rpn_post_nms_train=50,
    )
    model = build_model(config, 5).train()
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            part.eval()
    model.keep_samples = True
    images = torch.rand(2, 3, 64, 96)

    def rois(*seeds: int) -> torch.Tensor:
        model(list(images[-len(seeds) :]), [replace(PEOPLE, seed=seed) for seed in seeds])
        return model.samples[-1][0]

    # Seeds of one size: images of several would be padded differently.
    sizes = [model.transform(images[:1], [replace(PEOPLE, seed=seed)]).sizes[0] for seed in range(20)]
    alike = [seed for seed in range(20) if sizes[seed] == sizes[0]]
    assert 0 < len(alike) < 20
    alone = rois(alike[0])
    torch.testing.assert_close(rois(alike[1], alike[0]), alone)
    assert not torch.equal(rois(alike[1]), alone)


@pytest.mark.parametrize("seeded", [True, False])
def test_global_random_numbers_are_used_where_there_is_no_seed_only(seeded: bool) -> None:
    model = build_model(
        method_settings(
            "baseline", backbone="resnet18", width=0.125, weights="none", shorter_side=(48, 64), longer_side=96
        ),
        5,
    ).train()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    target = replace(PEOPLE, seed=3) if seeded else PEOPLE
    model([torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))] * 2, [target] * 2)
    assert torch.equal(torch.get_rng_state(), before) == seeded
