"""OIM: one branch for detection and identification (Xiao et al., CVPR 2017)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from person_search.data.target import Target
from person_search.models.box_heads import box_loss, softmax_classification_loss
from person_search.models.embedding import Projection
from person_search.models.method_settings import OimSettings
from person_search.models.proto_norm import prototypes
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import SampledRois, enough_to_normalise
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel
from person_search.registry import losses as reid_losses


class OIM(TwoStageModel):
    """Top and max pooling on every RoI; class, box and a 256-number embedding are read from the same features."""

    Settings = OimSettings
    config: OimSettings
    min_side = 0.01

    def __init__(self, config: OimSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        self.cls_score = nn.Linear(self.level_channels["C5"], 2)
        self.bbox_pred = nn.Linear(self.level_channels["C5"], 8)
        self.projection = Projection(self.level_channels, bias=False, bn_std=None, norm=config.embedding.norm)
        self.reid_loss = reid_losses.get(config.loss.name)(256, num_identities, config.loss)

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification, box and re-ID loss, all on the sampled RoIs."""
        sampled = enough_to_normalise(sampled, self.projection)
        with prototypes(self, [rois.labels for rois in sampled]):
            pooled = self.pool(self.align(features, [rois.boxes for rois in sampled]))
            embeddings = self.projection(pooled)
        logits, deltas = self._detect(pooled)
        reid, accuracy = identify(self.reid_loss, embeddings, sampled)
        self.metrics["identity_accuracy"] = accuracy
        return {
            "classification": softmax_classification_loss(logits, sampled),
            "box": box_loss(deltas, sampled, self.config.box_loss_weight),
            "reid": self.config.loss.weight * reid,
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """Softmax person score and deltas; the pooled features serve the embeddings too."""
        pooled = self.pool(self.align(features, proposals))
        logits, deltas = self._detect(pooled)
        return ScoredRois(proposals, logits.softmax(1)[:, 1], deltas, pooled)

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """The projection, to unit length."""
        return F.normalize(self.projection(pooled), dim=1)

    def reid_parameters(self) -> list[nn.Parameter]:
        """None of its own but a softmax loss's classifier."""
        return list(self.reid_loss.parameters())

    def _detect(self, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return self.cls_score(pooled["C5"]).float(), self.bbox_pred(pooled["C5"]).float()
