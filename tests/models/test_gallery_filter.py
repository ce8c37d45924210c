"""The gallery filter network on small cases; ``test_golden_gfn`` holds its numbers."""

from __future__ import annotations

import copy
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from small_models import METHODS, small
from torch import Tensor
from torch.nn import functional as F

from person_search.checkpoints.checkpoint import Checkpoint, start_from
from person_search.config import method_settings
from person_search.data.target import Target
from person_search.errors import UsageError
from person_search.evaluation import gallery_filter as scoring
from person_search.models.gallery_filter import ARRAYS, contrastive_loss, matches
from person_search.models.image_transform import ImageBatch
from person_search.models.scene_memory import SceneMemory, StoredScene
from person_search.models.two_stage import FeatureMaps, TwoStageModel

CARRIERS = [method for method in METHODS if not method_settings(method).no_gallery_filter]
BOXES = torch.tensor([[5.0, 8, 20, 45], [25, 8, 40, 45], [45, 8, 60, 45]])


def pictures(number: int = 3) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 96, generator=draw) for _ in range(number)]


def people(*ids: int, scene: int | None = None) -> Target:
    return Target(BOXES[: len(ids)], torch.tensor(ids, dtype=torch.int64), torch.zeros(0, 4), seed=7, scene=scene)


# Which pairs count, and how.


def test_who_is_in_a_scene_and_who_may_be() -> None:
    """Scenes: {0, somebody}, {0, 1}, {1}, {somebody}: the first stranger may be in the second, where 0 is too."""
    ids, owners = torch.tensor([0, -1, 0, 1, 1, -1]), torch.tensor([0, 0, 1, 1, 2, 3])
    positive, negative = matches(ids, owners, 4)
    assert positive.t().int().tolist() == [
        [1, 1, 0, 0],
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 1],
    ]
    assert negative.t().int().tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [1, 0, 0, 1],
        [1, 0, 0, 1],
        [1, 1, 1, 0],
    ]


@pytest.mark.parametrize("dim", [0, 1])
def test_a_pair_without_negatives_counts_as_nothing_lost(dim: int) -> None:
    logits = torch.tensor([[3.0, 1.0], [2.0, 0.5], [0.0, 4.0]])
    positive = torch.tensor([[True, True], [False, True], [False, True]])
    negative = torch.tensor([[False, False], [True, False], [True, False]])
    if dim == 1:
        logits, positive, negative = logits.t(), positive.t(), negative.t()
    logits = logits.clone().requires_grad_()
    loss = contrastive_loss(logits, positive, negative, dim=dim)
    one = -math.log(math.exp(3) / (math.exp(3) + math.exp(2) + math.exp(0)))
    assert loss.item() == pytest.approx(one / 4)
    loss.backward()
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("shape", [(3, 0), (0, 0)])
@pytest.mark.parametrize("dim", [0, 1])
def test_without_any_pair_the_loss_is_nought(shape: tuple[int, int], dim: int) -> None:
    logits, nothing = torch.zeros(shape, requires_grad=True), torch.zeros(shape, dtype=torch.bool)
    loss = contrastive_loss(logits, nothing, nothing, dim=dim)
    loss.backward()
    assert loss.item() == 0


# The memory of scenes.


def stored(*who: tuple[int, ...]) -> SceneMemory:
    """Scenes 100, 101, ... with these people."""
    memory = SceneMemory(positives=1, negatives=1)
    ids = [torch.tensor(each, dtype=torch.int64) for each in who]
    people = torch.arange(float(sum(map(len, who))))[:, None]
    memory.store([100 + i for i in range(len(who))], torch.zeros(len(who), 1), people, torch.cat(ids), [*map(len, who)])
    return memory


def looked_up(memory: SceneMemory, *who: set[int], numbers: tuple[int, ...] | None = None, seed: int = 0) -> list[int]:
    found = memory.lookup(
        numbers or tuple(range(len(who))), [frozenset(each) for each in who], torch.Generator().manual_seed(seed)
    )
    return [next(number for number, scene in memory.scenes.items() if scene is each) for each in found]


def test_for_each_person_drawn_one_scene_with_them_and_one_without_is_taken() -> None:
    memory = stored((1, 5), (1, 6), (2, 7), (2, 1), (8, 9), (-1,))
    assert looked_up(memory, {3}) == []
    # With the person, and of those without the ones where the neighbour is: 102 alone.
    taken = Counter(tuple(looked_up(memory, {1, 2}, {1}, seed=seed)) for seed in range(60))
    assert all(len(set(each)) == len(each) for each in taken)
    assert all(104 not in each and 105 not in each for each in taken)
    (alone,) = {len(looked_up(memory, {1}, seed=seed)) for seed in range(20)}
    assert alone == 1
    assert {looked_up(memory, {1}, seed=seed)[0] for seed in range(40)} == {100, 101, 103}


def test_the_neighbours_are_those_of_the_first_scene_with_the_person() -> None:
    memory = stored((2,), (3,))
    memory.positives = 0
    # Of 1, who is in both, 2 is the neighbour, and not 3; of 2 and 3 it is 1, who is in no stored scene.
    found = [looked_up(memory, {1, 2}, {1, 3}, seed=seed) for seed in range(30)]
    assert {tuple(each) for each in found} == {(), (100,)}


@pytest.mark.parametrize(("scenes", "known"), [(1, 3), (2, 3), (3, 3), (5, 3)])
def test_as_many_people_are_drawn_as_there_are_scenes_or_people(scenes: int, known: int) -> None:
    memory = stored(*((person,) for person in range(known)))
    who = [set(range(known)), *({0} for _ in range(scenes - 1))]
    taken = [looked_up(memory, *who, seed=seed) for seed in range(30)]
    memory.negatives = 0
    only = [looked_up(memory, *who, seed=seed) for seed in range(30)]
    assert {len(each) for each in only} == {min(scenes, known)}
    assert len({tuple(sorted(each)) for each in only}) == math.comb(known, min(scenes, known))
    assert max(map(len, taken)) <= known


def test_numbers_of_scenes_are_as_set_and_scenes_of_the_batch_are_left_out() -> None:
    memory = stored(*((1, 2) for _ in range(6)), *((2, 3) for _ in range(6)))
    memory.positives, memory.negatives = 4, 3
    found = looked_up(memory, {1, 2}, numbers=(100,))
    assert 100 not in found
    memory.positives, memory.negatives = 10, 0
    assert len(looked_up(memory, {1}, numbers=(100,))) == 5
    memory.positives, memory.negatives = 0, 10
    assert len(looked_up(memory, {1, 2}, {5}, numbers=(100, 0), seed=3)) in (0, 6)


def test_the_same_batch_draws_the_same_and_another_one_others() -> None:
    memory = stored(*((1, person) for person in range(2, 12)))
    assert looked_up(memory, {1, 4}, seed=5) == looked_up(memory, {1, 4}, seed=5)
    assert len({tuple(looked_up(memory, {1, 4}, seed=seed)) for seed in range(20)}) > 5


def test_a_scene_is_stored_as_it_was_seen_last_and_goes_through_a_file() -> None:
    memory = stored((1, -1), (), (2,))
    memory.store([100, -1], torch.ones(2, 1), torch.full((2, 1), 7.0), torch.tensor([3, 4]), [1, 1])
    assert list(memory.scenes) == [100, 101, 102]
    assert memory.scenes[100].identities == {3}
    again = SceneMemory(positives=1, negatives=1)
    again.load(memory.state())
    assert list(again.scenes) == [100, 101, 102]
    for one, other in zip(memory.scenes.values(), again.scenes.values(), strict=True):
        assert (one.identities, one.ids.tolist()) == (other.identities, other.ids.tolist())
        assert torch.equal(one.embedding, other.embedding)
        assert torch.equal(one.people, other.people)
    again.load(SceneMemory(positives=1, negatives=1).state())
    assert again.scenes == {}


def test_a_copy_of_a_model_shares_what_is_stored_but_not_what_is_stored_later() -> None:
    model = small("oim", gfn=True)
    model.scene_memory.scenes = stored((1,)).scenes
    twin = copy.deepcopy(model)
    assert twin.scene_memory is twin.gallery_filter.memory
    assert twin.scene_memory.scenes == model.scene_memory.scenes
    twin.scene_memory.scenes |= {5: StoredScene.of(torch.zeros(1), torch.zeros(0, 1), torch.zeros(0))}
    assert list(model.scene_memory.scenes) == [100]


# The network in a model.


@pytest.mark.parametrize("method", CARRIERS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"gfn_objective": "separate"}, {"gfn_fusion": "sum", "gfn_query": "oim"}, {"gfn_fusion": "identity"}],
    ids=["combined", "separate", "sum, oim", "identity"],
)
def test_every_method_trains_one_and_all_of_it_has_a_gradient(method: str, settings: dict[str, str]) -> None:
    model = small(method, gfn=True, **settings).train()
    losses = model(pictures(), [people(0, -1, scene=0), people(0, 1, scene=1), people(2, scene=2)])
    assert losses["gallery_filter"].item() > 0
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    parts = [name for name, p in model.gallery_filter.named_parameters() if not p.grad.any()]
    assert all("bias" in name for name in parts)
    assert list(model.scene_memory.scenes) == [0, 1, 2]


def test_without_it_a_model_is_what_it_was() -> None:
    model = small("oim").train()
    assert "gallery_filter" not in model(pictures(), [people(0), people(1), people(2)])
    assert model.scene_memory is None
    assert model.optional_arrays() == ()
    (result, *_) = model.eval().detect_and_embed(pictures(), [BOXES] * 3)
    assert (result.arrays, result.given[0].arrays) == ({}, {})


def test_its_layers_begin_as_copies_and_are_its_own() -> None:
    model = small("seqnet", gfn=True)
    for name in model.embedding_parts:
        own, others = model.gallery_filter.parts[name].state_dict(), getattr(model, name).state_dict()
        assert all(torch.equal(value, others[key]) for key, value in own.items())
        assert all(value.data_ptr() != others[key].data_ptr() for key, value in own.items())


@pytest.mark.parametrize("method", ["seqnet", "seqnext", "baseline", "nae-plus", "oimnet+++"])
@pytest.mark.parametrize("ids", [[(0,)], [()], [(), ()], [(0,), ()], [(-1,), (-1,)]])
def test_batches_of_one_scene_or_one_person_or_nobody_train(method: str, ids: list[tuple[int, ...]]) -> None:
    model = small(method, gfn=True).train()
    losses = model(pictures(len(ids)), [people(*who) for who in ids])
    sum(losses.values()).backward()
    assert bool(torch.isfinite(losses["gallery_filter"]))
    assert all(bool(torch.isfinite(value).all()) for value in model.buffers())
    assert [name for name, p in model.gallery_filter.named_parameters() if p.grad is None] == []


def test_one_row_leaves_running_statistics_alone() -> None:
    model = small("oim", gfn=True, roi_fg_iou=1.0).train()
    before = copy.deepcopy(model.gallery_filter.state_dict())
    model(pictures(1), [people(0)])
    after = model.gallery_filter.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any(name.startswith(("parts.projection", "norm")) for name in moved)
    assert model.gallery_filter.parts["projection"].levels["C5"][1].training
    model(pictures(3), [people(0, 1), people(1), people()])
    assert not torch.equal(after["norm.running_mean"], before["norm.running_mean"])


def test_it_comes_first_in_a_step() -> None:
    """The embedding layer normalises by the true boxes, and then by the RoIs."""
    model, seen = small("oim", gfn=True).train(), []
    model.projection.register_forward_hook(lambda part, args, out: seen.append(len(out)))
    model.gallery_filter.parts["projection"].register_forward_hook(lambda part, args, out: seen.append(len(out)))
    model.rpn.register_forward_pre_hook(lambda part, args: seen.append(0))
    propose = model.rpn.propose
    model.rpn.propose = lambda *args: seen.append(0) or propose(*args)
    model(pictures(), [people(0), people(1), people(0, 2)])
    assert seen[:3] == [4, 3, 0]
    assert len(seen) == 4


def test_queries_from_the_table_are_people_with_an_identity() -> None:
    model = small("oim", gfn=True, gfn_query="oim", gfn_memory=False).train()
    model.reid_loss.lut.copy_(F.normalize(torch.randn(5, 256), dim=1))
    scenes = F.normalize(torch.randn(3, 256), dim=1)
    who = [people(0, -1), people(0, 1), people(2)]
    table = model.reid_loss.lut
    loss = model.gallery_filter.loss(scenes, torch.randn(5, 256), who, table)
    again = model.gallery_filter.loss(scenes, torch.randn(5, 256), who, table)
    assert loss.item() == again.item()
    model.gallery_filter.config = model.config.gfn.model_copy(update={"query": "batch"})
    known = [people(0), people(0, 1), people(2)]
    assert model.gallery_filter.loss(scenes, table[[0, 0, 1, 2]], known, None).item() == pytest.approx(loss.item())


def test_a_scene_is_read_as_far_as_it_would_reach_alone() -> None:
    model = small("oim", gfn=True).eval()
    maps = torch.randn(2, model.trunk.channels, 4, 6)
    batch = ImageBatch(torch.zeros(2, 3, 64, 96), [(64, 96), (40, 33)], [(64, 96), (40, 33)])
    with torch.no_grad():
        both = model.gallery_filter.embed_scenes(model, FeatureMaps(maps, batch))
        alone = ImageBatch(torch.zeros(1, 3, 64, 64), [(40, 33)], [(40, 33)])
        cut = FeatureMaps(maps[1:, :, :, :4], alone)
        torch.testing.assert_close(model.gallery_filter.embed_scenes(model, cut), both[1:])
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize(
    "settings",
    [{}, {"gfn_fusion": "sum"}, {"gfn_fusion": "identity"}, {"gfn_objective": "separate"}],
    ids=["se", "sum", "identity", "separate"],
)
def test_what_it_predicts_gives_its_scores(settings: dict[str, str]) -> None:
    model = small("nae", gfn=True, **settings).eval()
    network = model.gallery_filter
    if network.norm is not None:
        network.norm.running_mean.normal_(std=0.02)
        network.norm.running_var.uniform_(1e-4, 1e-3)
        torch.nn.init.normal_(network.norm.bias, std=0.1)
    results = model.detect_and_embed(pictures(), [BOXES[:2], BOXES[:0], BOXES[:1]])
    alone = model.embed_alone(pictures(), [BOXES[:2], BOXES[:0], BOXES[:1]])
    for one, other in zip(results, alone, strict=True):
        torch.testing.assert_close(one.arrays["scene_embeddings"], other.arrays["scene_embeddings"])
        for person, same in zip(one.given, other.given, strict=True):
            assert person.arrays.keys() == same.arrays.keys()
            torch.testing.assert_close(person.arrays["query_scene_gates"], same.arrays["query_scene_gates"])
    assert set(results[0].arrays) | set(results[0].given[0].arrays) == set(ARRAYS) == set(scoring.ARRAYS)
    assert model.optional_arrays() == ARRAYS
    scenes = torch.stack([result.arrays["scene_embeddings"] for result in results])
    given = [(person, scene) for scene, result in zip(scenes, results, strict=True) for person in result.given]
    rows = [torch.stack([person.arrays[name] for person, _ in given]).numpy() for name in ARRAYS[1:]]
    found = scoring._scene_scores(scenes.numpy(), *rows)
    with torch.no_grad():
        for (person, own), scores in zip(given, found, strict=True):
            x = person.embedding.expand_as(scenes)
            cosines = (
                F.cosine_similarity(x, scenes)
                if settings.get("gfn_objective")
                else F.cosine_similarity(network.fuse(x, own.expand_as(scenes)), network.fuse(x, scenes))
            )
            torch.testing.assert_close(torch.from_numpy(scores), cosines.sigmoid(), atol=1e-6, rtol=1e-5)


# What is refused.


def test_what_it_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="`gfn_query` oim: the re-ID loss 'softmax' keeps no table"):
        small("oim", gfn=True, gfn_query="oim", reid_loss="softmax")

    class Other(type(small("oim"))):  # type: ignore[misc]
        embedding_parts = ("top", "transformers")

    model = Other(method_settings("oim", gfn=True, backbone="resnet18", weights="none"), 5)
    assert isinstance(model, TwoStageModel)
    with pytest.raises(UsageError, match="method 'oim' has no part 'transformers' whose copy could embed whole scenes"):
        model.add_gallery_filter()


def test_a_method_that_cannot_carry_one_says_why_where_it_is_set() -> None:
    assert {*METHODS} - {*CARRIERS} == {"coat"}
    with pytest.raises(
        UsageError, match=r"no gallery filter network \(`gfn`\) here, leave it out: COAT embeds people by"
    ):
        method_settings("coat", gfn=True)


@pytest.mark.parametrize("setting", ["gfn_objective", "gfn_fusion", "gfn_query"])
def test_unknown_words_are_refused(setting: str) -> None:
    with pytest.raises(UsageError, match=setting.removeprefix("gfn_")):
        method_settings("oim", gfn=True, **{setting: "image"})


@pytest.mark.parametrize("method", ["seqnext", "oimnet++"])
def test_it_starts_from_a_model_that_was_trained_without(method: str) -> None:
    """Its copies are those of the trained layers, as where it is trained along from the beginning."""
    plain, model = small(method), small(method, gfn=True)
    with torch.no_grad():
        for value in plain.state_dict().values():
            value.add_(1)
    fresh = copy.deepcopy(model.gallery_filter.norm.state_dict())
    start_from(model, Checkpoint(plain.config, plain.num_identities, plain.state_dict()), Path("plain.pt"))
    state = model.state_dict()
    copied = [name for name in state if name.startswith("gallery_filter.parts.")]
    assert copied
    for name in copied:
        torch.testing.assert_close(state[name], plain.state_dict()[name.removeprefix("gallery_filter.parts.")])
    torch.testing.assert_close(model.gallery_filter.norm.state_dict(), fresh)
    # One that has its own keeps it.
    with torch.no_grad():
        for value in model.gallery_filter.state_dict().values():
            value.add_(1)
    again = small(method, gfn=True)
    start_from(again, Checkpoint(model.config, model.num_identities, model.state_dict()), Path("gfn.pt"))
    for name, value in again.gallery_filter.state_dict().items():
        torch.testing.assert_close(value, model.gallery_filter.state_dict()[name])
