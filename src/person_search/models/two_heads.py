"""Detection first, then a second head that looks at what was detected: what SeqNet and SeqNeXt share."""

from __future__ import annotations

import abc

from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.backbones.backbone import Top
from person_search.models.box_heads import KeptBoxes
from person_search.models.method_settings import SeqNetSettings
from person_search.models.random_draws import Draw
from person_search.models.roi_sampling import DetectionSampler
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel


class TwoHeadModel(TwoStageModel, abc.ABC):
    """The first of two heads, with a top of its own on the shared trunk (Li and Miao, AAAI 2021)."""

    Settings = SeqNetSettings
    config: SeqNetSettings
    cut = "layer3"
    tops = ("detection_top", "top")
    detection_top: Top
    projection: nn.Module
    reid_loss: nn.Module
    min_side = 0.01

    def __init__(self, config: SeqNetSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        channels = self.level_channels["C5"]
        self.cls_score = nn.Linear(channels, 2)
        self.bbox_pred = nn.Linear(channels, 8)
        self.sample_detections = DetectionSampler(config.rois, self.box_coder, Draw.LATER_ROIS)

    def detect(self, features: FeatureMaps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the first head says of the boxes: (R, 2) logits and (R, 8) deltas."""
        hidden = self.detection_top(self.align(features, boxes)).amax((2, 3))
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()

    def detected(self, features: FeatureMaps, proposals: list[Tensor]) -> list[KeptBoxes]:
        """Per image the people that the first head finds, for the second to look at."""
        logits, deltas = self.detect(features, proposals)
        return self.people(features, ScoredRois(proposals, logits.softmax(1)[:, 1], deltas), self.config.first)

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """(n, D) of unit length: the direction of what the second head's features are projected to."""
        return F.normalize(self.projection(pooled), dim=1)

    def reid_parameters(self) -> list[nn.Parameter]:
        """None of its own but a softmax loss's classifier."""
        return list(self.reid_loss.parameters())
