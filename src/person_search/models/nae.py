"""NAE: norm-aware embedding (Chen et al., CVPR 2020): its length says person, its direction says who."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from person_search.data.target import Target
from person_search.models.box_heads import binary_classification_loss, box_loss, normalised_box_layer
from person_search.models.embedding import Projection, norm_aware
from person_search.models.method_settings import NaeSettings
from person_search.models.proto_norm import prototypes
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import SampledRois, enough_to_normalise
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel
from person_search.registry import losses as reid_losses


class NAE(TwoStageModel):
    """As OIM, without a classifier: the length of the embedding, batch-normalised, is the person logit."""

    Settings = NaeSettings
    config: NaeSettings
    min_side = 0.01

    def __init__(self, config: NaeSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        self.bbox_pred = normalised_box_layer(self.level_channels["C5"])
        self.projection = Projection(self.level_channels, bias=True, bn_std=0.01, norm=config.embedding.norm)
        self.rescaler = nn.BatchNorm1d(1)
        self.reid_loss = reid_losses.get(config.loss.name)(256, num_identities, config.loss)

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification by length, box and re-ID loss, all on the sampled RoIs."""
        sampled = enough_to_normalise(sampled, self.projection, self.rescaler)
        pooled = self.pool(self.align(features, [rois.boxes for rois in sampled]))
        with prototypes(self.projection, [rois.labels for rois in sampled]):
            direction, logits = self._embed(pooled)
        reid, accuracy = identify(self.reid_loss, direction, sampled)
        self.metrics["identity_accuracy"] = accuracy
        return {
            "classification": binary_classification_loss(logits, sampled),
            "box": box_loss(
                self.bbox_pred(pooled["C5"]).float(),
                sampled,
                self.config.box_loss_weight,
            ),
            "reid": self.config.loss.weight * reid,
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """Sigmoid of the rescaled length, and deltas."""
        pooled = self.pool(self.align(features, proposals))
        return ScoredRois(proposals, self._embed(pooled)[1].sigmoid(), self.bbox_pred(pooled["C5"]).float(), pooled)

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """The direction of the embedding."""
        return F.normalize(self.projection(pooled), dim=1)

    def reid_parameters(self) -> list[nn.Parameter]:
        """None of its own but a softmax loss's classifier."""
        return list(self.reid_loss.parameters())

    def _embed(self, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(n, 256) directions and (n,) person logits."""
        return norm_aware(self.projection(pooled), self.rescaler)
