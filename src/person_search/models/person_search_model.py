"""What every method shares: the way from pictures to proposals, and from surviving boxes to detections."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import roi_align

from person_search.errors import UsageError
from person_search.models.backbones.backbone import Cut
from person_search.models.backbones.building import build_backbone
from person_search.models.box_heads import KeptBoxes, candidates, keep_beside, keep_best
from person_search.models.detections import Detections, Target
from person_search.models.distributed import counted
from person_search.models.image_transform import ImageBatch, ImageTransform
from person_search.models.roi_sampling import BOX_CLAMP, DetectionSampler, SampledRois
from person_search.models.rpn import RPN
from person_search.models.settings import TwoStageSettings


@dataclass(frozen=True, eq=False)
class RoiScores:
    """What the detection head says of (n,) RoIs: scores (n,), deltas (n, 8), and pooled features if it made them."""

    scores: Tensor
    deltas: Tensor
    pooled: dict[str, Tensor] | None = None


class PersonSearchModel(nn.Module, abc.ABC):
    """Detection and re-identification in one network. Methods derive from this and add their heads.

    Call it with a list of (3, H, W) RGB tensors, uint8 or float in 0..1, of any sizes: in evaluation mode it
    returns a list of ``Detections``; in training mode it also wants a list of ``Target`` and returns the losses.

    Args:
        config: the model settings.
        num_identities: N, identities of the training set.
        load_weights: start the backbone from the weights that ``config`` names; off when a checkpoint follows.
    """

    cut: ClassVar[Cut] = "layer3-half"
    Settings: ClassVar[type[TwoStageSettings]] = TwoStageSettings
    min_side: ClassVar[float] = 0.0
    """Detections with a shorter side than this (pixels of the batch) are dropped before NMS."""

    def __init__(self, config: TwoStageSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__()
        if num_identities < 1:
            raise UsageError(f"a model needs at least one training identity, found {num_identities}")
        self.config = config
        self.num_identities = num_identities
        images = config.images
        backbone = build_backbone(
            config.backbone.name,
            cut=self.cut,
            width=config.backbone.width,
            flavour=config.backbone.flavour,
            weights=config.backbone.weights if load_weights else "none",
        )
        self.transform = ImageTransform(
            shorter_side=images.shorter_side, longer_side=images.longer_side, normalisation=backbone.normalisation
        )
        self.trunk, self.top = backbone.trunk, backbone.make_top()
        self.rpn = RPN(self.trunk.channels, config.rpn)
        self.box_coder = BoxCoder((10.0, 10.0, 5.0, 5.0), BOX_CLAMP)
        self.sample_rois = DetectionSampler(config.rois, self.box_coder)
        channels: dict[str, int] = {"C4": self.trunk.channels, "C5": self.top.channels}
        self.level_channels: dict[str, int] = {level: channels[level] for level in config.levels}
        self.metrics: dict[str, Tensor] = {}
        self.keep_samples = False
        self.samples: list[tuple[Tensor, Tensor]] = []
        self.frozen = config.backbone.frozen
        if self.frozen:
            self.trunk.freeze(norms=True)

    # What a method supplies.

    @abc.abstractmethod
    def roi_losses(
        self, features: Tensor, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Losses of the heads: ``classification``, ``box``, ``reid``. Boxes in pixels of the batch."""

    @abc.abstractmethod
    def score_rois(self, features: Tensor, boxes: list[Tensor]) -> RoiScores:
        """What the detection head says of the RoIs of all images, concatenated."""

    @abc.abstractmethod
    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """{level: (n, C)} pooled RoI features -> (n, D) normalised embeddings."""

    @abc.abstractmethod
    def reid_parameters(self) -> list[nn.Parameter]:
        """Parameters with their own optimiser; may be empty. All others are detection parameters."""

    # What a user calls.

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None = None
    ) -> dict[str, Tensor] | list[Detections]:
        """Losses by name in training mode, detections (best first) in evaluation mode.

        Raises ValueError in training mode without ``targets``.
        """
        if not self.training:
            return self.detect_and_embed(images, None)[0]
        if targets is None or len(targets) != len(images):
            raise ValueError("training mode needs one target per image; call .eval() to detect")
        batch = self.transform(images, targets)
        moved = self.transform.targets_to_batch(targets, batch)
        features = self.trunk(batch.tensors)
        proposals, _, losses = self.rpn.propose(batch, features, moved)
        sampled = self.sample_rois(proposals, moved)
        self._note_samples(batch, sampled)
        return losses | self.roi_losses(features, proposals, sampled, moved)

    @torch.no_grad()
    def detect_and_embed(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor] | None
    ) -> tuple[list[Detections], list[Tensor]]:
        """Detections of every image and embeddings of given boxes, from one pass of the trunk.

        Args:
            images: [(3, H, W)] RGB.
            boxes: per image (n, 4) xyxy in its pixels, or None for none at all.

        Returns:
            Detections, and (n, D) embeddings per image (an empty list when ``boxes`` is None).
        """
        batch = self.transform(images)
        features = self.trunk(batch.tensors)
        proposals, _, _ = self.rpn.propose(batch, features)
        scored = self.score_rois(features, proposals)
        kept = list(self._keep(batch, proposals, scored))
        embeddings = self._embed_rows(features, proposals, scored, [found.rows for found in kept])
        detections = [
            Detections(batch.to_original(found.boxes, i), found.scores, vectors)
            for i, (found, vectors) in enumerate(zip(kept, embeddings, strict=True))
        ]
        return detections, [] if boxes is None else self._embed_given(batch, features, boxes)

    @torch.no_grad()
    def detect_with_context(
        self, images: Sequence[Tensor], boxes: Sequence[Tensor]
    ) -> tuple[list[Detections], list[list[Detections]]]:
        """Detections of every image and, for every given box, it and the people beside it, from one pass of the trunk.

        The people beside a box are those that a detection pass finds in which the box takes part with score 1 before
        NMS (CBGM; Li and Miao, AAAI 2021).

        Args:
            images: [(3, H, W)] RGB.
            boxes: per image (n, 4) xyxy in its pixels.

        Returns:
            Detections of every image; per image and given box, the box itself (as given, score 1) and the people
            beside it, best first.
        """
        batch = self.transform(images)
        features = self.trunk(batch.tensors)
        proposals, _, _ = self.rpn.propose(batch, features)
        scored = self.score_rois(features, proposals)
        asked = self._given(batch, boxes)
        # Most people beside a query are detections of its scene too: each is embedded once.
        kept = [
            [
                keep_best(found, self.config.detections),
                *(keep_beside(box, found, self.config.detections) for box in given),
            ]
            for found, given in zip(self._candidates(batch, proposals, scored), asked, strict=True)
        ]
        distinct = [torch.cat([part.rows for part in parts]).unique(return_inverse=True) for parts in kept]
        embeddings = self._embed_rows(features, proposals, scored, [rows for rows, _ in distinct])
        queries = self._embed_given(batch, features, boxes)
        detections, context = [], []
        for i, (parts, (_, place)) in enumerate(zip(kept, distinct, strict=True)):
            vectors = embeddings[i][place].split([len(part.rows) for part in parts])
            own, *beside = [
                Detections(batch.to_original(part.boxes, i), part.scores, rows)
                for part, rows in zip(parts, vectors, strict=True)
            ]
            detections.append(own)
            given = boxes[i].to(self.device).float().reshape(-1, 4)
            context.append([others.after(*person) for *person, others in zip(given, queries[i], beside, strict=True)])
        return detections, context

    @torch.no_grad()
    def embed(self, images: Sequence[Tensor], boxes: Sequence[Tensor]) -> list[Tensor]:
        """(n, D) embeddings of given boxes, per image (n, 4) xyxy in its pixels; the boxes are not regressed."""
        batch = self.transform(images)
        return self._embed_given(batch, self.trunk(batch.tensors), boxes)

    @torch.no_grad()
    def propose(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """The RPN's (n, 4) boxes, in pixels of each image, and (n,) objectness logits, best first."""
        batch = self.transform(images)
        boxes, logits, _ = self.rpn.propose(batch, self.trunk(batch.tensors))
        return [(batch.to_original(box, i), logit) for i, (box, logit) in enumerate(zip(boxes, logits, strict=True))]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.transform.mean.device

    # Shared parts.

    def align(self, features: Tensor, boxes: list[Tensor]) -> Tensor:
        """RoIAlign (He et al., ICCV 2017): (R, C4, h, w) of the RoIs of all images, concatenated."""
        rois, scale = self.config.rois, 1 / self.trunk.stride
        return roi_align(features, boxes, rois.size, scale, sampling_ratio=rois.sampling_ratio, aligned=False)

    def pool(self, aligned: Tensor) -> dict[str, Tensor]:
        """Run the top on (R, C4, h, w) and max-pool each level: {level: (R, C)}; R may be 0."""
        levels = {"C5": self.top(aligned).amax((2, 3))}
        if "C4" in self.config.levels:
            levels["C4"] = aligned.amax((2, 3))
        return levels

    def _keep(self, batch: ImageBatch, proposals: list[Tensor], scored: RoiScores) -> Iterator[KeptBoxes]:
        for found in self._candidates(batch, proposals, scored):
            yield keep_best(found, self.config.detections)

    def _candidates(self, batch: ImageBatch, proposals: list[Tensor], scored: RoiScores) -> Iterator[KeptBoxes]:
        lengths = [len(boxes) for boxes in proposals]
        per_image = zip(proposals, scored.scores.split(lengths), scored.deltas.split(lengths), batch.sizes, strict=True)
        for boxes, scores, deltas, size in per_image:
            yield candidates(
                boxes,
                scores,
                deltas,
                size,
                config=self.config.detections,
                box_coder=self.box_coder,
                min_side=self.min_side,
            )

    def _embed_rows(
        self, features: Tensor, proposals: list[Tensor], scored: RoiScores, rows: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Embeddings at the proposals of these numbers, (k,) per image: boxes are embedded where they came from."""
        if scored.pooled is None:
            chosen = [boxes[kept] for boxes, kept in zip(proposals, rows, strict=True)]
            pooled = self.pool(self.align(features, chosen))
        else:
            starts = [sum(len(boxes) for boxes in proposals[:i]) for i in range(len(proposals))]
            every = torch.cat([kept + start for kept, start in zip(rows, starts, strict=True)])
            pooled = {level: values[every] for level, values in scored.pooled.items()}
        return self.embed_pooled(pooled).split([len(kept) for kept in rows])

    def _embed_given(self, batch: ImageBatch, features: Tensor, boxes: Sequence[Tensor]) -> list[Tensor]:
        moved = self._given(batch, boxes)
        pooled = self.pool(self.align(features, moved))
        return list(self.embed_pooled(pooled).split([len(box) for box in moved]))

    def _given(self, batch: ImageBatch, boxes: Sequence[Tensor]) -> list[Tensor]:
        """A caller's boxes in pixels of the batch."""
        return [batch.to_batch(box.to(self.device).float().reshape(-1, 4), i) for i, box in enumerate(boxes)]

    def _note_samples(self, batch: ImageBatch, sampled: list[SampledRois]) -> None:
        people = torch.stack([rois.is_person.sum() for rois in sampled]).sum()
        total = sum(len(rois.labels) for rois in sampled)
        self.metrics = {"rois_foreground": counted(people), "rois_background": counted(total - people)}
        if self.keep_samples:
            self.samples = [(batch.to_original(rois.boxes, i), rois.labels) for i, rois in enumerate(sampled)]
