"""The strong baseline: detection and re-ID part ways on top of the trunk, and re-ID picks its own RoIs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from person_search.data.target import Target
from person_search.models.box_heads import LightHead, box_loss, softmax_classification_loss
from person_search.models.embedding import Neck
from person_search.models.method_settings import BaselineSettings
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import LabelledRois, SampledRois, enough_to_normalise, pk_sample
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel
from person_search.registry import losses as reid_losses
from person_search.runtime.distributed import count_over_ranks


class Baseline(TwoStageModel):
    """Light detection head; re-ID head of top, max pooling and BN neck, trained by PK sampling.

    Detection never reads the re-ID head, so in test that only runs on the boxes that survive NMS.
    """

    Settings = BaselineSettings
    config: BaselineSettings
    embedding_parts = ("top", "neck")

    def __init__(self, config: BaselineSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        self.box_head = LightHead(self.trunk.channels, config.rois.size)
        self.cls_score = nn.Linear(256, 2)
        self.bbox_pred = nn.Linear(256, 8)
        self.neck = Neck(self.level_channels)
        loss = reid_losses.get(config.loss.name)
        self.labelled_only = not getattr(loss, "uses_unlabelled", True)
        self.reid_loss = nn.ModuleDict(
            {level: loss(size, num_identities, config.loss) for level, size in self.level_channels.items()}
        )

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification, box and re-ID loss; see ``TwoStageModel``."""
        logits, deltas = self._detect(self.align(features, [rois.boxes for rois in sampled]))
        return {
            "classification": softmax_classification_loss(logits, sampled),
            "box": box_loss(deltas, sampled, self.config.box_loss_weight),
            "reid": self._identify(features, self._reid_rois(proposals, sampled, targets)),
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """Softmax person score and deltas, from the light head alone."""
        logits, deltas = self._detect(self.align(features, proposals))
        return ScoredRois(proposals, logits.softmax(1)[:, 1], deltas)

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """Each level through its neck, to unit length, concatenated."""
        return self.neck.embed(pooled)

    def reid_parameters(self) -> list[nn.Parameter]:
        """Everything in the re-ID head, top included."""
        return [p for part in (self.top, self.neck, self.reid_loss) for p in part.parameters() if p.requires_grad]

    def _detect(self, aligned: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.box_head(aligned)
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()

    def _reid_rois(
        self, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> list[LabelledRois]:
        """RoIs that train re-ID, per image."""
        if not self.config.pk.sampling:
            return [rois.take(rois.is_person) for rois in sampled]
        return [
            pk_sample(boxes, target, per_person=self.config.pk.per_person, labelled_only=self.labelled_only)
            for boxes, target in zip(proposals, targets, strict=True)
        ]

    def _identify(self, features: FeatureMaps, people: list[LabelledRois]) -> Tensor:
        """Weighted re-ID loss, the mean over levels."""
        self.metrics["reid_rois"] = count_over_ranks(torch.tensor(sum(len(rois.labels) for rois in people)))
        people = enough_to_normalise(people, self.neck)
        necked = self.neck(self.pool(self.align(features, [rois.boxes for rois in people])))
        results = [identify(self.reid_loss[level], x, people) for level, x in necked.items()]
        self.metrics["identity_accuracy"] = torch.stack([accuracy for _, accuracy in results]).mean()
        return self.config.loss.weight * torch.stack([loss for loss, _ in results]).mean()
