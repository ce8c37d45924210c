"""The settings of a run: what all methods and datasets have, and the base of what each has of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from person_search.config.sections import Section, leaves
from person_search.registry import datasets, methods

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]


class DataConfig(Section):
    """Where the pictures come from: what every dataset has, and the base of its own settings."""

    kinds = datasets
    chooser = "dataset"

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


class MethodSettings(Section):
    """The network, its losses, and how it reads images: the base of every method's settings, saved in checkpoints."""

    kinds = methods
    chooser = "method"

    method: str = Field(
        description="baseline, oim, nae, nae4ps, nae-plus, seqnet, oimnet++, oimnet+++, seqnext, coat, or a plug-in's"
    )


class TrainingConfig(Section):
    """How the network is trained."""

    run_dir: Path = Field(
        Path("runs/baseline"),
        description="folder for the config, checkpoints, curves and results of this run",
    )
    init_from: Path | None = Field(
        None,
        description="checkpoint, or name of a released model, whose weights to start from (identity table excepted)",
    )
    batch_size: AtLeastOne = Field(5, description="images per process and step")
    max_epochs: AtLeastOne = Field(
        7,
        description="epochs, warm-up included; one epoch shows each image and, unless set otherwise, its mirror image",
    )
    max_steps: AtLeastOne | None = Field(
        None, description="stop after this many optimisation steps, whatever the epoch"
    )
    flip: bool = Field(True, description="show every image mirrored too")
    flip_at_random: bool = Field(
        False, description="show every image once an epoch, mirrored or not as chance has it, instead of both"
    )
    all_images: bool = Field(False, description="train on images in which nobody has an identity too")
    optimizer: Literal["sgd", "adam", "adamw"] = Field("sgd", description="optimiser of the detection parameters")
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
    warmup_steps: AtLeastOne | None = Field(
        None,
        description="longest warm-up, in steps; None: all of warmup_epochs. Decay counts from its epochs all the same",
    )
    warmup_mode: Literal["linear", "linear-from-factor", "constant"] = Field(
        "linear",
        description="warm-up: rising each step; the same with the first step at warmup_factor; or constant at it",
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
    checkpoint_heads: bool = Field(
        False, description="the same for what the heads compute of each RoI before they pool it"
    )
    group_by_aspect_ratio: bool = Field(
        False, description="make batches of images of like shape, so that less is padding; reads all headers once"
    )
    max_skipped_steps: Count = Field(
        20,
        description="stop when, of late, this many more steps were skipped as not finite than taken, and at the end when most were; 0: never",
    )
    checkpoint_every: AtLeastOne | None = Field(None, description="also write a checkpoint every this many steps")
    checkpoint_memory: bool = Field(
        True,
        description="keep in last.pt what a gallery filter network remembers of scenes, which an exact resume needs; "
        "about half a gigabyte for a whole dataset",
    )
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

    @model_validator(mode="after")
    def _flips_agree(self) -> TrainingConfig:
        if self.flip_at_random and not self.flip:
            raise ValueError("flip_at_random says how images are mirrored, but with flip off none is; leave out one")
        return self


class EvaluationConfig(Section):
    """How detections are collected and scored."""

    eval_batch_size: AtLeastOne = Field(5, description="images per batch in test")
    same_size_batches: bool = Field(
        False,
        description="begin a new batch where an image has another size: its numbers then do not depend on those beside it",
    )
    use_gt_boxes: bool = Field(
        False, description="embed the true boxes instead of detections: the upper bound of re-ID"
    )
    detection_threshold: Share = Field(0.5, description="detections below this score do not count in detection metrics")
    search_threshold: Share = Field(0.5, description="detections below this score are dropped before search")
    gallery_size: tuple[int, ...] = Field(
        (), description="CUHK-SYSU gallery sizes: 50 100 500 1000 2000 4000, -1 whole set; none: standard"
    )
    cws: bool = Field(
        False, description="confidence-weighted similarity: embeddings of detections count times their score"
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
    gfn_scores: bool = Field(
        False,
        description="multiply similarities by the scene scores of a gallery filter network (WACV 2023)",
    )


class Config(Section):
    """All settings of a run, as written to ``config.yaml`` in the run folder."""

    data: SerializeAsAny[DataConfig] = Field(default_factory=lambda: DataConfig.chosen("synthetic"))
    model: SerializeAsAny[MethodSettings] = Field(default_factory=lambda: MethodSettings.chosen("baseline"))
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _flat_names_differ(self) -> Config:
        places: dict[str, str] = {}
        for leaf in leaves(self):
            place = ".".join((*leaf.path, leaf.key))
            if leaf.name in places:
                raise ValueError(
                    f"{places[leaf.name]} and {place} are both called '{leaf.name}' on the command line; give one of "
                    "their sections another prefix"
                )
            places[leaf.name] = place
        return self
