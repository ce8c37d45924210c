"""Settings for speed and memory change the numbers by rounding at most."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import METHODS

from person_search.config import TrainingConfig, method_settings
from person_search.data.target import Target
from person_search.models.acceleration import accelerate
from person_search.models.building import build_model
from person_search.models.person_search_model import PersonSearchModel

PEOPLE = Target(torch.tensor([[5.0, 8, 20, 45], [40, 5, 60, 50]]), torch.tensor([0, 2]), torch.zeros(0, 4), seed=4)


def small(method: str = "baseline", **settings: object) -> PersonSearchModel:
    torch.manual_seed(0)
    config = method_settings(
        method,
        backbone="resnet18",
        width=0.125,
        weights="none",
        shorter_side=(64,),
        longer_side=96,
        score_threshold=0.0,
        rpn_post_nms_test=20,
    )
    model = build_model(config, 5)
    accelerate(model, TrainingConfig(**settings))
    return model


def images() -> list[torch.Tensor]:
    return list(torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1)))


def trained(model: PersonSearchModel) -> dict[str, torch.Tensor]:
    """Losses, gradients and running statistics after one pass."""
    losses = model.train()(images(), [PEOPLE, replace(PEOPLE, seed=5)])
    sum(losses.values()).backward()
    gradients = {f"gradient {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses | gradients | dict(model.named_buffers())


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        scale = max(float(value.detach().abs().max()), 1e-3)
        assert float((other[name] - value).detach().abs().max()) <= 2e-4 * scale, name


def test_channels_last_changes_nothing() -> None:
    model = small(channels_last=True)
    assert model.trunk(torch.rand(1, 3, 64, 96)).is_contiguous(memory_format=torch.channels_last)
    assert_same(trained(small()), trained(small(channels_last=True)))


def test_recomputing_the_trunk_changes_nothing_and_keeps_less() -> None:
    """Running statistics move once, as they would without."""

    def kept(model: PersonSearchModel) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model.train().trunk(torch.rand(1, 3, 64, 96))
        return sum(sizes)

    assert_same(trained(small()), trained(small(checkpoint_trunk=True)))
    assert kept(small(checkpoint_trunk=True)) < 0.6 * kept(small())


@pytest.mark.parametrize("method", METHODS)
def test_recomputing_the_heads_changes_nothing(method: str) -> None:
    """Running statistics and tables move once, as they would without."""
    assert_same(trained(small(method)), trained(small(method, checkpoint_heads=True)))


def test_recomputed_heads_keep_less() -> None:
    def kept(model: PersonSearchModel) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            model.train().top(torch.rand(8, model.trunk.channels, 14, 7))
        return sum(sizes)

    assert kept(small(checkpoint_heads=True)) < 0.6 * kept(small())


@pytest.mark.slow
def test_compiled_parts_are_trunk_and_top_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler's back end is left out: making code takes minutes and is not ours."""
    compiled: list[torch.nn.Module] = []
    compile_it = torch.nn.Module.compile

    def traced(self: torch.nn.Module, **options: object) -> None:
        compiled.append(self)
        compile_it(self, backend="eager", **options)

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    model = small(compile=True)
    assert compiled == [model.trunk, model.top]
    assert model.state_dict().keys() == small().state_dict().keys()
    assert_same(trained(small()), trained(model))
    plain, fast = (each.eval()(images()) for each in (small(), small(compile=True)))
    for one, other in zip(plain, fast, strict=True):
        torch.testing.assert_close(other.boxes, one.boxes, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(other.embeddings, one.embeddings, atol=1e-4, rtol=1e-4)


def test_a_recomputed_part_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(self))
    model = small(compile=True, checkpoint_trunk=True)
    assert compiled == [model.top]
    compiled.clear()
    model = small(compile=True, checkpoint_heads=True)
    assert compiled == [model.trunk]


def test_one_process_synchronises_nothing() -> None:
    model = small(sync_batch_norm=True)
    assert not any(isinstance(part, torch.nn.SyncBatchNorm) for part in model.modules())
