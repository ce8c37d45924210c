"""The settings of every method, with its published defaults.

They can be read without the network library, so that what only scores or shows help starts at once.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SerializeAsAny, model_validator

from person_search.config import AtLeastOne, Positive, Share
from person_search.config.sections import Section
from person_search.models.settings import (
    BackboneSettings,
    ConvNeXtSettings,
    DetectionSettings,
    EmbeddingSettings,
    ImageSettings,
    Level,
    LoimLossSettings,
    LossSettings,
    NotNegative,
    ResNetSettings,
    RoiSettings,
    RpnSettings,
    SafeOimLossSettings,
    SequentialOimLossSettings,
    TwoStageSettings,
)


class PkSettings(Section):
    """PK sampling: the proposals that train re-ID."""

    prefix = "pk_"

    sampling: bool = Field(
        True, description="re-ID trains on K proposals of every person; off: on the detection head's RoIs"
    )
    per_person: AtLeastOne = Field(4, description="K of PK sampling")


class BaselineSettings(TwoStageSettings):
    """The strong baseline."""

    method: str = "baseline"
    backbone: SerializeAsAny[BackboneSettings] = ResNetSettings(freeze=None)
    pk: PkSettings = PkSettings()


class OimSettings(TwoStageSettings):
    """OIM (Xiao et al., CVPR 2017)."""

    method: str = "oim"
    embedding: EmbeddingSettings = EmbeddingSettings()


class NaeSettings(TwoStageSettings):
    """NAE (Chen et al., CVPR 2020)."""

    method: str = "nae"
    embedding: EmbeddingSettings = EmbeddingSettings()
    rpn: RpnSettings = RpnSettings(anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0))
    box_loss_weight: Positive = 10.0


class FirstDetectionSettings(DetectionSettings):
    """Which boxes of a first head a second one looks at."""

    prefix = "first_"

    score_threshold: Share = Field(0.5, description="first head: boxes below this score are dropped")
    nms_threshold: Share = Field(0.4, description="first head: NMS IoU of its boxes")
    max_detections: AtLeastOne = Field(300, description="first head: boxes kept per image")


class TorchvisionSettings(TwoStageSettings):
    """torchvision's Faster R-CNN as SeqNet's line of methods sets it: large images, square RoIs, nothing frozen."""

    backbone: SerializeAsAny[BackboneSettings] = ResNetSettings(freeze=None)
    images: ImageSettings = ImageSettings(shorter_side=(900,), longer_side=1500)
    rpn: RpnSettings = RpnSettings(
        anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0), anchor_ratios=(0.5, 1.0, 2.0), min_side=1e-3
    )
    rois: RoiSettings = RoiSettings(size=(14, 14), sampling_ratio=2, batch_per_image=128)
    loss: SerializeAsAny[LossSettings] = SequentialOimLossSettings(weight=1.0)
    detections: DetectionSettings = DetectionSettings(score_threshold=0.5, nms_threshold=0.4, max_detections=300)


class Nae4psSettings(TorchvisionSettings, NaeSettings):
    """NAE (Chen et al., CVPR 2020) as its authors released it."""

    method: str = "nae4ps"
    levels: tuple[Level, ...] = ("C4", "C5")
    rois: RoiSettings = RoiSettings(size=(14, 14), sampling_ratio=2, batch_per_image=128, bg_iou=0.1)
    box_loss_weight: Positive = 10.0


class NaePlusSettings(Nae4psSettings):
    """NAE+ (Chen et al., CVPR 2020)."""

    method: str = "nae-plus"
    loss: SerializeAsAny[LossSettings] = SequentialOimLossSettings(weight=1.0, normalise=False)


class SeqNetSettings(TorchvisionSettings):
    """SeqNet (Li and Miao, AAAI 2021)."""

    method: str = "seqnet"
    levels: tuple[Level, ...] = ("C4", "C5")
    embedding: EmbeddingSettings = EmbeddingSettings()
    box_loss_weight: Positive = Field(10.0, description="weight of the first head's box loss")
    refined_box_loss_weight: Positive = Field(1.0, description="weight of the second head's box loss")
    first: FirstDetectionSettings = FirstDetectionSettings()
    detections: DetectionSettings = DetectionSettings(score_threshold=0.5, nms_threshold=0.5, max_detections=300)


class SeqNeXtSettings(SeqNetSettings):
    """SeqNeXt (Jaffe and Zakhor, WACV 2023)."""

    method: str = "seqnext"
    images: ImageSettings = ImageSettings(shorter_side=(900,), longer_side=1500, rounding="nearest")
    backbone: SerializeAsAny[BackboneSettings] = ConvNeXtSettings(name="convnext_base", freeze=None)
    rpn: RpnSettings = RpnSettings(
        anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_ratios=(0.5, 1.0, 2.0),
        min_side=1e-3,
        box_loss_beta=1 / 9,
    )
    embedding_size: AtLeastOne = Field(2048, description="numbers of the re-ID embedding, split evenly over the levels")
    loss: SerializeAsAny[LossSettings] = SafeOimLossSettings(weight=1.0)


class OimNetPlusPlusSettings(TorchvisionSettings, OimSettings):
    """OIMNet++ (Lee et al., ECCV 2022)."""

    method: str = "oimnet++"
    embedding: EmbeddingSettings = EmbeddingSettings(norm="proto")
    rpn: RpnSettings = RpnSettings(
        anchor_sizes=(8.0, 16.0, 32.0), anchor_ratios=(0.5, 1.0, 2.0), min_side=1e-3, box_loss_beta=1 / 9
    )
    box_loss_weight: Positive = 10.0
    loss: SerializeAsAny[LossSettings] = LoimLossSettings(weight=1.0)
    proto_norm_in_top: bool = Field(
        False, description="ProtoNorm in the place of every batch normalisation that RoIs pass: OIMNet+++"
    )

    @model_validator(mode="after")
    def _has_norms(self) -> OimNetPlusPlusSettings:
        if self.proto_norm_in_top and isinstance(self.backbone, ConvNeXtSettings):
            raise ValueError(
                f"proto_norm_in_top: {self.backbone.name} has no batch normalisation whose place ProtoNorm could take; "
                "leave it out (method oimnet++), or choose another backbone, such as resnet50"
            )
        return self


class OimNetPlusPlusPlusSettings(OimNetPlusPlusSettings):
    """OIMNet+++ (Lee et al., ECCV 2022)."""

    method: str = "oimnet+++"
    proto_norm_in_top: bool = True


class SecondDetectionSettings(DetectionSettings):
    """Which boxes of a second head a third one looks at."""

    prefix = "second_"

    score_threshold: Share = Field(0.5, description="second head: boxes below this score are dropped")
    nms_threshold: Share = Field(0.4, description="second head: NMS IoU of its boxes")
    max_detections: AtLeastOne = Field(300, description="second head: boxes kept per image")


class CoatSettings(TorchvisionSettings):
    """COAT (Yu et al., CVPR 2022)."""

    at_test = ("embedding_heads",)
    no_gallery_filter = (
        "COAT embeds people by transformers, whose work grows with the square of the features that they read; "
        "56 x 56 of a scene are too many for them"
    )

    method: str = "coat"
    levels: tuple[Level, ...] = Field(
        ("C4", "C5"),
        description="what the embedding is taken from: C5, the transformers' output, or C4 C5, the features beside "
        "them too",
    )
    embedding: EmbeddingSettings = EmbeddingSettings()
    rpn: RpnSettings = RpnSettings(
        anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0),
        anchor_ratios=(0.5, 1.0, 2.0),
        min_side=1e-3,
        box_loss_beta=1 / 9,
    )
    rois: RoiSettings = RoiSettings(size=(14, 14), sampling_ratio=2, batch_per_image=128, positive_share=0.25)
    second_fg_iou: Share = Field(0.6, description="second head: IoU from which a box is a person; below: background")
    third_fg_iou: Share = Field(0.7, description="third head: the same")
    occluded_attention: bool = Field(
        True, description="in training, RoIs exchange a strip of their features, as if somebody stood before them"
    )
    box_loss_weight: Positive = Field(10.0, description="weight of every head's box loss")
    loss: SerializeAsAny[LossSettings] = SequentialOimLossSettings(weight=0.5)
    softmax_weight: NotNegative = Field(
        0.1, description="weight of a softmax classifier beside the re-ID loss; published: 0.1 CUHK-SYSU, 0.5 PRW"
    )
    first: FirstDetectionSettings = FirstDetectionSettings()
    second: SecondDetectionSettings = SecondDetectionSettings()
    detections: DetectionSettings = DetectionSettings(score_threshold=0.5, nms_threshold=0.5, max_detections=300)
    embedding_heads: Literal["both", "second", "third"] = Field(
        "both",
        description="heads that embeddings are from; second: its boxes, chosen by second_*, are the detections, and "
        "there is no third head in test",
    )

    @model_validator(mode="after")
    def _later_thresholds_fit(self) -> CoatSettings:
        for name, value in (("second_fg_iou", self.second_fg_iou), ("third_fg_iou", self.third_fg_iou)):
            if self.rois.bg_iou is not None and self.rois.bg_iou > value:
                raise ValueError(f"roi_bg_iou {self.rois.bg_iou} exceeds {name} {value}")
        return self
