"""SeqNet: detection first, then re-identification of what was detected (Li and Miao, AAAI 2021)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from person_search.data.target import Target
from person_search.models.box_heads import (
    binary_classification_loss,
    box_loss,
    normalised_box_layer,
    softmax_classification_loss,
)
from person_search.models.embedding import Projection, norm_aware
from person_search.models.method_settings import SeqNetSettings
from person_search.models.proto_norm import prototypes
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import SampledRois, enough_to_normalise
from person_search.models.two_heads import TwoHeadModel
from person_search.models.two_stage import FeatureMaps, ScoredRois
from person_search.registry import losses as reid_losses


class SeqNet(TwoHeadModel):
    """Two heads, one after the other, each with its own top on the shared trunk::

        proposals -> detection_top -> person? where?   -> NMS -> boxes
        boxes     -> top           -> where exactly? who? (norm-aware embedding) -> NMS -> people

    In test a person's score is that of the first head, and the embedding is taken at the box that the first head found.
    In training the second head sees the RoIs that trained the first, moved to where that puts them, and the true boxes.
    """

    Settings = SeqNetSettings
    config: SeqNetSettings
    freezes_norms = False

    def __init__(self, config: SeqNetSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        channels = self.level_channels["C5"]
        self.refined_bbox_pred = normalised_box_layer(channels)
        self.projection = Projection(self.level_channels, bias=True, bn_std=0.01, norm=config.embedding.norm)
        self.rescaler = nn.BatchNorm1d(1)
        self.reid_loss = reid_losses.get(config.loss.name)(256, num_identities, config.loss)

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification and box loss of the first head; classification by length, box and re-ID loss of the second."""
        logits, deltas = self.detect(features, [rois.boxes for rois in sampled])
        found = self.sample_detections(self.moved_rois(features, sampled, deltas), targets)
        found = enough_to_normalise(found, self.projection, self.rescaler)
        pooled = self.pool(self.align(features, [rois.boxes for rois in found]))
        with prototypes(self.projection, [rois.labels for rois in found]):
            direction, person = self._embed(pooled)
        refined = self.refined_bbox_pred(pooled["C5"]).float()
        reid, accuracy = identify(self.reid_loss, direction, found)
        self.metrics["identity_accuracy"] = accuracy
        return {
            "detection_classification": softmax_classification_loss(logits, sampled),
            "detection_box": box_loss(deltas, sampled, self.config.box_loss_weight),
            "classification": binary_classification_loss(person, found),
            "box": box_loss(refined, found, self.config.refined_box_loss_weight),
            "reid": self.config.loss.weight * reid,
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """The people that the first head finds, with its scores, and how the second moves their boxes."""
        found = self.detected(features, proposals)
        boxes = [people.boxes for people in found]
        pooled = self.pool(self.align(features, boxes))
        scores = torch.cat([people.scores for people in found])
        return ScoredRois(boxes, scores, self.refined_bbox_pred(pooled["C5"]).float(), pooled)

    def _embed(self, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(n, 256) directions and (n,) person logits."""
        return norm_aware(self.projection(pooled), self.rescaler)
