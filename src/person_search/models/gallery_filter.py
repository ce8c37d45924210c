"""The gallery filter network: which scenes may hold a person, before anybody is detected (Jaffe, Zakhor, WACV 2023)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from person_search.data.target import Target
from person_search.errors import UsageError
from person_search.models.backbones.stochastic_depth import draw_depths
from person_search.models.detections import ImageResult
from person_search.models.image_transform import STRIDE
from person_search.models.proto_norm import ProtoNorm, prototypes
from person_search.models.random_draws import Draw, generator_of_batch, seed_of_batch
from person_search.models.reid_loss import identity_table
from person_search.models.scene_memory import SceneMemory, identities_in
from person_search.runtime.distributed import (
    all_gather_numbers,
    all_gather_rows,
    all_gather_rows_with_gradient,
    sum_over_ranks,
)

if TYPE_CHECKING:
    from person_search.models.two_stage import FeatureMaps, TwoStageModel

ARRAYS = ("scene_embeddings", "query_scene_embeddings", "query_scene_gates", "query_scene_offsets")
"""Names of the optional arrays of predictions that it fills."""


class GalleryFilter(nn.Module):
    """Embeds whole scenes, and compares them as a query sees them::

        trunk's map of the scene -> max pool to 56 x 56 -> scene's top -> max -> scene's embedding layer -> y
        box of a query on that map -> RoIAlign -> top -> max -> embedding layer -> x    (the method's own)
        F(x, y) = BN(y * sigmoid(x / 0.2))                                              (se; x and y of unit length)
        score of (query x of scene y, gallery scene z) = sigmoid(cos(F(x, y), F(x, z)))

    A scene is embedded as the method embeds a person, by copies of the layers that it does so with, which go their own
    way from then on. In training the scenes of a query's person are to be more alike, as it sees them, than those
    without.

    Args:
        model: whose ``embedding_parts`` are copied, as they are now; its settings ``gfn`` count.

    Raises:
        UsageError: the model has no such parts, or its loss no table that the settings ask for.
    """

    def __init__(self, model: TwoStageModel):
        super().__init__()
        self.config = config = model.config.gfn
        missing = [name for name in model.embedding_parts if not isinstance(getattr(model, name, None), nn.Module)]
        if missing:
            raise UsageError(
                f"`gfn`: method '{model.config.method}' has no part '{missing[0]}' whose copy could embed whole "
                "scenes; leave `gfn` out, or name the parts that it embeds people with in its attribute embedding_parts"
            )
        if config.query == "oim" and table_of(model) is None:
            raise UsageError(
                f"`gfn_query` oim: the re-ID loss '{model.config.loss.name}' keeps no table of identities; take a loss "
                "that does, such as oim, or `gfn_query` batch"
            )
        self.parts = nn.ModuleDict({name: copy.deepcopy(getattr(model, name)) for name in model.embedding_parts})
        fused = config.objective == "combined" and config.fusion != "identity"
        self.norm = nn.BatchNorm1d(embedding_size(model)) if fused else None
        self.memory: SceneMemory | None = None
        if config.memory:
            self.memory = SceneMemory(positives=config.memory_positives, negatives=config.memory_negatives)

    def start_of(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What it starts from beside a model's ``state`` dict, by the names that its own tensors have in one."""
        copies = {
            f"gallery_filter.parts.{name}": value
            for name, value in state.items()
            if name.partition(".")[0] in self.parts
        }
        new = {} if self.norm is None else self.norm.state_dict(prefix="gallery_filter.norm.")
        return copies | new

    # What a model does with it.

    def losses(self, model: TwoStageModel, features: FeatureMaps) -> dict[str, Tensor]:
        """The weighted loss of a batch by name; its queries are the people in the true boxes."""
        targets = features.targets
        assert targets is not None
        boxes = [target.boxes for target in targets]
        who = [target.person_ids for target in targets]
        with normalising(layers_of(model), sum(map(len, boxes)), features.maps.device), prototypes(model, who):
            queries = model.embed_pooled(model.pool(model.align(features, boxes)))
        draw_depths(self.parts, [1] * len(targets), targets, Draw.SCENE_DEPTH)
        scenes = self.embed_scenes(model, features)
        return {"gallery_filter": self.config.weight * self.loss(scenes, queries, targets, table_of(model))}

    def described(self, model: TwoStageModel, features: FeatureMaps, results: list[ImageResult]) -> list[ImageResult]:
        """``results`` with the arrays that scoring needs of their scenes and of the given people."""
        return [
            replace(
                result,
                given=[replace(person, arrays=self.query_arrays(person.embedding, scene)) for person in result.given],
                arrays={"scene_embeddings": scene},
            )
            for result, scene in zip(results, self.embed_scenes(model, features), strict=True)
        ]

    # Scenes, and what a query makes of them.

    def embed_scenes(self, model: TwoStageModel, features: FeatureMaps) -> Tensor:
        """(B, D) embeddings of unit length of the scenes of a batch.

        Of each image that part of the map is read that it would have alone, so that those beside it change nothing.
        """
        size = (self.config.size, self.config.size)
        sides = torch.tensor(features.batch.sizes).div(STRIDE).ceil().long() * STRIDE // model.trunk.stride
        own = [features.maps[i : i + 1, :, :rows, :columns] for i, (rows, columns) in enumerate(sides.tolist())]
        scenes = torch.cat([F.adaptive_max_pool2d(each, size) for each in own])
        twin, each_its_own = self._twin(model), torch.full((len(scenes),), -1, device=scenes.device)
        with normalising(layers_of(twin), len(scenes), scenes.device), prototypes(self.parts, [each_its_own]):
            return F.normalize(twin.embed_pooled(twin.pool(scenes)).float(), dim=1)

    def _twin(self, model: TwoStageModel) -> TwoStageModel:
        """The model with the scenes' parts in the place of its own."""
        twin = copy.copy(model)
        twin._modules = {**model._modules, **self.parts}
        return twin

    def fuse(self, queries: Tensor, scenes: Tensor) -> Tensor:
        """(..., D) scenes as queries see them, F(x, y), of (..., D) ``queries`` x and ``scenes`` y; not normalised."""
        x, y = F.normalize(queries, dim=-1), F.normalize(scenes, dim=-1)
        if self.norm is None:
            return y.expand(torch.broadcast_shapes(x.shape, y.shape))
        fused = y * (x / self.config.gate_temperature).sigmoid() if self.config.fusion == "se" else x + y
        rows = fused.reshape(-1, fused.shape[-1])
        with normalising([self.norm], len(rows), rows.device):
            return self.norm(rows).view(fused.shape)

    @torch.no_grad()
    def query_arrays(self, query: Tensor, scene: Tensor) -> dict[str, Tensor]:
        """What scoring needs to know of a query, in evaluation: rows of the arrays that ``OPTIONAL_ARRAYS`` declares.

        Its score with a gallery scene of embedding z is sigmoid(cos(g * y + o, g * z + o)), y being the query's own
        scene, g its gates and o its offsets; with the objective "separate", y is the query itself, g is 1 and o is 0.

        Args:
            query: (D,) embedding of the person.
            scene: (D,) embedding of the scene that it comes from.
        """
        x = F.normalize(query, dim=0)
        gate, offset = torch.ones_like(x), torch.zeros_like(x)
        if self.norm is not None:
            se = self.config.fusion == "se"
            gate, offset = ((x / self.config.gate_temperature).sigmoid(), offset) if se else (gate, x)
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
            gate, offset = gate * scale, (offset - self.norm.running_mean) * scale + self.norm.bias
        own = scene if self.config.objective == "combined" else x
        return {"query_scene_embeddings": own, "query_scene_gates": gate, "query_scene_offsets": offset}

    # Training.

    def loss(self, scenes: Tensor, queries: Tensor, targets: Sequence[Target], table: Tensor | None) -> Tensor:
        """The loss over the scenes and queries of all processes, and stored ones; the same in every process.

        The memory then holds the scenes of this batch too.

        Args:
            scenes: (I, D) embeddings of the scenes of this process.
            queries: (Q, D) embeddings at their true boxes, scene by scene.
            targets: per scene.
            table: (N, D) of the re-ID loss, with the queries "oim".
        """
        with torch.autocast(scenes.device.type, enabled=False):
            batch = self._of_all_processes(scenes.float(), queries.float(), targets)
            joined = self._with_stored(batch)
            if self.config.query == "oim":
                assert table is not None
                joined = joined.with_rows_of(table)
            return self._contrast(joined)

    def _of_all_processes(self, scenes: Tensor, queries: Tensor, targets: Sequence[Target]) -> _Scenes:
        device = scenes.device
        notes = [[-1 if target.scene is None else target.scene, len(target.boxes)] for target in targets]
        numbers, counts = all_gather_rows(torch.tensor(notes, device=device)).t().tolist()
        lengths = [all_gather_numbers(len(rows), device) for rows in (scenes, queries)]
        return _Scenes(
            all_gather_rows_with_gradient(scenes, lengths[0]),
            all_gather_rows_with_gradient(queries, lengths[1]),
            all_gather_rows(torch.cat([target.person_ids for target in targets])),
            counts,
            numbers,
            generator_of_batch(seed_of_batch(targets, device), Draw.STORED_SCENES),
        )

    def _with_stored(self, batch: _Scenes) -> _Scenes:
        """The scenes of the batch and, behind them, stored ones that suit them; the batch is stored after that."""
        if self.memory is None:
            return batch
        ids = batch.ids.cpu()
        identities = [identities_in(own) for own in ids.split(batch.counts)]
        stored = self.memory.lookup(batch.numbers, identities, batch.generator)
        self.memory.store(batch.numbers, batch.scenes.detach().cpu(), batch.queries.detach().cpu(), ids, batch.counts)
        device = batch.scenes.device
        return _Scenes(
            torch.cat([batch.scenes, *(scene.embedding[None].to(device) for scene in stored)]),
            torch.cat([batch.queries, *(scene.people.to(device) for scene in stored)]),
            torch.cat([batch.ids, *(scene.ids.to(device) for scene in stored)]),
            batch.counts + [len(scene.ids) for scene in stored],
            batch.numbers,
            batch.generator,
        )

    def _contrast(self, batch: _Scenes) -> Tensor:
        owners = batch.owners
        positive, negative = matches(batch.ids, owners, len(batch.scenes))
        if self.config.objective == "separate":
            # Each scene asks which people are in it.
            cosines = F.normalize(batch.scenes, dim=1) @ F.normalize(batch.queries, dim=1).t()
            return contrastive_loss(cosines / self.config.temperature, positive, negative, dim=1)
        # Each person asks which scenes are like its own.
        seen = F.normalize(self.fuse(batch.queries[None], batch.scenes[:, None]), dim=2)
        anchors = seen[owners, torch.arange(len(owners), device=owners.device)]
        cosines = (seen * anchors).sum(2)
        return contrastive_loss(cosines / self.config.temperature, positive, negative, dim=0)


@dataclass(frozen=True, eq=False)
class _Scenes:
    """Scenes and the people in them.

    Attributes:
        scenes: (I, D).
        queries: (Q, D), scene by scene.
        ids: (Q,) int64 of the queries.
        counts: queries of each scene.
        numbers: of the scenes of the batch; -1 where one has none.
        generator: for what is drawn for the batch.
    """

    scenes: Tensor
    queries: Tensor
    ids: Tensor
    counts: list[int]
    numbers: list[int]
    generator: torch.Generator

    @property
    def owners(self) -> Tensor:
        """(Q,) int64: the scene of each query."""
        counts = torch.tensor(self.counts, device=self.ids.device)
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)

    def with_rows_of(self, table: Tensor) -> _Scenes:
        """The same without people without identity; the embeddings of the others are their (N, D) table's rows."""
        known = self.ids >= 0
        counts = torch.bincount(self.owners[known], minlength=len(self.counts)).tolist()
        ids = self.ids[known]
        return _Scenes(self.scenes, table[ids].float(), ids, counts, self.numbers, self.generator)


def matches(ids: Tensor, owners: Tensor, scenes: int) -> tuple[Tensor, Tensor]:
    """(I, Q) bool, twice: the pairs of a scene and a query whose person is in it, and those that count against it.

    A person without identity is in its own scene alone; against it count only scenes that share nobody with that one,
    for in the others it may be too.

    Args:
        ids: (Q,) int64 of the queries; -1 without identity.
        owners: (Q,) int64: the scene of each.
        scenes: I.
    """
    own = F.one_hot(owners, scenes).t().bool()
    known = ids >= 0
    same = (ids[:, None] == ids) & known
    holds = own | (own.float() @ same.float() > 0)
    alike = (holds & known).float() @ own.t().float() > 0
    return holds, torch.where(known, ~holds, ~(alike[:, owners] | own))


def contrastive_loss(logits: Tensor, positive: Tensor, negative: Tensor, *, dim: int) -> Tensor:
    """Mean over positive pairs of -log(e^p / (e^p + sum of e^n over the negatives of the same anchor)).

    A pair without negatives gives 0 and counts; without any positive pair the loss is 0.

    Args:
        logits: (I, Q).
        positive, negative: (I, Q) bool.
        dim: along which the pairs of an anchor lie.
    """
    against = logits.masked_fill(~negative, -torch.inf).logsumexp(dim, keepdim=True)
    losses = torch.where(positive, F.softplus(against - logits), 0.0)
    return losses.sum() / positive.sum().clamp(min=1)


def layers_of(model: TwoStageModel) -> list[nn.Module]:
    """What makes embeddings of pooled features: the ``embedding_parts`` but the tops, which normalise maps."""
    return [getattr(model, name) for name in model.embedding_parts if name not in model.tops]


def table_of(model: TwoStageModel) -> Tensor | None:
    """The (N, D) embeddings of identities that the model's re-ID loss keeps; None where it keeps none."""
    loss = getattr(model, "reid_loss", None)
    return identity_table(loss) if isinstance(loss, nn.Module) else None


@torch.no_grad()
def embedding_size(model: TwoStageModel) -> int:
    """Numbers of an embedding."""
    training = model.training
    model.eval()
    nobody = torch.zeros(0, model.trunk.channels, *model.config.rois.size, device=model.device)
    size = model.embed_pooled(model.pool(nobody)).shape[1]
    model.train(training)
    return size


@contextmanager
def normalising(layers: Sequence[nn.Module], rows: int, device: torch.device) -> Iterator[None]:
    """Batch normalisation in ``layers``: by the batch in training, but by running statistics where it has one row.

    These are then left as they are. Rows of all processes count where these normalise together.
    """
    kinds = (_BatchNorm, ProtoNorm)
    norms = [part for layer in layers for part in layer.modules() if isinstance(part, kinds) and part.training]
    if any(isinstance(norm, nn.SyncBatchNorm | ProtoNorm) for norm in norms):
        rows = sum_over_ranks(rows, device)
    still = norms if rows < 2 else []
    # The gradient reads the statistics once more, which the heads have moved by then: it is given copies.
    own = [dict(norm._buffers) for norm in still]
    for norm in still:
        norm.eval()
        norm._buffers |= {name: value if value is None else value.clone() for name, value in norm._buffers.items()}
    try:
        yield
    finally:
        for norm, buffers in zip(still, own, strict=True):
            norm.train()
            norm._buffers |= buffers
