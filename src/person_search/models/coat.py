"""COAT: a cascade of transformers that learn to see past what stands before a person (Yu et al., CVPR 2022)."""

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
from person_search.models.method_settings import CoatSettings
from person_search.models.occluded_attention import Exchange, draw_exchange
from person_search.models.person_search_model import HeavyParts
from person_search.models.proto_norm import prototypes
from person_search.models.random_draws import Draw, generator_of_batch, seed_of_batch
from person_search.models.reid_loss import identify
from person_search.models.roi_sampling import DetectionSampler, SampledRois, enough_to_normalise
from person_search.models.settings import DetectionSettings, LossSettings
from person_search.models.softmax_loss import NormalisedSoftmaxLoss
from person_search.models.token_mixing import TransformerBlock, TransformerHead
from person_search.models.two_stage import FeatureMaps, ScoredRois, TwoStageModel
from person_search.registry import losses as reid_losses


class SearchHead(nn.Module):
    """The second or the third head: transformers, where the box is, and who is in it."""

    def __init__(self, channels: int, level_channels: dict[str, int], num_identities: int, config: CoatSettings):
        super().__init__()
        self.transformers = TransformerHead(channels, skip="C4" in level_channels)
        self.bbox_pred = normalised_box_layer(self.transformers.channels)
        self.projection = Projection(level_channels, bias=True, bn_std=0.01, norm=config.embedding.norm)
        self.rescaler = nn.BatchNorm1d(1)
        self.reid_loss = reid_losses.get(config.loss.name)(256, num_identities, config.loss)
        self.softmax_loss = (
            NormalisedSoftmaxLoss(256, num_identities, LossSettings(name="softmax-bn"))
            if config.softmax_weight > 0
            else None
        )

    def deltas(self, pooled: dict[str, Tensor]) -> Tensor:
        """(n, 8) by which boxes are to be moved."""
        return self.bbox_pred(pooled["C5"]).float()

    def embed(self, pooled: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(n, 256) directions and (n,) person logits."""
        return norm_aware(self.projection(pooled), self.rescaler)


class COAT(TwoStageModel):
    """Three heads, one after the other; each has transformers of its own on the RoI features of one trunk::

        proposals -> first  -> person? where?       -> NMS -> boxes
        boxes     -> second -> where, more exactly? -> NMS -> boxes
        boxes     -> third  -> where exactly?       -> NMS -> people
                  `-> second and third: who?

    In test a person's score is that of the first head all the way, and the embedding, one half of it from the second
    head and one from the third, is taken at the box that the third head looks at. In training every head sees the RoIs
    that trained the one before, moved to where that puts them, and the true boxes, and asks for a better fit. In the
    second and third head a strip of every RoI's features is another RoI's then (occluded attention).
    """

    Settings = CoatSettings
    config: CoatSettings
    cut = "layer3"
    freezes_norms = False
    tops = ()
    min_side = 0.01

    def __init__(self, config: CoatSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        channels = self.trunk.channels
        self.first = TransformerHead(channels, skip=False)
        self.cls_score = nn.Linear(self.first.channels, 2)
        self.bbox_pred = nn.Linear(self.first.channels, 8)
        self.second, self.third = (SearchHead(channels, self.level_channels, num_identities, config) for _ in range(2))
        self.sample_second, self.sample_third = (
            DetectionSampler(config.rois.model_copy(update={"fg_iou": fg_iou}), self.box_coder, draw)
            for fg_iou, draw in ((config.second_fg_iou, Draw.LATER_ROIS), (config.third_fg_iou, Draw.LAST_ROIS))
        )

    def feature_channels(self) -> dict[str, int]:
        """The transformers take the place of the backbone's last stage."""
        return {"C4": self.trunk.channels, "C5": 2 * self.trunk.channels}

    def roi_losses(
        self, features: FeatureMaps, proposals: list[Tensor], sampled: list[SampledRois], targets: list[Target]
    ) -> dict[str, Tensor]:
        """Classification and box loss of every head, re-ID losses of the second and the third."""
        logits, deltas = self._detect(features, [rois.boxes for rois in sampled])
        losses = {
            "first_classification": softmax_classification_loss(logits, sampled),
            "first_box": box_loss(deltas, sampled, self.config.box_loss_weight),
        }
        accuracies = []
        for name, head, sample, draw in (
            ("second", self.second, self.sample_second, Draw.EXCHANGE),
            ("third", self.third, self.sample_third, Draw.LATER_EXCHANGE),
        ):
            sampled = sample(self.moved_rois(features, sampled, deltas), targets)
            sampled = enough_to_normalise(sampled, head.bbox_pred, head.projection, head.rescaler)
            aligned = self.align(features, [rois.boxes for rois in sampled])
            pooled = head.transformers(aligned, **self.exchanges(len(aligned), targets, draw))
            deltas = head.deltas(pooled)
            with prototypes(head.projection, [rois.labels for rois in sampled]):
                direction, person = head.embed(pooled)
            reid, accuracy = identify(head.reid_loss, direction, sampled)
            accuracies.append(accuracy)
            losses |= {
                f"{name}_classification": binary_classification_loss(person, sampled),
                f"{name}_box": box_loss(deltas, sampled, self.config.box_loss_weight),
                f"{name}_reid": self.config.loss.weight * reid,
            }
            if head.softmax_loss is not None:
                losses[f"{name}_softmax"] = (
                    self.config.softmax_weight * identify(head.softmax_loss, direction, sampled)[0]
                )
        self.metrics["identity_accuracy"] = torch.stack(accuracies).mean()
        return losses

    def exchanges(self, rois: int, targets: list[Target], draw: Draw) -> dict[str, Exchange]:
        """What ``rois`` RoIs exchange in a head: a strip of their tokens, and another of the features beside them.

        It is drawn for all processes together, and the same however many share a batch.
        """
        if not self.config.occluded_attention:
            return {}
        generator = generator_of_batch(seed_of_batch(targets, self.device), draw)
        return {
            name: draw_exchange(rois, self.config.rois.size, generator, self.device) for name in ("tokens", "skipped")
        }

    def score_rois(self, features: FeatureMaps, proposals: list[Tensor]) -> ScoredRois:
        """The people that are left after the second head, with the scores of the first; how the third moves them."""
        logits, deltas = self._detect(features, proposals)
        found = self.people(features, ScoredRois(proposals, logits.softmax(1)[:, 1], deltas), self.config.first)
        boxes, scores = [people.boxes for people in found], torch.cat([people.scores for people in found])
        pooled = self.second.transformers(self.align(features, boxes))
        second = ScoredRois(boxes, scores, self.second.deltas(pooled), _named("second", pooled))
        if self.config.embedding_heads == "second":
            return second
        found = self.people(features, second, self.config.second)
        boxes, scores = [people.boxes for people in found], torch.cat([people.scores for people in found])
        pooled = self.pool(self.align(features, boxes))
        return ScoredRois(boxes, scores, self.third.deltas(_of("third", pooled)), pooled)

    @property
    def last_choice(self) -> DetectionSettings:
        """That of the last head which looks."""
        return self.config.second if self.config.embedding_heads == "second" else self.config.detections

    def pool(self, aligned: Tensor) -> dict[str, Tensor]:
        """(R, C4, h, w) through the transformers of the heads that embed: {"HEAD.LEVEL": (R, C)}; R may be 0."""
        levels: dict[str, Tensor] = {}
        for name, head in self._embedding_heads().items():
            levels |= _named(name, head.transformers(aligned))
        return levels

    def embed_pooled(self, pooled: dict[str, Tensor]) -> Tensor:
        """The directions of the norm-aware embeddings, each of unit length, the second head's first."""
        return torch.cat([head.embed(_of(name, pooled))[0] for name, head in self._embedding_heads().items()], dim=1)

    def unclipped_parameters(self) -> list[nn.Parameter]:
        """The softmax classifiers, as in the authors' code."""
        losses = [head.softmax_loss for head in (self.second, self.third)]
        return [parameter for loss in losses if loss is not None for parameter in loss.parameters()]

    def reid_parameters(self) -> list[nn.Parameter]:
        """None of its own but those of a re-ID loss such as softmax's classifier."""
        return [*self.second.reid_loss.parameters(), *self.third.reid_loss.parameters()]

    def heavy_parts(self) -> HeavyParts:
        """The trunk on images, the transformer blocks on RoIs; the convolutions around them beside the RPN."""
        heads = [self.first, self.second.transformers, self.third.transformers]
        blocks: list[nn.Module] = [
            part for head in heads for part in head.modules() if isinstance(part, TransformerBlock)
        ]
        return HeavyParts([self.trunk], blocks, [self.rpn, *heads])

    def _detect(self, features: FeatureMaps, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The first head: (R, 2) logits and (R, 8) deltas."""
        hidden = self.first(self.align(features, boxes))["C5"]
        return self.cls_score(hidden).float(), self.bbox_pred(hidden).float()

    def _embedding_heads(self) -> dict[str, SearchHead]:
        heads = {"second": self.second, "third": self.third}
        chosen = self.config.embedding_heads
        return heads if chosen == "both" else {chosen: heads[chosen]}


def _named(head: str, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{head}.{level}": values for level, values in pooled.items()}


def _of(head: str, pooled: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = f"{head}."
    return {name.removeprefix(prefix): values for name, values in pooled.items() if name.startswith(prefix)}
