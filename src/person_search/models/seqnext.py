"""SeqNeXt: SeqNet with a modern backbone and a plain second head (Jaffe and Zakhor, WACV 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from person_search.data.target import Target
from person_search.models.box_heads import binary_classification_loss, box_loss, softmax_classification_loss
from person_search.models.embedding import SingleRowProjection
from person_search.models.method_settings import SeqNeXtSettings
from person_search.models.proto_norm import prototypes
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import SampledRois, enough_to_normalise
from person_search.models.two_heads import TwoHeadModel
from person_search.models.two_stage import FeatureMaps, ScoredRois
from person_search.registry import losses as reid_losses


class SeqNeXt(TwoHeadModel):
    """Two heads, one after the other, each with its own top on the shared trunk::

        proposals -> detection_top -> person? where?                -> NMS -> boxes
        boxes     -> top           -> person? where exactly? who?   -> NMS -> people

    As in SeqNet the second head looks at what the first one found, in training at where the first one moves its RoIs.
    Here it has a classifier of its own, so that the embedding says who alone, and its score is the one that counts.
    The embedding is taken at the box that the first head found, from the RoI itself (C4) and from the top (C5).

    Frozen are the backbone's first layer and all its batch normalisations, the tops' too, and with a ResNet the first
    of its stages.
    """

    Settings = SeqNeXtSettings
    config: SeqNeXtSettings

    def __init__(self, config: SeqNeXtSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        channels = self.level_channels["C5"]
        self.refined_cls_score = nn.Linear(channels, 1)
        self.refined_bbox_pred = nn.Linear(channels, 4)
        self.projection = SingleRowProjection(
            self.level_channels, size=config.embedding_size, bias=True, bn_std=0.01, norm=config.embedding.norm
        )
        self.reid_loss = reid_losses.get(config.loss.name)(config.embedding_size, num_identities, config.loss)

    def freeze_backbone(self) -> None:
        """The first layer, all batch normalisations, and a ResNet's first stage."""
        self.trunk.freeze(norms=True, first_stage=True)
        for name in self.tops:
            getattr(self, name).freeze_norms()

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification and box loss of the first head; classification, box and re-ID loss of the second."""
        logits, deltas = self.detect(features, [rois.boxes for rois in sampled])
        found = self.sample_detections(self.moved_rois(features, sampled, deltas), targets)
        found = enough_to_normalise(found, self.projection)
        pooled = self.pool(self.align(features, [rois.boxes for rois in found]))
        person, refined = self._refine(pooled)
        with prototypes(self.projection, [rois.labels for rois in found]):
            embeddings = self.embed_pooled(pooled)
        reid, accuracy = identify(self.reid_loss, embeddings, found)
        self.metrics["identity_accuracy"] = accuracy
        return {
            "detection_classification": softmax_classification_loss(logits, sampled),
            "detection_box": box_loss(deltas, sampled, self.config.box_loss_weight),
            "classification": binary_classification_loss(person, found),
            "box": box_loss(refined, found, self.config.refined_box_loss_weight),
            "reid": self.config.loss.weight * reid,
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """The people that the first head finds; what the second head says of them, and how it moves their boxes."""
        found = self.detected(features, proposals)
        boxes = [people.boxes for people in found]
        pooled = self.pool(self.align(features, boxes))
        person, refined = self._refine(pooled)
        return ScoredRois(boxes, person.sigmoid(), refined, pooled)

    def _refine(self, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The second head: (R,) logits and (R, 4) deltas."""
        return self.refined_cls_score(pooled["C5"])[:, 0].float(), self.refined_bbox_pred(pooled["C5"]).float()
