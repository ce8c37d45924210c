"""NAE+: the norm-aware embedding of every pixel of a RoI (Chen et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.data.target import Target
from person_search.models.box_heads import box_loss, normalised_box_layer
from person_search.models.embedding import MapProjection, norm_aware
from person_search.models.method_settings import NaePlusSettings
from person_search.models.pixel_labels import pixel_labels
from person_search.models.proto_norm import prototypes
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import SampledRois, enough_to_normalise
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel
from person_search.registry import losses as reid_losses
from person_search.runtime.distributed import mean_count


@dataclass(frozen=True, eq=False)
class PixelHead:
    """What NAE+ says of R RoIs.

    Attributes:
        embeddings: (R, 256), shorter than 1: the fewer pixels show a person, the shorter.
        logits: (R, h, w), whether a pixel shows a person.
        deltas: (R, 8).
    """

    embeddings: Tensor
    logits: Tensor
    deltas: Tensor

    @property
    def scores(self) -> Tensor:
        """(R,) mean share of the pixels that show a person."""
        return self.logits.sigmoid().mean((1, 2))


class NAEPlus(TwoStageModel):
    """Every pixel has an embedding, whose length says person and whose direction says who::

        proposals -> C4 -> top -> C5 -> mean over pixels -> where exactly?
                      |            |
                      +- projected + -> at each pixel, length: person?  direction: who?
                                                          |                  |
                                                   attention, its mean     times, mean over pixels
                                                   the score               the embedding

    In training the length of a RoI's embedding counts in OIM, see the setting ``normalise`` of the loss. In test scores
    are divided by the best one of the picture's proposals, and embeddings are brought to unit length.
    """

    Settings = NaePlusSettings
    config: NaePlusSettings
    cut = "layer3"
    freezes_norms = False
    embedding_parts = ("top", "projection", "rescaler")
    min_side = 0.01

    def __init__(self, config: NaePlusSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        self.bbox_pred = normalised_box_layer(self.level_channels["C5"])
        self.projection = MapProjection(self.level_channels, bias=True, bn_std=0.01, norm=config.embedding.norm)
        self.rescaler = nn.BatchNorm2d(1)
        self.reid_loss = reid_losses.get(config.loss.name)(256, num_identities, config.loss)

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification of pixels, box and re-ID loss, all on the sampled RoIs."""
        sampled = enough_to_normalise(sampled, self.bbox_pred)
        with prototypes(self.projection, [rois.labels for rois in sampled]):
            found = self._look(self.align(features, [rois.boxes for rois in sampled]))
        reid, accuracy = identify(self.reid_loss, found.embeddings, sampled)
        self.metrics["identity_accuracy"] = accuracy
        return {
            "classification": pixel_classification_loss(found.logits, sampled, targets),
            "box": box_loss(found.deltas, sampled, self.config.box_loss_weight),
            "reid": self.config.loss.weight * reid,
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """Scores relative to the best of each picture, and deltas."""
        found = self._look(self.align(features, proposals))
        scores = [own / own.max() if len(own) else own for own in found.scores.split([len(own) for own in proposals])]
        return ScoredRois(proposals, torch.cat(scores), found.deltas, {"attended": found.embeddings})

    def pool(self, aligned: Tensor) -> dict[str, Tensor]:
        """What the pixels of each RoI say together of who it is: (R, 256), not normalised."""
        return {"attended": self._attend({"C4": aligned, "C5": self.top(aligned)})[0]}

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """The direction of the RoI's embedding."""
        return F.normalize(pooled["attended"], dim=1)

    def reid_parameters(self) -> list[nn.Parameter]:
        """None of its own but a softmax loss's classifier."""
        return list(self.reid_loss.parameters())

    def weights_from(self, method: str, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Also those of the authors' NAE, from which they train NAE+: a linear layer is a 1x1 convolution."""
        if method == "nae4ps":
            linear = {f"projection.levels.{level}.0.weight" for level in self.level_channels}
            state = {name: value[..., None, None] if name in linear else value for name, value in state.items()}
            method = self.config.method
        return super().weights_from(method, state)

    def _look(self, aligned: Tensor) -> PixelHead:
        """The head on (R, C4, h, w)."""
        maps = {"C4": aligned, "C5": self.top(aligned)}
        return PixelHead(*self._attend(maps), self.bbox_pred(maps["C5"].mean((2, 3))).float())

    def _attend(self, maps: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(R, 256) embeddings and (R, h, w) logits of the pixels."""
        directions, logits = norm_aware(self.projection(maps), self.rescaler)
        return (logits.sigmoid()[:, None] * directions).mean((2, 3)), logits


def pixel_classification_loss(logits: Tensor, sampled: list[SampledRois], targets: list[Target]) -> Tensor:
    """Binary cross-entropy of (R, h, w) ``logits`` against ``pixel_labels``, mean over RoIs sampled and pixels.

    A RoI of background is compared with the first person of its image, as the authors' code does; in an image without
    people no pixel shows any.
    """
    height, width = logits.shape[1:]
    labels = []
    for rois, target in zip(sampled, targets, strict=True):
        owners = torch.where(rois.is_person, rois.owners, 0)
        nobody = logits.new_zeros(len(owners), height, width)
        persons = target.boxes
        labels.append(pixel_labels(rois.boxes, persons[owners], (height, width)) if len(persons) else nobody)
    loss = F.binary_cross_entropy_with_logits(logits, torch.cat(labels), reduction="sum")
    return loss / (mean_count(logits.new_tensor(len(logits))) * height * width)
