"""RoI features as tokens: what a block keeps, where tokens are put back, and what a head hands on."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from person_search.models.occluded_attention import Exchange
from person_search.models.token_mixing import Attention, TokenMixer, TransformerBlock, TransformerHead


@torch.no_grad()
def test_the_residual_of_a_block_starts_from_its_normalised_tokens() -> None:
    block = TransformerBlock(16)
    tokens = 3 + 5 * torch.rand(2, 6, 16)
    for layer in (block.attention.output, block.ffn[2]):
        layer.weight.zero_()
        layer.bias.zero_()
    torch.testing.assert_close(block(tokens), F.layer_norm(tokens, (16,)))


@torch.no_grad()
def test_attention_is_that_of_torch() -> None:
    attention, theirs = Attention(16, 4), torch.nn.MultiheadAttention(16, 4, batch_first=True)
    layers = (attention.query, attention.key, attention.value)
    theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in layers]))
    theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in layers]))
    theirs.out_proj.load_state_dict(attention.output.state_dict())
    x = torch.rand(3, 7, 16)
    torch.testing.assert_close(attention(x), theirs(x, x, x)[0])


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [(14, 14), (4, 6)])
@torch.no_grad()
def test_tokens_are_put_back_as_patches_that_add_up_where_they_overlap(kernel: int, size: tuple[int, int]) -> None:
    mixer = TokenMixer(6, 8, kernel)
    tokens = torch.rand(3, 8, *size)
    patches = mixer.vec2patch(tokens.flatten(2).transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(mixer._put_back(tokens), F.fold(patches, size, kernel, padding=kernel // 2))


@torch.no_grad()
def test_a_head_pools_what_its_scales_add_to_the_halves_of_the_features() -> None:
    head = TransformerHead(32, skip=True)
    x = torch.rand(3, 32, 5, 5)
    reduced = head.reduce(x)
    assert [scale.patch2vec.kernel_size for scale in head.scales] == [(1, 1), (3, 3)]
    mixed = torch.cat([scale(half) for scale, half in zip(head.scales, reduced.chunk(2, 1), strict=True)], 1)
    pooled = head(x)
    torch.testing.assert_close(pooled["C5"], head.expand(reduced + mixed).flatten(2).max(2).values)
    torch.testing.assert_close(pooled["C4"], head.skip(x).flatten(2).max(2).values)
    assert pooled["C5"].shape == (3, head.channels) == (3, 64)
    assert TransformerHead(32, skip=False)(x).keys() == {"C5"}


def test_widths_follow_the_trunk_and_are_the_published_ones_for_resnet50() -> None:
    head = TransformerHead(1024, skip=True)
    assert (head.reduce.out_channels, head.expand.out_channels) == (512, 2048)
    assert [scale.patch2vec.in_channels for scale in head.scales] == [256, 256]
    assert {scale.patch2vec.out_channels for scale in head.scales} == {128}
    assert head.scales[0].block.ffn[0].out_features == 512
    # A trunk whose channels no power of two divides.
    assert TransformerHead(90, skip=True)(torch.rand(2, 90, 3, 3))["C5"].shape == (2, 180)


def test_the_tokens_of_all_scales_are_exchanged_and_apart_from_them_the_features_beside() -> None:
    head = TransformerHead(32, skip=True)
    x = torch.rand(2, 32, 5, 5)
    swap = Exchange(True, 1, torch.tensor([1, 0]), [2])
    plain, tokens, skipped = head(x), head(x, tokens=swap), head(x, skipped=swap)
    assert not torch.allclose(tokens["C5"], plain["C5"])
    assert torch.equal(tokens["C4"], plain["C4"])
    assert torch.equal(skipped["C5"], plain["C5"])
    assert not torch.allclose(skipped["C4"], plain["C4"])
    for scale in head.scales:
        part = torch.rand(2, scale.channels, 5, 5)
        assert not torch.allclose(scale(part, swap), scale(part))


def test_a_head_takes_no_rois_at_all() -> None:
    head = TransformerHead(32, skip=True)
    pooled = head(torch.zeros(0, 32, 14, 14, requires_grad=True))
    assert {name: tuple(values.shape) for name, values in pooled.items()} == {"C4": (0, 32), "C5": (0, 64)}
    sum(values.sum() for values in pooled.values()).backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
