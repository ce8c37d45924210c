"""NAE: norm-aware embedding (Chen et al., CVPR 2020): its length says person, its direction says who."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.box_heads import box_loss
from person_search.models.detections import Target
from person_search.models.distributed import mean_count
from person_search.models.embedding import Projection
from person_search.models.method_settings import NaeSettings
from person_search.models.person_search_model import PersonSearchModel, RoiScores
from person_search.models.roi_sampling import SampledRois
from person_search.registry import losses as reid_losses


class NAE(PersonSearchModel):
    """As OIM, without a classifier: the length of the embedding, batch-normalised, is the person logit."""

    Settings = NaeSettings
    min_side = 0.01

    def __init__(self, config: NaeSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        linear, norm = nn.Linear(self.top.channels, 8), nn.BatchNorm1d(8)
        for layer in (linear, norm):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        self.bbox_pred = nn.Sequential(linear, norm)
        self.projection = Projection(self.level_channels, bias=True, bn_std=0.01)
        self.rescaler = nn.BatchNorm1d(1)
        self.reid_loss = reid_losses.get(config.loss.name)(256, num_identities, config.loss)

    def roi_losses(
        self, features: Tensor, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification by length, box and re-ID loss, all on the sampled RoIs."""
        pooled = self.pool(self.align(features, [rois.boxes for rois in sampled]))
        direction, logits = self._embed(pooled)
        person = torch.cat([rois.is_person for rois in sampled])
        classification = F.binary_cross_entropy_with_logits(logits, person.float(), reduction="sum")
        reid, accuracy = self.reid_loss(direction, torch.cat([rois.labels for rois in sampled]))
        self.metrics["identity_accuracy"] = accuracy
        return {
            "classification": classification / mean_count(logits.new_tensor(float(len(logits)))),
            "box": box_loss(
                self.bbox_pred(pooled["C5"]).float(),
                sampled,
                self.config.box_loss_weight,
            ),
            "reid": self.config.loss.weight * reid,
        }

    def score_rois(self, features: Tensor, boxes: list[Tensor]) -> RoiScores:
        """Sigmoid of the rescaled length, and deltas."""
        pooled = self.pool(self.align(features, boxes))
        return RoiScores(self._embed(pooled)[1].sigmoid(), self.bbox_pred(pooled["C5"]).float(), pooled)

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """The direction of the embedding."""
        return self._embed(pooled)[0]

    def reid_parameters(self) -> list[nn.Parameter]:
        """None of its own but a softmax loss's classifier."""
        return list(self.reid_loss.parameters())

    def _embed(self, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(n, 256) directions and (n,) person logits."""
        embedding = self.projection(pooled)
        length = embedding.norm(dim=1, keepdim=True)
        return embedding / length.clamp(min=1e-12), self.rescaler(length)[:, 0]
