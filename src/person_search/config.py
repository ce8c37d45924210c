"""Every setting, once: name, meaning, unit, range and default. YAML files and command-line flags both end up here."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from person_search.errors import UsageError, nearest

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
Level = Literal["C4", "C5"]


def natural(kind: Any, value: Any) -> Any:
    """``value`` as the type ``kind`` wants it, where a person writing YAML may spell it in another way.

    A number stands for text (``precision: 32``), one value for a list, ``C4 C5`` or ``480, 600`` for a list without
    brackets, ``None`` for nothing, ``~`` for the home folder. Whatever else is not of this type stays as it is.
    """
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        if isinstance(value, str) and value.lower() == "none" and NoneType in get_args(kind):
            return None
        kinds = [part for part in get_args(kind) if part is not NoneType]
        return natural(kinds[0], value) if value is not None and len(kinds) == 1 else value
    if get_origin(kind) is tuple:
        (item, *_) = get_args(kind)
        if isinstance(value, str) and item is not str:
            value = value.replace(",", " ").split()
        values = value if isinstance(value, list | tuple) else () if value is None else (value,)
        return tuple(natural(item, one) for one in values) if not isinstance(value, dict) else value
    texts = get_origin(kind) is Literal or kind in (str, Path)
    if texts and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if kind is Path and isinstance(value, str | Path) and str(value).startswith("~"):
        return Path(os.path.expanduser(value))
    return value


class Section(BaseModel):
    """A group of settings: immutable, unknown keys refused, defaults validated."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _natural(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        fields = cls.model_fields
        return {
            key: natural(fields[key].annotation, value) if key in fields else value for key, value in values.items()
        }


class DataConfig(Section):
    """Where the pictures come from."""

    dataset: str = Field(
        "synthetic", description="dataset loader: synthetic, coco, mot, cuhk-sysu (ssm), prw, or a plug-in's"
    )
    data_root: Path = Field(Path("data/synthetic"), description="folder of the dataset, or its parent")
    plugins: tuple[str, ...] = Field(
        (), description="modules of your own to import first, which register methods, datasets or losses by name"
    )
    workers: Count = Field(2, description="processes that decode images; 0 decodes in the main process")
    skip_unreadable: bool = Field(
        False, description="train without images that cannot be read, listing them, instead of stopping"
    )
    validation_share: Share = Field(
        0.0,
        description="share of the training scenes held out for validation when the dataset has no validation split of its own",
    )
    unlabelled_ids: tuple[str, ...] = Field(
        (), description="ids, as the dataset's files write them, of people who are nobody: they get no identity"
    )
    person_id_key: str | None = Field(
        None,
        description="COCO: key of the person's id in an annotation or its attributes; None: person_id, else CVAT's track_id",
    )
    queries: Literal["standard", "mini"] = Field(
        "standard", description="PRW: which query list; mini is PRW-mini (Munjal et al., 2019)"
    )
    mot_split: Literal["time", "sequence"] = Field(
        "time", description="MOT: train and test split within each sequence, or by sequence"
    )
    mot_train_share: Share = Field(
        0.5, description="MOT: first share of each sequence's length, or of the sequences, used for training"
    )
    mot_min_gap: Annotated[float, Field(ge=0)] = Field(
        5.0, description="MOT: seconds between a query and its gallery scenes, at least"
    )


class ModelConfig(Section):
    """The network and how it reads images. Saved in the checkpoint."""

    method: str = Field("baseline", description="baseline, oim, nae, or a plug-in's")
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101"] = Field(
        "resnet50", description="residual network"
    )
    width: Positive = Field(1.0, description="multiplies the backbone's channels; weights from files need 1")
    flavour: Literal["torchvision", "caffe"] = Field(
        "torchvision",
        description="stride placement and image normalisation; caffe is that of the published numbers",
    )
    weights: str = Field("imagenet", description="start of the backbone: imagenet, none, or the path of a weights file")
    levels: tuple[Level, ...] = Field(
        ("C5",), description="backbone levels the re-ID embedding is taken from: C5, or C4 C5"
    )
    reid_loss: str = Field("oim", description="re-ID loss: oim, softmax, or a plug-in's")
    shorter_side: tuple[AtLeastOne, ...] = Field(
        (600,),
        description="images are resized to this shorter side, pixels; several: one drawn per training image, the last in test",
    )
    longer_side: AtLeastOne = Field(1000, description="longest side after resizing, pixels")

    anchor_sizes: tuple[Positive, ...] | None = Field(
        None, description="anchor sizes, pixels of the resized image; None: the method's own"
    )
    anchor_ratios: tuple[Positive, ...] = Field((1.0, 2.0), description="anchor aspect ratios, height / width")
    rpn_fg_iou: Share = Field(0.7, description="RPN: IoU from which an anchor is a person")
    rpn_bg_iou: Share = Field(0.3, description="RPN: IoU below which an anchor is background")
    rpn_batch_per_image: AtLeastOne = Field(256, description="RPN: anchors sampled per image")
    rpn_positive_share: Share = Field(0.5, description="RPN: share of sampled anchors that may be positive")
    rpn_nms: Share = Field(0.7, description="RPN: NMS IoU")
    rpn_pre_nms_train: AtLeastOne = Field(12000, description="RPN: proposals before NMS in training")
    rpn_pre_nms_test: AtLeastOne = Field(6000, description="RPN: proposals before NMS in test")
    rpn_post_nms_train: AtLeastOne = Field(2000, description="RPN: proposals kept in training")
    rpn_post_nms_test: AtLeastOne = Field(300, description="RPN: proposals kept in test")
    roi_fg_iou: Share = Field(0.5, description="IoU from which a proposal is a person, below it is background")
    roi_batch_per_image: AtLeastOne = Field(64, description="RoIs sampled per image for detection")
    roi_positive_share: Share = Field(0.5, description="share of sampled RoIs that may be positive")
    box_loss_weight: Positive | None = Field(None, description="weight of the box loss; None: the method's own")

    pk_sampling: bool = Field(
        True,
        description="baseline: re-ID trains on K proposals of every person; off: on the detection head's RoIs",
    )
    pk_per_person: AtLeastOne = Field(4, description="baseline: K of PK sampling")
    reid_loss_weight: Positive = Field(0.5, description="weight of the re-ID loss")
    oim_scale: Positive = Field(30.0, description="OIM: logits are this times the cosine")
    oim_momentum: Share = Field(0.5, description="OIM: share of the old row kept when the table is updated")
    oim_queue: AtLeastOne | None = Field(
        None, description="OIM: queue length; None: 5000 above 1000 identities, else 500"
    )
    freeze: bool | None = Field(
        None,
        description="keep conv1 and the trunk's BN as loaded; None: the method's own, and never with --weights none",
    )

    score_threshold: Share = Field(0.05, description="detections below this score are dropped")
    nms_threshold: Share = Field(0.4, description="NMS IoU of detections")
    max_detections: AtLeastOne = Field(100, description="detections kept per image")
    cws: bool = Field(False, description="confidence-weighted similarity: embeddings times detection score")

    @field_validator("levels")
    @classmethod
    def _known_combination(cls, levels: tuple[Level, ...]) -> tuple[Level, ...]:
        if levels not in {("C5",), ("C4", "C5")}:
            raise ValueError("levels are C5, or C4 C5 in this order")
        return levels

    @field_validator("shorter_side")
    @classmethod
    def _some(cls, sides: tuple[int, ...]) -> tuple[int, ...]:
        if not sides:
            raise ValueError("at least one shorter side is needed")
        return sides

    @model_validator(mode="after")
    def _sides_fit(self) -> ModelConfig:
        if max(self.shorter_side) > self.longer_side:
            raise ValueError(f"shorter_side {max(self.shorter_side)} exceeds longer_side {self.longer_side}")
        if self.rpn_bg_iou > self.rpn_fg_iou:
            raise ValueError(f"rpn_bg_iou {self.rpn_bg_iou} exceeds rpn_fg_iou {self.rpn_fg_iou}")
        return self


class TrainingConfig(Section):
    """How the network is trained."""

    run_dir: Path = Field(
        Path("runs/baseline"),
        description="folder for the config, checkpoints, curves and results of this run",
    )
    init_from: Path | None = Field(
        None, description="checkpoint whose model weights to start from (identity table excepted)"
    )
    batch_size: AtLeastOne = Field(5, description="images per process and step")
    max_epochs: AtLeastOne = Field(
        7, description="epochs, warm-up included; one epoch shows each image and its mirror image"
    )
    max_steps: AtLeastOne | None = Field(
        None, description="stop after this many optimisation steps, whatever the epoch"
    )
    flip: bool = Field(True, description="show every image mirrored too")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="optimiser of the detection parameters")
    lr: Positive = Field(0.003, description="learning rate of the detection parameters")
    momentum: Share = Field(0.9, description="SGD momentum")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        1e-4, description="weight decay, biases of detection parameters excepted"
    )
    decay_biases: bool = Field(False, description="weight decay on biases of detection parameters too")
    double_bias_lr: bool = Field(False, description="twice the learning rate on biases of detection parameters")
    reid_lr: Positive = Field(3.5e-4, description="learning rate of the re-ID parameters")
    reid_weight_decay: Annotated[float, Field(ge=0)] = Field(1e-4, description="weight decay of the re-ID parameters")
    uni_optim: bool = Field(
        False, description="one SGD for all parameters, re-ID parameters keeping their own learning rate"
    )
    lr_policy: Literal["multistep", "step", "cosine", "plateau", "lambda"] = Field(
        "multistep", description="learning-rate decay"
    )
    lr_decay_epochs: tuple[Count, ...] = Field(
        (4,), description="detection: epochs after warm-up at which lr decays (step: the period; plateau: the patience)"
    )
    reid_lr_decay_epochs: tuple[Count, ...] | None = Field(
        None,
        description="re-ID: the same for its own optimiser; None: ceil(0.6 E) and ceil(0.8 E) of E epochs",
    )
    lr_decay_factor: Share = Field(0.1, description="factor of each decay")
    warmup_epochs: Annotated[float, Field(ge=0)] = Field(
        1, description="epochs in which the learning rate rises to its full value"
    )
    warmup_mode: Literal["linear", "constant"] = Field(
        "linear", description="warm-up: rising each step, or constant at warmup_factor"
    )
    warmup_factor: Share = Field(0.01, description="factor on the learning rate at the start of warm-up")
    clip_grad: Positive | None = Field(
        None, description="clip the gradient norm at this value (20 in the literature); None: off"
    )
    accumulate: AtLeastOne = Field(1, description="batches whose gradients are added up for one optimisation step")
    precision: Literal["32", "bf16", "16"] = Field(
        "32", description="arithmetic of the network; losses and OIM stay in float32"
    )
    seed: Count = Field(0, description="seed of weights, sampling and data order")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to run")
    devices: AtLeastOne = Field(1, description="processes per machine, one per GPU (CPU: one per share of the cores)")
    nodes: AtLeastOne = Field(1, description="machines")
    sync_batch_norm: bool = Field(False, description="normalise over the batches of all processes together; GPU only")
    channels_last: bool = Field(
        False, description="keep activations channels last: faster on recent GPUs in half precision, and on some CPUs"
    )
    compile: bool = Field(
        False, description="compile trunk and top with torch.compile; the first steps take minutes, the others less"
    )
    checkpoint_trunk: bool = Field(
        False, description="compute the trunk's activations again for the gradient instead of keeping them: less memory"
    )
    group_by_aspect_ratio: bool = Field(
        False, description="make batches of images of like shape, so that less is padding; reads all headers once"
    )
    max_skipped_steps: Count = Field(
        20,
        description="stop when, of late, this many more steps were skipped as not finite than taken, and at the end when most were; 0: never",
    )
    checkpoint_every: AtLeastOne | None = Field(None, description="also write a checkpoint every this many steps")
    keep_checkpoints: AtLeastOne | None = Field(
        3, description="checkpoints of whole epochs to keep, the newest ones; None: all"
    )
    validate_every: Count = Field(1, description="epochs between validations; 0: never")
    validate_epochs: tuple[AtLeastOne, ...] | None = Field(
        None,
        description="validate after these epochs, counted from 1, and after the last; None: every validate_every epochs",
    )
    log_every: AtLeastOne = Field(10, description="steps between logged rows")
    display: bool = Field(
        False,
        description="write pictures to TensorBoard: sampled proposals beside ground truth, ranking lists of validation queries",
    )


class EvaluationConfig(Section):
    """How detections are collected and scored."""

    eval_batch_size: AtLeastOne = Field(5, description="images per batch in test")
    use_gt_boxes: bool = Field(
        False, description="embed the true boxes instead of detections: the upper bound of re-ID"
    )
    detection_threshold: Share = Field(0.5, description="detections below this score do not count in detection metrics")
    search_threshold: Share = Field(0.5, description="detections below this score are dropped before search")
    gallery_size: tuple[int, ...] = Field(
        (), description="CUHK-SYSU gallery sizes: 50 100 500 1000 2000 4000, -1 whole set; none: standard"
    )
    cross_camera: bool = Field(False, description="search only scenes of other cameras than the query's")
    cbgm: bool = Field(False, description="re-score by context bipartite graph matching (SeqNet, AAAI 2021)")
    cbgm_k1: AtLeastOne | None = Field(
        None,
        description="CBGM: detections whose gallery scenes are re-scored; None: dataset's (30 PRW, else 10)",
    )
    cbgm_k2: AtLeastOne | None = Field(
        None, description="CBGM: people of the query scene, query included; None: dataset's (4 PRW, else 3)"
    )


class Config(Section):
    """All settings of a run, as written to ``config.yaml`` in the run folder."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def section_of() -> dict[str, str]:
    """Setting name -> section name; names are unique over all sections."""
    return {
        key: section
        for section, info in Config.model_fields.items()
        for key in info.annotation.model_fields  # type: ignore[union-attr]
    }


def with_settings(config: Config, **settings: Any) -> Config:
    """``config`` with settings changed by their plain names (``lr=0.01``), validated. Raises UsageError."""
    sections = section_of()
    tree = config.model_dump()
    for key, value in settings.items():
        if key not in sections:
            raise UsageError(f"unknown setting '{key}'.{nearest(key, sections)}")
        tree[sections[key]][key] = value
    return parse(tree, "settings")


def parse(tree: Any, source: str) -> Config:
    """A nested dict as Config. Raises UsageError with ``source``, the key and the nearest known key."""
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError(f"{source}: expected sections {', '.join(Config.model_fields)}, found {type(tree).__name__}")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{source}: {describe(error)}") from None


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error, in one line, naming the key and, if it is unknown, the nearest one."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        sections = section_of()
        known = [*Config.model_fields] if len(first["loc"]) == 1 else [*sections]
        where = f" (it belongs under '{sections[name]}:')" if name in sections else nearest(name, known)
        return f"unknown key '{path}'.{where}"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    found = f", found {given!r}" if isinstance(given, int | float | str | bool | list | tuple) else ""
    return f"{path}: {message}{found}" if path else message


def load_config(path: Path, *, over: Config | None = None) -> Config:
    """Read a YAML file over the defaults, or over the settings ``over``. Raises UsageError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read config '{path}': {error.strerror}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UsageError(f"config '{path}' is not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if over is not None and isinstance(tree, dict):
        below = over.model_dump()
        tree = below | {
            section: below[section] | values if section in below and isinstance(values, dict) else values
            for section, values in tree.items()
        }
    return parse(over.model_dump() if over is not None and tree is None else tree, f"config '{path}'")


def to_yaml(config: Config) -> str:
    """``config`` as YAML text that ``load_config`` reads back to an equal config, paths with forward slashes."""
    return yaml.safe_dump(plain(config.model_dump()), sort_keys=False, allow_unicode=True)


def plain(value: Any) -> Any:
    """``value`` with paths as text that every system reads, and lists for tuples."""
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, tuple | list) else value
