"""ProtoNorm against the same thing written person by person."""

from __future__ import annotations

import pytest
import torch
from small_models import small
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from person_search.data.target import Target
from person_search.errors import UsageError
from person_search.models.proto_norm import ProtoNorm, prototypes, replace_batch_norms

LABELS = torch.tensor([3, -2, 3, -1, 0, -2, 3, -1, -2, -2])
"""Two identities, one of them three times; two people without; background."""


def rows(*pixels: int, count: int = len(LABELS)) -> Tensor:
    x = torch.randn(count, 4, *pixels, generator=torch.Generator().manual_seed(2)) * 2 + 1
    return x.requires_grad_()


def drawn(**settings: bool) -> ProtoNorm:
    torch.manual_seed(3)
    norm = ProtoNorm(4, **settings)
    for value in (norm.running_mean, norm.running_var, *norm.parameters()):
        nn.init.uniform_(value, 0.5, 2.0)
    return norm


def by_hand(norm: ProtoNorm, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What comes out, mean, and variance, from one mean per person."""
    flat = x.reshape(len(x), x.shape[1], -1)
    people = [flat[labels == label].mean(0) for label in sorted({*labels.tolist()} - {-1})]
    people += list(flat[labels == -1])
    mean = torch.stack(people).mean((0, 2))[None, :, None]
    variance = ((flat - mean) ** 2).mean((0, 2))
    out = (flat - mean) / (variance[None, :, None] + 1e-5).sqrt()
    if norm.affine:
        out = out * norm.weight[None, :, None] + norm.bias[None, :, None]
    return out.reshape(x.shape), mean.flatten(), variance


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("pixels", [(), (3, 2)])
def test_it_is_the_mean_over_people(affine: bool, pixels: tuple[int, ...]) -> None:
    norm, mine, theirs = drawn(affine=affine), rows(*pixels), rows(*pixels)
    before = norm.running_mean.clone(), norm.running_var.clone()
    with prototypes(norm, LABELS.split(4)):
        found = norm.train()(mine)
    expected, mean, variance = by_hand(norm, theirs, LABELS)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(4))
    (found * weights).sum().backward()
    of_norm = [parameter.grad.clone() for parameter in norm.parameters()]
    norm.zero_grad()
    (expected * weights).sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(of_norm, [parameter.grad for parameter in norm.parameters()])
    number = mine.numel() // 4
    torch.testing.assert_close(norm.running_mean, 0.9 * before[0] + 0.1 * mean)
    torch.testing.assert_close(norm.running_var, 0.9 * before[1] + 0.1 * variance * number / (number - 1))
    assert int(norm.num_batches_tracked) == 1


def test_a_person_seen_often_counts_once() -> None:
    """Which is not so in batch normalisation."""
    norm = ProtoNorm(1, momentum=1.0, affine=False).train()
    with prototypes(norm, [torch.tensor([0, 0, 0, 1])]):
        norm(torch.tensor([[0.0], [3], [6], [9]]))
    assert float(norm.running_mean) == pytest.approx(6)


@pytest.mark.parametrize("affine", [False, True])
def test_in_evaluation_it_is_batch_normalisation(affine: bool) -> None:
    norm, x = drawn(affine=affine).eval(), rows(3, 2)
    usual = nn.BatchNorm2d(4, affine=affine).eval()
    usual.load_state_dict(norm.state_dict())
    torch.testing.assert_close(norm(x), usual(x))


@pytest.mark.parametrize("pixels", [(), (3, 2)])
@pytest.mark.parametrize("count", [0, 1])
def test_one_row_or_none_leave_finite_statistics(count: int, pixels: tuple[int, ...]) -> None:
    norm, x = drawn(affine=True), rows(*pixels, count=count)
    before = norm.running_var.clone()
    with prototypes(norm, [LABELS[:count]]):
        out = norm.train()(x)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(value).all() for value in norm.buffers())
    assert torch.equal(norm.running_var, before) == (count * len(pixels) == 0)


def test_a_row_that_nobody_sees_counts_for_nothing() -> None:
    """A top that cannot run on no RoIs at all is given one of zeros."""
    norm = drawn(affine=True)
    before = norm.running_mean.clone()
    with prototypes(norm, [LABELS[:0]]):
        norm.train()(rows(3, 2, count=1))
    assert torch.equal(norm.running_mean, before)


def test_it_does_not_train_on_people_it_does_not_know() -> None:
    norm = ProtoNorm(4).train()
    with prototypes(norm, [LABELS]):
        norm(rows())
    with pytest.raises(RuntimeError, match="whom its rows show"):
        norm(rows())


def test_it_takes_the_place_of_batch_normalisation_with_its_weights_and_of_nothing_else() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).eval()
    nn.init.uniform_(layers[1][0].weight)
    nn.init.uniform_(layers[1][0].running_var)
    x = torch.rand(2, 3, 5, 5)
    before, names = layers(x), set(layers.state_dict())
    replace_batch_norms(layers, of="mine")
    assert isinstance(layers[1][0], ProtoNorm)
    assert {*layers.state_dict()} == names
    torch.testing.assert_close(layers.eval()(x), before)

    class WithActivation(nn.BatchNorm2d):
        pass

    for norm, found in ((WithActivation(3), "WithActivation"), (nn.LayerNorm(3), "none")):
        with pytest.raises(UsageError, match=rf"plain batch normalisation \(BatchNorm2d\), of which mine has {found}"):
            replace_batch_norms(nn.Sequential(norm), of="mine")


@pytest.mark.parametrize("method", ["oim", "nae", "seqnet", "nae4ps", "nae-plus", "seqnext", "oimnet++"])
@pytest.mark.parametrize(("norm", "kind"), [("batch", _BatchNorm), ("proto", ProtoNorm), ("none", None)])
def test_every_method_with_a_projection_normalises_it_as_it_is_told(
    method: str, norm: str, kind: type[nn.Module] | None
) -> None:
    model = small(method, embedding_norm=norm, levels=("C4", "C5")).train()
    for part in model.projection.levels.values():
        assert [isinstance(layer, kind or ()) for layer in part[1:]] == ([] if kind is None else [True])
    before = {name: value.clone() for name, value in model.projection.named_buffers()}
    people = Target(torch.tensor([[5.0, 8, 20, 45]]), torch.tensor([2]), torch.zeros(0, 4))
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(1))
    total = sum(model([picture], [people]).values())
    total.backward()
    assert torch.isfinite(total)
    moved = {name for name, value in model.projection.named_buffers() if not torch.equal(value, before[name])}
    assert moved == set(before)
