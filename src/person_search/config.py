"""The settings of a run: what all methods and datasets have, and how YAML files and flags are read over the defaults.

The settings of one method, loss, backbone or dataset live with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from person_search.errors import UsageError, nearest
from person_search.migration import migrated
from person_search.registry import datasets, import_modules, methods
from person_search.sections import (
    UNKNOWN,
    Section,
    chosen_in,
    differences,
    flat,
    leaves,
    merged,
    natural,
    placed,
    section_kind,
)

log = logging.getLogger(__name__)

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

    method: str = Field(description="baseline, oim, nae, seqnet, or a plug-in's")


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


@contextmanager
def plugins_imported(names: Sequence[str]) -> Iterator[None]:
    """Read settings with plug-ins imported. That one could not be is the error where the settings are wrong then."""
    missing: UsageError | None = None
    try:
        import_modules(names)
    except UsageError as error:
        missing = error
    try:
        yield
    except UsageError as error:
        raise missing or error from None


def with_settings(config: Config, **settings: Any) -> Config:
    """``config`` with settings changed by their flat names (``lr=0.01``, ``rpn_nms=0.6``), validated.

    Where another method, dataset, loss or backbone is chosen, what was changed in ``config`` goes along as far as the
    new one has such settings. Raises UsageError.
    """
    return changed(config, settings)[0]


def changed(config: Config, settings: Mapping[str, Any]) -> tuple[Config, dict[str, Any]]:
    """``with_settings``, and what was changed in ``config`` and is left out, by flat name."""
    with plugins_imported(natural(tuple[str, ...], settings.get("plugins"))):
        kept = differences(config, Config())
        tree, used = _placed({**kept, **settings}, "settings")
        new = _validated(tree, "settings")
        unknown = next((name for name in settings if name not in used), None)
        if unknown is not None:
            raise UsageError(f"unknown setting '{unknown}'.{whose(unknown, new) or nearest(unknown, flat(new))}")
        return new, {name: value for name, value in kept.items() if name not in used}


def parse(tree: Any, source: str, *, over: Config | None = None) -> Config:
    """A nested dict as Config, over the defaults or the settings ``over``.

    Raises UsageError with ``source``, the key and the nearest known key.
    """
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise UsageError(f"{source}: expected sections {', '.join(Config.model_fields)}, found {type(tree).__name__}")
    data = tree.get("data")
    with plugins_imported(natural(tuple[str, ...], data.get("plugins")) if isinstance(data, dict) else ()):
        usual = over or Config()
        tree = migrated(tree, usual, source, owner_of=lambda name: _owner_of(name, usual))
        if over is not None:
            try:
                base, _ = changed(over, chosen_in(tree, over))
            except ValueError as error:
                raise UsageError(f"{source}: {error}") from None
            tree = merged(_placed(differences(base, Config()), source)[0], tree)
        return _validated(tree, source)


def _placed(settings: Mapping[str, Any], source: str) -> tuple[dict[str, Any], set[str]]:
    try:
        return placed(settings, Config())
    except ValueError as error:
        raise UsageError(f"{source}: {error}") from None


def _validated(tree: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UsageError(f"{source}: {describe(error)}") from None


def read_method_settings(tree: Any, source: str) -> MethodSettings:
    """The settings of a method as a checkpoint keeps them. Raises UsageError where this version does not know them."""
    if isinstance(tree, dict) and tree.get("cws"):
        log.warning(
            "%s: its 'cws' of version 0.1.0 is a setting of the evaluation now: give --cws, unless the config.yaml "
            "beside it does",
            source,
        )
    return parse({"model": tree}, source).model


def method_settings(method: str, **settings: Any) -> MethodSettings:
    """The settings of a method, with some changed by flat name. Raises UsageError."""
    return override(with_settings(Config(), method=method).model, settings)


def override(config: MethodSettings, settings: Mapping[str, Any]) -> MethodSettings:
    """``config`` with settings of the model changed by flat name. Raises UsageError."""
    whole = Config(model=config)
    for name in settings:
        if name in flat(whole) and name not in flat(config):
            raise UsageError(f"'{name}' is no model setting.{nearest(name, flat(config))}")
    return with_settings(whole, **settings).model


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error, in one line, naming the key and, if it is unknown, the nearest one."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == UNKNOWN:
        section: type[Section] = first["ctx"]["section"]
        return f"unknown key '{path}'.{_place_of(str(first['loc'][-1]), section)}"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    found = f", found {given!r}" if isinstance(given, int | float | str | bool | list | tuple) else ""
    return f"{path}: {message}{found}" if path else message


def _place_of(key: str, section: type[Section]) -> str:
    """What helps who wrote ``key``, which ``section`` does not have."""
    own = next((base for base in section.__mro__ if issubclass(base, Section) and base.kinds is not None), None)
    if own is not None and (names := _owners(own, lambda kind: key in type(kind).model_fields)):
        return f" It is a setting of {names}."
    for leaf in leaves(Config()):
        if key in (leaf.key, leaf.name) and leaf.section is not section:
            return f" (it belongs under '{'.'.join(leaf.path)}:'{'' if key == leaf.key else f' as {leaf.key}'})"
    if found := whose(key, Config()) or nearest(key, section.model_fields):
        return found
    near = nearest(key, [leaf.key for leaf in leaves(Config())])
    places = (".".join(leaf.path) for leaf in leaves(Config()) if near == nearest(leaf.key, [leaf.key]))
    return near and f"{near} It is under '{next(places)}:'."


def whose(name: str, config: Config) -> str:
    """``" It is a setting of the method 'baseline'."``: who has the flat name ``name``, which ``config`` does not.

    Empty for one that ``config`` has, or nobody.
    """
    return "" if name in flat(config) else _owner_of(name, config)


def _owner_of(name: str, config: Config) -> str:
    for section in reversed([*_chosen_sections(config)]):
        if names := _owners(section, lambda kind: name in _own_names(kind)):
            return f" It is a setting of {names}."
    return ""


def choices(config: Config) -> dict[str, str]:
    """What is chosen in ``config`` by name, by flat name: dataset, method, and what else the method has kinds of."""
    values = flat(config)
    names = [section.flat_name(section.chooser) for section in _chosen_sections(config)]
    return {name: values[name] for name in names}


def _owners(section: type[Section], has: Callable[[Section], bool]) -> str:
    """The kinds of ``section`` of which ``has`` is true, in words."""
    assert section.kinds is not None
    names = [f"'{name}'" for name in section.kinds.names() if has(section.chosen(name))]
    return f"the {section.kinds.kind} {' or '.join(names)}" if names else ""


def _chosen_sections(section: Section) -> Iterator[type[Section]]:
    """The sections in ``section``, outer ones first, of which there are several kinds."""
    for key, field in type(section).model_fields.items():
        kind = section_kind(field.annotation)
        if kind is not None:
            if kind.kinds is not None:
                yield kind
            yield from _chosen_sections(getattr(section, key))


def _own_names(section: Section) -> Iterator[str]:
    """Flat names of the settings in ``section``, without those of which a name inside it chooses the kind."""
    for key, field in type(section).model_fields.items():
        kind = section_kind(field.annotation)
        if kind is None:
            yield section.flat_name(key)
        elif kind.kinds is None:
            yield from _own_names(getattr(section, key))


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
    return parse(tree, f"config '{path}'", over=over)


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
