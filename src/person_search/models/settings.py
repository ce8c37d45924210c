"""The settings that methods are composed of; what differs between methods is in ``method_settings``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from person_search.config import AtLeastOne, Count, MethodSettings, Positive, Share
from person_search.config.sections import Section
from person_search.errors import nearest
from person_search.registry import backbones, losses

Level = Literal["C4", "C5"]
NotNegative = Annotated[float, Field(ge=0)]
EmbeddingNorm = Literal["batch", "proto", "none"]


class BackboneSettings(Section):
    """The network that features come from: what all have, and the base of a backbone's own settings."""

    kinds = backbones
    chooser = "name"
    flat_names: ClassVar[dict[str, str]] = {"name": "backbone", "weights": "weights", "freeze": "freeze"}

    name: str = Field(
        description="resnet18, 34, 50, 101, convnext_tiny, _small, _base, _large, timm:NAME, or a plug-in's"
    )
    weights: str = Field("imagenet", description="start of the backbone: imagenet, none, or the path of a weights file")
    freeze: bool | None = Field(
        False,
        description="keep the first layer, and the trunk's BN where the method says so, as loaded; None: unless the "
        "weights are none",
    )

    @property
    def frozen(self) -> bool:
        """``freeze``, decided."""
        return self.weights != "none" if self.freeze is None else self.freeze

    @classmethod
    def kind(cls, name: str) -> type[Section]:
        """As every section's; the nearest name may be one of timm's networks."""
        if not backbones.knows(name):
            import timm

            known = backbones.names()
            hint = nearest(name, [*known, *(f"timm:{model}" for model in timm.list_models())])
            raise ValueError(
                f"unknown backbone '{name}'; known: {', '.join(known)} (any of timm's networks that has stages), and "
                f"those of modules given by `plugins`.{hint}"
            )
        return super().kind(name)


class ConvNeXtSettings(BackboneSettings):
    """ConvNeXt (Liu et al., CVPR 2022)."""

    width: Positive = Field(1.0, description="multiplies the backbone's channels; weights from files need 1")
    stochastic_depth: Share | None = Field(
        None,
        description="chance that training leaves out the last block, earlier ones by their place; None: the network's",
    )


class ResNetSettings(BackboneSettings):
    """Residual networks (He et al., CVPR 2016)."""

    name: str = "resnet50"
    width: Positive = Field(1.0, description="multiplies the backbone's channels; weights from files need 1")
    flavour: Literal["torchvision", "caffe"] = Field(
        "torchvision", description="stride placement and image normalisation; caffe is that of the published numbers"
    )


class CropSettings(Section):
    """Squares that are cut out of resized training images."""

    prefix = "crop_"

    side: AtLeastOne | None = Field(
        None, description="training images are cropped to squares of this side after resizing; None: whole images"
    )
    canvas: AtLeastOne = Field(
        1, description="crop: images are padded first, to at least this many times crop_side, the image in the middle"
    )
    padding: Literal["mean", "black"] = Field(
        "mean", description="crop: colour around the image, the mean that normalisation takes off, or black"
    )
    focused: Share = Field(
        0.5, description="crop: share of crops around one person with an identity; the others hold all people"
    )
    grow: bool = Field(
        False, description="crop: around one person larger than crop_side cut out a larger square and shrink it"
    )
    erosion: Share = Field(
        0.1, description="crop: share of a box's sides, at either end, that a crop of all people may cut off"
    )
    min_area: Share = Field(
        0.4, description="crop: people with less than this share of their box's area left do not count any more"
    )


class ImageSettings(Section):
    """The size that images are resized to, and what training cuts out of them."""

    at_test = ("shorter_side", "longer_side")

    shorter_side: tuple[AtLeastOne, ...] = Field(
        (600,),
        description="images are resized to this shorter side, pixels; several: one drawn per training image, the last "
        "in test",
    )
    longer_side: AtLeastOne = Field(1000, description="longest side after resizing, pixels")
    rounding: Literal["down", "nearest"] = Field(
        "down", description="how sides after resizing become whole pixels: rounded down, or to the nearest"
    )
    crop: CropSettings = CropSettings()

    @field_validator("shorter_side")
    @classmethod
    def _some(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if not sides:
            raise ValueError("at least one shorter side is needed")
        return sides

    @model_validator(mode="after")
    def _sides_fit(self) -> ImageSettings:
        if max(self.shorter_side) > self.longer_side:
            raise ValueError(f"shorter_side {max(self.shorter_side)} exceeds longer_side {self.longer_side}")
        return self


class RpnSettings(Section):
    """The region proposal network."""

    prefix = "rpn_"
    flat_names: ClassVar[dict[str, str]] = {"anchor_sizes": "anchor_sizes", "anchor_ratios": "anchor_ratios"}
    at_test = ("pre_nms_test", "post_nms_test")

    anchor_sizes: tuple[Positive, ...] = Field(
        (8.0, 16.0, 32.0), description="anchor sizes, pixels of the resized image"
    )
    anchor_ratios: tuple[Positive, ...] = Field((1.0, 2.0), description="anchor aspect ratios, height / width")
    fg_iou: Share = Field(0.7, description="RPN: IoU from which an anchor is a person")
    bg_iou: Share = Field(0.3, description="RPN: IoU below which an anchor is background")
    batch_per_image: AtLeastOne = Field(256, description="RPN: anchors sampled per image")
    positive_share: Share = Field(0.5, description="RPN: share of sampled anchors that may be positive")
    nms: Share = Field(0.7, description="RPN: NMS IoU")
    min_side: NotNegative = Field(
        0.0, description="RPN: proposals with a shorter side than this, pixels of the resized image, are dropped"
    )
    box_loss_beta: NotNegative = Field(
        0.0, description="RPN: below this error the box loss is quadratic (smooth L1); 0: L1 throughout"
    )
    pre_nms_train: AtLeastOne = Field(12000, description="RPN: proposals before NMS in training")
    pre_nms_test: AtLeastOne = Field(6000, description="RPN: proposals before NMS in test")
    post_nms_train: AtLeastOne = Field(2000, description="RPN: proposals kept in training")
    post_nms_test: AtLeastOne = Field(300, description="RPN: proposals kept in test")

    @model_validator(mode="after")
    def _thresholds_fit(self) -> RpnSettings:
        if self.bg_iou > self.fg_iou:
            raise ValueError(f"rpn_bg_iou {self.bg_iou} exceeds rpn_fg_iou {self.fg_iou}")
        return self


class RoiSettings(Section):
    """Regions of interest: how their features are read, and which of them train."""

    prefix = "roi_"

    size: tuple[AtLeastOne, AtLeastOne] = Field(
        (14, 7), description="rows and columns that RoIAlign reads from each RoI"
    )
    sampling_ratio: Count = Field(0, description="RoIAlign: samples a row and column of each cell; 0: as many as fit")
    fg_iou: Share = Field(0.5, description="IoU from which a proposal is a person")
    bg_iou: Share | None = Field(
        None,
        description="IoU below which a proposal is background; up to roi_fg_iou it trains nothing; None: roi_fg_iou",
    )
    batch_per_image: AtLeastOne = Field(64, description="RoIs sampled per image for detection")
    positive_share: Share = Field(0.5, description="share of sampled RoIs that may be positive")

    @model_validator(mode="after")
    def _thresholds_fit(self) -> RoiSettings:
        if self.bg_iou is not None and self.bg_iou > self.fg_iou:
            raise ValueError(f"roi_bg_iou {self.bg_iou} exceeds roi_fg_iou {self.fg_iou}")
        return self


class DetectionSettings(Section):
    """Which scored boxes become detections."""

    at_test = ("score_threshold", "nms_threshold", "max_detections")

    score_threshold: Share = Field(0.05, description="detections below this score are dropped")
    nms_threshold: Share = Field(0.4, description="NMS IoU of detections")
    max_detections: AtLeastOne = Field(100, description="detections kept per image")


class LossSettings(Section):
    """The re-ID loss: what all have, and the base of a loss's own settings."""

    kinds = losses
    chooser = "name"
    flat_names: ClassVar[dict[str, str]] = {"name": "reid_loss", "weight": "reid_loss_weight"}

    name: str = Field(
        description="re-ID loss: oim, oim-sequential, oim-safe, loim, softmax, softmax-bn, or a plug-in's"
    )
    weight: Positive = Field(0.5, description="weight of the re-ID loss")


class TableLossSettings(LossSettings):
    """A loss that compares with a table of identities and a queue of other people."""

    prefix = "oim_"

    scale: Positive = Field(30.0, description="OIM: logits are this times the cosine")
    queue: AtLeastOne | None = Field(None, description="OIM: queue length; None: 5000 above 1000 identities, else 500")
    normalise: bool = Field(
        True, description="OIM: embeddings are brought to unit length first; off: their lengths count, as in NAE+"
    )


class OimLossSettings(TableLossSettings):
    """Online instance matching (Xiao et al., CVPR 2017)."""

    name: str = "oim"
    momentum: Share = Field(0.5, description="OIM: share of the old row kept when the table is updated")


class SequentialOimLossSettings(OimLossSettings):
    """Online instance matching as its authors' code computes it."""

    name: str = "oim-sequential"


class SafeOimLossSettings(SequentialOimLossSettings):
    """Online instance matching that rows without a person do not disturb."""

    name: str = "oim-safe"


class LoimLossSettings(TableLossSettings):
    """Localisation-aware OIM (Lee et al., ECCV 2022)."""

    name: str = "loim"
    min_step: Share = Field(0.7, description="LOIM: smallest share of a RoI in its table row, which is else its IoU")
    max_step: Share = Field(0.9, description="LOIM: largest share of a RoI in its table row")

    @model_validator(mode="after")
    def _steps_fit(self) -> LoimLossSettings:
        if self.min_step > self.max_step:
            raise ValueError(f"oim_min_step {self.min_step} exceeds oim_max_step {self.max_step}")
        return self


class EmbeddingSettings(Section):
    """The way from pooled features to the embedding, for methods that project them."""

    prefix = "embedding_"

    norm: EmbeddingNorm = Field(
        "batch",
        description="normalisation behind the projection: batch, proto (OIMNet++'s ProtoNorm, which counts people "
        "instead of RoIs), none",
    )


class GalleryFilterSettings(Section):
    """The gallery filter network (Jaffe and Zakhor, WACV 2023)."""

    prefix = "gfn_"
    flat_names: ClassVar[dict[str, str]] = {"enabled": "gfn"}

    enabled: bool = Field(
        False, description="train a gallery filter network too: it scores whole scenes for a query (WACV 2023)"
    )
    weight: Positive = Field(1.0, description="GFN: weight of its loss")
    objective: Literal["combined", "separate"] = Field(
        "combined",
        description="GFN: compare scenes as the query sees them, or, separate, the query with the scenes themselves",
    )
    fusion: Literal["se", "sum", "identity"] = Field(
        "se", description="GFN, combined: how a query sees a scene: gated by the query, added to it, or as it is"
    )
    query: Literal["batch", "oim"] = Field(
        "batch",
        description="GFN: in training a query is its embedding in the batch, or its row in the table of the re-ID loss",
    )
    size: AtLeastOne = Field(56, description="GFN: rows and columns that a scene's features are pooled to")
    temperature: Positive = Field(0.1, description="GFN: its loss divides cosines by this")
    gate_temperature: Positive = Field(0.2, description="GFN, fusion se: the gate divides the query by this")
    memory: bool = Field(True, description="GFN: train on scenes of earlier batches too, which are kept in memory")
    memory_positives: Count = Field(
        1, description="GFN: stored scenes with a person of the batch, for each person drawn"
    )
    memory_negatives: Count = Field(
        1,
        description="GFN: stored scenes without that person, but with another one of its scene, for each person drawn",
    )


class TwoStageSettings(MethodSettings):
    """A method that finds regions with an RPN, and people in them."""

    no_gallery_filter: ClassVar[str] = ""
    """Why the method cannot carry a gallery filter network, where it cannot."""

    backbone: SerializeAsAny[BackboneSettings] = ResNetSettings()
    levels: tuple[Level, ...] = Field(
        ("C5",), description="backbone levels the re-ID embedding is taken from: C5, or C4 C5"
    )
    images: ImageSettings = ImageSettings()
    rpn: RpnSettings = RpnSettings()
    rois: RoiSettings = RoiSettings()
    box_loss_weight: Positive = Field(1.0, description="weight of the box loss")
    loss: SerializeAsAny[LossSettings] = OimLossSettings()
    detections: DetectionSettings = DetectionSettings()
    gfn: GalleryFilterSettings = GalleryFilterSettings()

    @field_validator("gfn")
    @classmethod
    def _can_be_carried(cls, gfn: GalleryFilterSettings) -> GalleryFilterSettings:
        if gfn.enabled and cls.no_gallery_filter:
            raise ValueError(f"no gallery filter network (`gfn`) here, leave it out: {cls.no_gallery_filter}")
        return gfn

    @field_validator("levels")
    @classmethod
    def _known_combination(cls, levels: tuple[Level, ...]) -> tuple[Level, ...]:
        if levels not in {("C5",), ("C4", "C5")}:
            raise ValueError("levels are C5, or C4 C5 in this order")
        return levels
