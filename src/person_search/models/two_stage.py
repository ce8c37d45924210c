"""The Faster R-CNN way of person search: trunk, proposals, and heads that look at the proposed regions."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import roi_align

from person_search.data.target import Target
from person_search.models.backbones.backbone import Cut, Top
from person_search.models.backbones.building import build_backbone
from person_search.models.backbones.stochastic_depth import draw_depths
from person_search.models.box_heads import KeptBoxes, candidates, keep_beside, keep_best, moved
from person_search.models.detections import Detections, GivenPerson, ImageResult, given_alone
from person_search.models.gallery_filter import ARRAYS, GalleryFilter
from person_search.models.image_transform import ImageBatch, ImageTransform
from person_search.models.inference import fold_normalisation
from person_search.models.person_search_model import HeavyParts, PersonSearchModel
from person_search.models.random_draws import Draw
from person_search.models.roi_sampling import BOX_CLAMP, DetectionSampler, SampledRois
from person_search.models.rpn import RPN
from person_search.models.settings import DetectionSettings, TwoStageSettings
from person_search.runtime.distributed import count_over_ranks


@dataclass(frozen=True, eq=False)
class FeatureMaps:
    """What the trunk makes of a batch: ``maps`` (B, C4, h, w); and the ``batch``, with the sizes of its images.

    In training also the ``targets``, in pixels of the batch.
    """

    maps: Tensor
    batch: ImageBatch
    targets: list[Target] | None = None


@dataclass(frozen=True, eq=False)
class ScoredRois:
    """What the heads say of the RoIs of a batch, R in all.

    Attributes:
        boxes: per image (n, 4), in pixels of the batch: the RoIs that all the rest is of. They need not be the
            proposals: a cascade's last stage looks at the boxes that the stage before it left.
        scores: (R,) in 0..1.
        deltas: (R, 4 or 8), by which the boxes are still to be moved; the last four are the person's.
        pooled: {level: (R, C)} features that ``embed_pooled`` reads, where the heads have made them anyway.
    """

    boxes: list[Tensor]
    scores: Tensor
    deltas: Tensor
    pooled: dict[str, Tensor] | None = None


class TwoStageModel(PersonSearchModel, abc.ABC):
    """What methods of two and more stages share: the way from images to proposals, and from scored RoIs to people.

    Args:
        config: the model settings.
        num_identities: N, identities of the training set.
        load_weights: start the backbone from the weights that ``config`` names; off when a checkpoint follows.
    """

    cut: ClassVar[Cut] = "layer3-half"
    tops: ClassVar[tuple[str, ...]] = ("top",)
    """Names of the copies of the backbone's top; ``pool`` runs the one called ``top``. A method that puts something
    else in its place has none, and says by ``feature_channels`` and ``pool`` what."""
    freezes_norms: ClassVar[bool] = True
    """Whether a frozen trunk's batch normalisations beyond its stem keep still, or the stem alone is frozen."""
    embedding_parts: ClassVar[tuple[str, ...]] = ("top", "projection")
    """Names of the parts that ``pool`` and ``embed_pooled`` run; a gallery filter network has copies of them."""
    min_side: ClassVar[float] = 0.0
    """Detections with a shorter side than this (pixels of the batch) are dropped before NMS."""
    top: Top
    Settings: ClassVar[type[TwoStageSettings]] = TwoStageSettings
    config: TwoStageSettings

    def __init__(self, config: TwoStageSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities)
        images = config.images
        backbone = build_backbone(config.backbone, cut=self.cut, load_weights=load_weights)
        self.transform = ImageTransform(
            shorter_side=images.shorter_side,
            longer_side=images.longer_side,
            rounding=images.rounding,
            crop=images.crop,
            normalisation=backbone.normalisation,
        )
        self.trunk = backbone.trunk
        for name in self.tops:
            setattr(self, name, backbone.make_top())
        self.rpn = RPN(self.trunk.channels, config.rpn)
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0), BOX_CLAMP)
        self.sample_rois = DetectionSampler(config.rois, self.box_coder)
        channels = self.feature_channels()
        self.level_channels: dict[str, int] = {level: channels[level] for level in config.levels}
        self.gallery_filter: GalleryFilter | None = None
        if config.backbone.frozen:
            self.freeze_backbone()

    def freeze_backbone(self) -> None:
        """Train no more what the method keeps of the weights that the backbone starts from."""
        self.trunk.freeze(norms=self.freezes_norms)

    def add_gallery_filter(self) -> None:
        """Carry a gallery filter network, which starts from this model's layers as they are now. Raises UsageError."""
        self.gallery_filter = GalleryFilter(self)
        self.scene_memory = self.gallery_filter.memory

    def weights_from(self, method: str, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Those of the same method; a gallery filter network starts from the layers of one that was trained without."""
        start = super().weights_from(method, state)
        if start is None or self.gallery_filter is None:
            return start
        return self.gallery_filter.start_of(start) | start

    # What a method supplies.

    @abc.abstractmethod
    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Losses of the heads by name.

        Args:
            features: of the batch.
            proposals: per image (n, 4), all that the RPN proposes. Boxes here are in pixels of the batch.
            sampled: per image those that ``sample_rois`` chose; a method may choose again.
            targets: per image.
        """

    @abc.abstractmethod
    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """What the heads say of the proposals of all images, or of the boxes that they made of them."""

    @abc.abstractmethod
    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """{level: (n, C)} pooled RoI features -> (n, D) normalised embeddings."""

    # What the program calls.

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Those of the RPN and of the heads, and of the gallery filter network where there is one."""
        batch = self.transform(images, targets)
        moved = self.transform.targets_to_batch(targets, batch)
        draw_depths(self.trunk, [1] * len(targets), targets, Draw.TRUNK_DEPTH)
        features = FeatureMaps(self.trunk(batch.tensors), batch, moved)
        # First, as published: the batch normalisation that it shares with the heads moves twice, in this order.
        filtering = {} if self.gallery_filter is None else self.gallery_filter.losses(self, features)
        proposals, _, losses = self.rpn.propose(batch, features.maps, moved)
        sampled = self.sample_rois(proposals, moved)
        self._note_samples(batch, sampled)
        return losses | self.roi_losses(features, proposals, sampled, moved) | filtering

    @torch.no_grad()
    def detect_and_embed(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None = None, *, context: bool = False
    ) -> list[ImageResult]:
        """See ``PersonSearchModel``. Given boxes are not regressed; for ``context`` they take part in the last NMS."""
        batch = self.transform(images)
        features = FeatureMaps(self.trunk(batch.tensors), batch)
        scored = self.score_rois(features, self.rpn.propose(batch, features.maps)[0])
        given = self._given(batch, boxes or [torch.zeros(0, 4)] * len(images))
        last = self.last_choice
        # Most people beside a query are detections of its scene too: each is embedded once.
        kept = [
            [keep_best(found, last), *(keep_beside(box, found, last) for box in own if context)]
            for found, own in zip(self.candidates(features, scored, last), given, strict=True)
        ]
        distinct = [_distinct(parts) for parts in kept]
        embeddings = self._embed_rows(features, scored, [rows for rows, _ in distinct])
        of_given = [] if boxes is None else self._embed_given(features, given)
        results = []
        for i, (parts, (_, place)) in enumerate(zip(kept, distinct, strict=True)):
            vectors = embeddings[i][place].split([len(part.rows) for part in parts])
            found, *beside = [
                Detections(batch.to_original(part.boxes, i), part.scores, rows)
                for part, rows in zip(parts, vectors, strict=True)
            ]
            people = []
            if boxes is not None:
                own = boxes[i].to(self.device).float().reshape(-1, 4)
                others = beside if context else [None] * len(own)
                people = [GivenPerson(*person) for person in zip(own, of_given[i], others, strict=True)]
            results.append(ImageResult(found, people))
        if self.gallery_filter is None or boxes is None:
            return results
        return self.gallery_filter.described(self, features, results)

    @torch.no_grad()
    def embed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """See ``PersonSearchModel``; the boxes are not regressed."""
        batch = self.transform(images)
        return self._embed_given(FeatureMaps(self.trunk(batch.tensors), batch), self._given(batch, boxes))

    @torch.no_grad()
    def embed_alone(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[ImageResult]:
        """See ``PersonSearchModel``."""
        batch = self.transform(images)
        features = FeatureMaps(self.trunk(batch.tensors), batch)
        embeddings = self._embed_given(features, self._given(batch, boxes))
        results = [given_alone(*each) for each in zip(boxes, embeddings, strict=True)]
        return results if self.gallery_filter is None else self.gallery_filter.described(self, features, results)

    def optional_arrays(self) -> tuple[str, ...]:
        """Those of the gallery filter network, where there is one."""
        return () if self.gallery_filter is None else ARRAYS

    @torch.no_grad()
    def propose(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The RPN's (n, 4) boxes, in pixels of each image, and (n,) objectness logits, best first."""
        batch = self.transform(images)
        boxes, logits, _ = self.rpn.propose(batch, self.trunk(batch.tensors))
        return [(batch.to_original(box, i), logit) for i, (box, logit) in enumerate(zip(boxes, logits, strict=True))]

    def heavy_parts(self) -> HeavyParts:
        """The trunk on images, the tops on RoIs, the RPN beside them.

        Trunk and tops are compiled each by itself: between them are choices of boxes, whose numbers differ from image
        to image.
        """
        beside: list[nn.Module] = [self.rpn]
        if self.gallery_filter is not None:
            beside.append(self.gallery_filter.parts)
        return HeavyParts([self.trunk], [getattr(self, name) for name in self.tops], beside)

    def fold_normalisation(self) -> None:
        """In trunk and tops, each tried on noise of the shape that it reads."""
        draw = torch.Generator().manual_seed(0)
        image = torch.randn(1, 3, 64, 96, generator=draw).to(self.device)
        fold_normalisation(self.trunk, image)
        rois = torch.randn(2, self.trunk.channels, *self.config.rois.size, generator=draw).to(self.device)
        for name in self.tops:
            fold_normalisation(getattr(self, name), rois)

    # Shared parts.

    @property
    def last_choice(self) -> DetectionSettings:
        """Which of the boxes that ``score_rois`` leaves become detections."""
        return self.config.detections

    def feature_channels(self) -> dict[str, int]:
        """C of every level that there is."""
        return {"C4": self.trunk.channels, "C5": self.top.channels}

    def align(self, features: FeatureMaps, boxes: list[Tensor]) -> Tensor:
        """RoIAlign (He et al., ICCV 2017): (R, C4, h, w) of the RoIs of all images, concatenated.

        In training also draws which blocks the tops leave out of these RoIs.
        """
        if features.targets is not None:
            for place, name in enumerate(self.tops):
                rows = [len(box) for box in boxes]
                draw_depths(getattr(self, name), rows, features.targets, Draw.TOP_DEPTH + place)
        rois, scale = self.config.rois, 1 / self.trunk.stride
        return roi_align(features.maps, boxes, rois.size, scale, sampling_ratio=rois.sampling_ratio, aligned=False)

    def pool(self, aligned: Tensor) -> dict[str, Tensor]:
        """Run the top on (R, C4, h, w) and max-pool each level: {level: (R, C)}; R may be 0."""
        levels = {"C5": self.top(aligned).amax((2, 3))}
        if "C4" in self.config.levels:
            levels["C4"] = aligned.amax((2, 3))
        return levels

    def candidates(self, features: FeatureMaps, scored: ScoredRois, config: DetectionSettings) -> list[KeptBoxes]:
        """Per image the RoIs moved to where their people are, but those below the bounds of ``config``; before NMS."""
        lengths = [len(boxes) for boxes in scored.boxes]
        sizes = features.batch.sizes
        split = zip(scored.boxes, scored.scores.split(lengths), scored.deltas.split(lengths), sizes, strict=True)
        return [candidates(*image, config=config, box_coder=self.box_coder, min_side=self.min_side) for image in split]

    def people(self, features: FeatureMaps, scored: ScoredRois, config: DetectionSettings) -> list[KeptBoxes]:
        """Per image what an earlier stage finds, NMS included: the boxes that the next one looks at."""
        return [keep_best(found, config) for found in self.candidates(features, scored, config)]

    def moved_rois(self, features: FeatureMaps, sampled: list[SampledRois], deltas: Tensor) -> list[Tensor]:
        """Where ``deltas`` put the R RoIs that trained a stage: what the next one samples from, without gradient."""
        own = deltas.detach().split([len(rois.boxes) for rois in sampled])
        images = zip(sampled, own, features.batch.sizes, strict=True)
        return [moved(rois.boxes, each, size, self.box_coder).nan_to_num() for rois, each, size in images]

    def _embed_rows(self, features: FeatureMaps, scored: ScoredRois, rows: list[Tensor]) -> tuple[Tensor, ...]:
        """Embeddings at the RoIs of these numbers, (k,) per image: people are embedded where they were looked at."""
        if scored.pooled is None:
            chosen = [boxes[kept] for boxes, kept in zip(scored.boxes, rows, strict=True)]
            pooled = self.pool(self.align(features, chosen))
        else:
            starts = [sum(len(boxes) for boxes in scored.boxes[:i]) for i in range(len(rows))]
            every = torch.cat([kept + start for kept, start in zip(rows, starts, strict=True)])
            pooled = {level: values[every] for level, values in scored.pooled.items()}
        return self.embed_pooled(pooled).split([len(kept) for kept in rows])

    def _embed_given(self, features: FeatureMaps, boxes: list[Tensor]) -> list[Tensor]:
        pooled = self.pool(self.align(features, boxes))
        return list(self.embed_pooled(pooled).split([len(box) for box in boxes]))

    def _given(self, batch: ImageBatch, boxes: Sequence[Tensor]) -> list[Tensor]:
        """A caller's boxes in pixels of the batch."""
        return [batch.to_batch(box.to(self.device).float().reshape(-1, 4), i) for i, box in enumerate(boxes)]

    def _note_samples(self, batch: ImageBatch, sampled: list[SampledRois]) -> None:
        people = torch.stack([rois.is_person.sum() for rois in sampled]).sum()
        total = sum(len(rois.labels) for rois in sampled)
        self.metrics = {
            "rois_foreground": count_over_ranks(people),
            "rois_background": count_over_ranks(total - people),
        }
        if self.keep_samples:
            self.samples = [(batch.to_original(rois.boxes, i), rois.labels) for i, rois in enumerate(sampled)]


def _distinct(parts: list[KeptBoxes]) -> tuple[Tensor, Tensor]:
    """The RoIs that any of ``parts`` was made of, once each, and where among them those of the parts are, in a row."""
    if len(parts) == 1:
        return parts[0].rows, torch.arange(len(parts[0].rows), device=parts[0].rows.device)
    return torch.cat([part.rows for part in parts]).unique(return_inverse=True)
