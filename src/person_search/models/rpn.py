"""The region proposal network: which places of a picture may hold a person (Ren et al., NeurIPS 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, nms, remove_small_boxes

from person_search.data.target import Target
from person_search.models.image_transform import ImageBatch
from person_search.models.random_draws import Draw, choose, generator_of
from person_search.models.roi_sampling import BOX_CLAMP, on_ignored
from person_search.models.settings import RpnSettings
from person_search.runtime.distributed import mean_count


class RPNHead(nn.Module):
    """3x3 conv + ReLU, then objectness and box deltas for every anchor of every C4 cell."""

    def __init__(self, channels: int, anchors: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, anchors, 1)
        self.bbox_pred = nn.Conv2d(channels, anchors * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """[(B, C, h, w)] -> [(B, A, h, w)] logits and [(B, 4 A, h, w)] deltas, float32."""
        hidden = [F.relu(self.conv(x)) for x in features]
        return [self.cls_logits(x).float() for x in hidden], [self.bbox_pred(x).float() for x in hidden]


class RPN(RegionProposalNetwork):
    """torchvision's RPN with the person-search literature's losses and filtering.

    Ranking and NMS use the raw logits (a sigmoid first would tie saturated scores), no box is too small but for
    ``min_side``, the box loss is L1 or smooth L1, and regions to ignore yield neither positive nor negative anchors.
    """

    def __init__(self, channels: int, config: RpnSettings):
        generator = AnchorGenerator((config.anchor_sizes,), (config.anchor_ratios,))
        super().__init__(
            generator,
            RPNHead(channels, generator.num_anchors_per_location()[0]),
            config.fg_iou,
            config.bg_iou,
            config.batch_per_image,
            config.positive_share,
            {"training": config.pre_nms_train, "testing": config.pre_nms_test},
            {"training": config.post_nms_train, "testing": config.post_nms_test},
            config.nms,
        )
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0), BOX_CLAMP)
        self.min_side = config.min_side
        self.box_loss_beta = config.box_loss_beta

    def propose(
        self, batch: ImageBatch, features: Tensor, targets: list[Target] | None = None
    ) -> tuple[list[Tensor], list[Tensor], dict[str, Tensor]]:
        """Proposals of every image, best first.

        Args:
            features: (B, C, h, w) C4 of ``batch``.
            targets: in pixels of the batch; given, the losses are computed too.

        Returns:
            (n, 4) boxes in pixels of the batch and (n,) objectness logits of each image, without gradient; losses.
        """
        logits, deltas = self.head([features])
        anchors = self.anchor_generator(ImageList(batch.tensors, batch.sizes), [features.float()])
        flat_logits, flat_deltas = concat_box_prediction_layers(logits, deltas)
        # A batch gone wrong must end as a loss that is not finite, which training skips, not inside RoIAlign.
        decoded = self.box_coder.decode(flat_deltas.detach(), anchors).view(len(anchors), -1, 4).nan_to_num()
        boxes, scores = self.filter_proposals(decoded, flat_logits, batch.sizes, [anchors[0].shape[0]])
        if targets is None:
            return boxes, scores, {}
        labels, matched = self.assign_targets_to_anchors(anchors, [{"boxes": target.boxes} for target in targets])
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            label[(label == 0) & on_ignored(anchor, target.ignore)] = -1
        self._sample(labels, targets)
        objectness, box = self.compute_loss(flat_logits, flat_deltas, labels, self.box_coder.encode(matched, anchors))
        return boxes, scores, {"rpn_objectness": objectness, "rpn_box": box}

    def filter_proposals(
        self,
        proposals: Tensor,
        objectness: Tensor,
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Clip to the image, then the best by logit before and after NMS; (n, 4) boxes and (n,) logits per image."""
        logits = objectness.detach().view(len(proposals), -1)
        best, index = logits.topk(min(self.pre_nms_top_n(), logits.shape[1]), dim=1)
        boxes, scores = [], []
        for image_boxes, image_logits, rows, shape in zip(proposals, best, index, image_shapes, strict=True):
            clipped = clip_boxes_to_image(image_boxes[rows], shape)
            if self.min_side > 0:
                large = remove_small_boxes(clipped, self.min_side)
                clipped, image_logits = clipped[large], image_logits[large]
            keep = nms(clipped, image_logits, self.nms_thresh)[: self.post_nms_top_n()]
            boxes.append(clipped[keep])
            scores.append(image_logits[keep])
        return boxes, scores

    def _sample(self, labels: list[Tensor], targets: list[Target]) -> None:
        """Leave the label of the anchors that are to train, and make that of all others -1."""
        sampler = self.fg_bg_sampler
        for label, target in zip(labels, targets, strict=True):
            generator = generator_of(target, Draw.ANCHORS, label.device)
            chosen = choose(label, sampler.batch_size_per_image, sampler.positive_fraction, generator)
            label.masked_fill_(~chosen, -1)

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy, mean over sampled anchors; smooth L1, sum over positives / number sampled.

        ``labels``, per image: 1 a person, 0 background, -1 not sampled.
        """
        wanted = torch.cat(labels)
        sampled, positive = wanted >= 0, wanted > 0
        count = mean_count(sampled.sum())
        objectness_loss = (
            F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], wanted[sampled], reduction="sum") / count
        )
        # Smooth L1 is L1 where beta is 0.
        box_loss = F.smooth_l1_loss(
            pred_bbox_deltas[positive],
            torch.cat(regression_targets)[positive],
            reduction="sum",
            beta=self.box_loss_beta,
        )
        return objectness_loss, box_loss / count
