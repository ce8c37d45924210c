"""Checkpoints of other projects: told apart by their contents, in all the ways that such files are written."""

from __future__ import annotations

import argparse
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from person_search.checkpoints import released_coat, released_seqnext
from person_search.checkpoints.checkpoint import (
    Checkpoint,
    load_model_state,
    read_checkpoint,
    read_tensors,
    save_checkpoint,
)
from person_search.checkpoints.loading import RELEASED, load_model, load_stored, open_checkpoint
from person_search.checkpoints.origin import origin_of
from person_search.config import method_settings
from person_search.errors import CheckpointError
from person_search.models.building import build_model
from person_search.models.settings import TwoStageSettings

LAYOUTS = Path(__file__).parents[1] / "golden"
ONE_BY_ONE = {"same_size_batches": True}
WEIGHTED = ONE_BY_ONE | {"cws": True}
FOUND: dict[str, tuple[str, str, dict[str, object]]] = {
    "bsl": ("baseline", "C5", {}),
    "bsl_c4c5": ("baseline", "C4 C5", {}),
    "oim": ("oim", "C5", {}),
    "nae": ("nae", "C5", {}),
    "seqnet": ("seqnet", "C4 C5", WEIGHTED),
    "nae4ps": ("nae4ps", "C4 C5", WEIGHTED),
    "naeplus": ("nae-plus", "C4 C5", WEIGHTED),
    "naeplus_c5": ("nae-plus", "C5", WEIGHTED),
    "oimnetpp": ("oimnet++", "C5", ONE_BY_ONE),
    "coat": ("coat", "C4 C5", WEIGHTED),
    "seqnext": ("seqnext", "C4 C5", WEIGHTED),
    "gfn": ("seqnext", "C4 C5", WEIGHTED | {"gfn_scores": True}),
}
"""By name of the golden outputs: method, levels, and how the published numbers were taken."""
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])


def released(name: str) -> dict[str, Tensor]:
    """The tensors of a whole checkpoint, as ``name``'s code names them: all zero, so that files are small."""
    shapes = json.loads((LAYOUTS / f"{name}.layout.json").read_text())
    zero = torch.zeros(())
    return {key: zero.expand(shape) for key, shape in shapes.items()}


def module_of(state: dict[str, Tensor]) -> ModuleType:
    (found,) = [layout for layout in RELEASED if layout.is_released(state)]
    assert isinstance(found, ModuleType)
    return found


def written(path: Path, contents: Any, *, zipped: bool = True) -> Path:
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("name", FOUND)
def test_each_project_is_recognised_and_tested_as_it_published(tmp_path: Path, name: str) -> None:
    state = released(name)
    found = open_checkpoint(written(tmp_path / "a.pth", {"model": state}))
    config = found.model_config
    assert isinstance(config, TwoStageSettings)
    assert (config.method, " ".join(config.levels), found.evaluation) == FOUND[name]
    assert found.num_identities == 20
    assert found.origin is not None
    assert found.origin.layout is module_of(state)
    assert config == method_settings(
        config.method,
        weights="none",
        levels=config.levels,
        oim_queue=config.loss.queue,  # type: ignore[attr-defined]
        **({"flavour": "caffe"} if name in ("bsl", "bsl_c4c5", "oim", "nae") else {}),
        **({"softmax_weight": 0} if name == "coat" else {}),
        **({"gfn": True} if name == "gfn" else {}),
    )


class Scheduler:
    """An object that no reader of weights knows."""

    def __init__(self) -> None:
        self.milestones = Counter([16])


BESIDE = {
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
    "lr_scheduler": {"det": Scheduler(), "plain": {"milestones": Counter([16])}},
    "args": argparse.Namespace(lr=0.003, dataset="CUHK-SYSU", nested=argparse.Namespace(names=["a"])),
    "epoch": 19,
}
WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state, "epoch": 19},
    "state_dict": lambda state: {"state_dict": state},
    "detector": lambda state: {"state_dict": {"detector": state}},
    "module": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "compiled": lambda state: {"net": {f"module._orig_mod.{name}": value for name, value in state.items()}},
    "beside": lambda state: {**state, "epoch": 19, "name": "a", "best": None},
    "objects": lambda state: {"model": state, **BESIDE},
}


@formats
@pytest.mark.parametrize("name", ["oim", "seqnet", "nae4ps", "oimnetpp"])
def test_however_it_is_wrapped_it_is_the_same_model(tmp_path: Path, name: str, zipped: bool) -> None:
    state = released(name)
    first = None
    for wrap in WRAPPED.values():
        found = open_checkpoint(written(tmp_path / "a.pth", wrap(state), zipped=zipped))
        first = first or found
        assert found.model_config == first.model_config
        assert {key: value.shape for key, value in found.model.items()} == {
            key: value.shape for key, value in first.model.items()
        }


@pytest.mark.parametrize("name", [name for name in FOUND if not name.startswith(("bsl", "oim", "nae"))] + ["nae4ps"])
def test_both_spellings_of_the_rpns_convolution_are_one_tensor(tmp_path: Path, name: str) -> None:
    state = released(name)
    old, new = "rpn.head.conv.weight", "rpn.head.conv.0.0.weight"
    spelt = old if old in state else new
    other = {old: new, new: old}[spelt]
    respelt = {other if key == spelt else key: value for key, value in state.items()}
    shapes = [
        {key: value.shape for key, value in open_checkpoint(written(tmp_path / "a.pth", each)).model.items()}
        for each in (state, respelt)
    ]
    assert shapes[0] == shapes[1]


ALIASES = {
    "coat": ("roi_heads.box_head.conv1.weight", "roi_heads.box_head_1st.conv1.weight"),
    "seqnext": ("roi_heads.box_head.head.0.0.weight", "roi_heads.reid_head.head.0.0.weight"),
    "gfn": ("roi_heads.gfn.query_emb_head.projectors.feat_res4.0.weight",
            "roi_heads.embedding_head.projectors.feat_res4.0.weight"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIASES)
def test_two_names_of_one_tensor_must_hold_the_same(tmp_path: Path, name: str) -> None:
    alias, other = ALIASES[name]
    state = released(name)
    assert state[alias].shape == state[other].shape
    contradicting = state | {alias: torch.ones(()).expand(state[alias].shape)}
    with pytest.raises(CheckpointError, match="one tensor, differ") as caught:
        open_checkpoint(written(tmp_path / "a.pth", {"model": contradicting}))
    assert alias in str(caught.value)
    alone = {key: value for key, value in state.items() if key != other}
    assert open_checkpoint(written(tmp_path / "a.pth", alone)).model.keys() == module_of(state).convert(state).keys()


def test_tables_of_half_precision_are_widened(tmp_path: Path) -> None:
    state = released("oimnetpp")
    tables = {key: value.half() for key, value in state.items() if "reid_loss" in key}
    assert len(tables) == 2
    found = open_checkpoint(written(tmp_path / "a.pth", {"model": state | tables})).model
    assert {value.dtype for value in found.values()} == {torch.float32, torch.int64} or all(
        value.dtype == torch.float32 for key, value in found.items() if "queue_head" not in key
    )


@pytest.mark.parametrize(
    ("name", "anchors", "sizes"),
    [
        ("seqnet", 9, (8, 16, 32)),
        ("oimnetpp", 15, (32, 64, 128, 256, 512)),
        ("coat", 9, (8, 16, 32)),
        ("nae", 6, (8, 16, 32)),
        ("oim", 10, (32, 64, 128, 256, 512)),
        ("oimnetpp", 7, (8, 16, 32)),
    ],
)
def test_the_number_of_anchors_tells_their_sizes(
    tmp_path: Path, name: str, anchors: int, sizes: tuple[int, ...]
) -> None:
    state = released(name) | {"rpn.head.cls_logits.weight": torch.zeros(()).expand(anchors, 1024, 1, 1)}
    config = open_checkpoint(written(tmp_path / "a.pth", state)).model_config
    assert isinstance(config, TwoStageSettings)
    assert config.rpn.anchor_sizes == sizes


HELD = {
    "gfn_mode": "combined",
    "gfn_activation_mode": "sum",
    "gfn_query_mode": "oim",
    "gfn_se_temp": 0.3,
    "roi_head_score_thresh_test": 0.4,
    "roi_head_detections_per_image_test": 200,
    "dataset": "cuhk",
}


def test_the_settings_in_a_file_of_the_filter_network_count(tmp_path: Path) -> None:
    config = open_checkpoint(written(tmp_path / "a.pth", {"model": released("gfn"), "config": HELD})).model_config
    assert isinstance(config, TwoStageSettings)
    gfn, detections = config.gfn, config.detections
    assert (gfn.objective, gfn.fusion, gfn.query, gfn.gate_temperature) == ("combined", "sum", "oim", 0.3)
    assert (detections.score_threshold, detections.max_detections, detections.nms_threshold) == (0.4, 200, 0.5)
    without = open_checkpoint(written(tmp_path / "a.pth", {"model": released("seqnext"), "config": HELD})).model_config
    assert isinstance(without, TwoStageSettings)
    assert not without.gfn.enabled
    assert without.gfn.fusion == "se"


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"gfn_mode": "image"}, "gfn_mode 'image': .*'combined' or 'separate'"),
        ({"gfn_query_mode": 3}, "gfn_query_mode 3"),
        ({"roi_head_score_thresh_test": "0.5; rm"}, "roi_head_score_thresh_test '0.5; rm'"),
        ({"gfn_mode": "separate"}, "say gfn_mode 'separate', but it holds a normalisation"),
        ({"gfn_activation_mode": "identity"}, "say gfn_activation_mode 'identity', but it holds a normalisation"),
        ({"det_score": "fcs"}, "say det_score 'fcs'; only 'scs'"),
    ],
)
def test_settings_in_a_file_that_cannot_be_are_refused(tmp_path: Path, held: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(written(tmp_path / "a.pth", {"model": released("gfn"), "config": held}))
    assert "\n" not in str(caught.value)


def with_rows(name: str, rows: int) -> dict[str, Tensor]:
    state = released(name)
    for key, value in state.items():
        if key.endswith((".lut", "classifier.weight")):
            state[key] = torch.zeros(()).expand(rows, value.shape[1])
    return state


@pytest.mark.parametrize(
    ("name", "rows", "words"),
    [
        ("oim", 5532, ["the reference implementation", "method oim", "features C5", "5532 identities (as CUHK-SYSU"]),
        ("seqnet", 5532, ["SeqNet (Li and Miao, AAAI 2021)", "re-ID features C4 C5", "5532 identities (as CUHK-SYSU"]),
        ("nae4ps", 482, ["NAE (Chen et al.", "482 identities (as PRW", "roi_heads.box_predictor.cls_score"]),
        ("coat", 483, ["COAT (Yu et al., CVPR 2022)", "483 identities (as PRW", "box_head_1st.conv0"]),
        ("oimnetpp", 20, ["OIMNet++ (Lee et al., ECCV 2022)", "20 identities;", "roi_heads.box_head.layer4"]),
        ("seqnext", 20, ["SeqNeXt (Jaffe and Zakhor, WACV 2023)", "method seqnext"]),
    ],
)  # fmt: skip
def test_it_is_said_what_a_file_was_taken_for(tmp_path: Path, name: str, rows: int, words: list[str]) -> None:
    found = open_checkpoint(written(tmp_path / "a.pth", with_rows(name, rows)))
    assert found.origin is not None
    line = found.origin.describe(found.model_config, found.num_identities)
    assert all(word in line for word in words), line
    assert "\n" not in line


@pytest.mark.parametrize("name", FOUND)
def test_a_missing_tensor_is_named_as_the_file_would_name_it(name: str) -> None:
    """Told from the tensors beside it; every seventh is tried."""
    state = released(name)
    layout = module_of(state)
    ours = {key: value for key, value in layout.names(state).items() if value is not None and "reid_loss" not in value}
    tried = list(dict.fromkeys(ours.values()))[::7]
    unnamed = 0
    for missing in tried:
        left = {key: value for key, value in state.items() if ours.get(key) != missing}
        if not layout.is_released(left):
            continue
        guess = origin_of(layout, left).name_in_file(missing)
        if guess == missing and guess not in state:
            unnamed += 1
            continue
        assert guess in state, (missing, guess)
        assert ours[guess] == missing
    assert unnamed < len(tried) / 10


def test_what_differs_is_named_as_in_the_file(tmp_path: Path) -> None:
    path, state = tmp_path / "a.pth", released("seqnet")
    theirs = "roi_heads.reid_head.layer4.2.conv3.weight"
    without = {key: value for key, value in state.items() if key != theirs}
    model = build_model(method_settings("seqnet", weights="none"), 20, load_weights=False)
    beginning = r"a\.pth' was taken for a checkpoint of SeqNet \(Li and Miao, AAAI 2021\) and does not fit .*"
    for wrong, message in (
        (without,
         r"it lacks 'roi_heads\.reid_head\.layer4\.2\.conv3\.weight' \(here 'top\.layer4\.2\.conv3\.weight'\), of "
         r"shape \(2048, 512, 1, 1\)"),
        (state | {theirs: torch.zeros(()).expand(2048, 99, 1, 1)},
         r"'roi_heads\.reid_head\.layer4\.2\.conv3\.weight' \(here 'top\.layer4\.2\.conv3\.weight'\) is "
         r"\(2048, 99, 1, 1\), the model wants \(2048, 512, 1, 1\)"),
        (state | {"backbone.layer9.weight": torch.zeros(3)},
         r"the model has no 'backbone\.layer9\.weight' \(here 'trunk\.layer9\.weight'\), which is \(3,\) in the file"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=beginning + message):
            load_model_state(model, open_checkpoint(written(path, {"model": wrong})), path)


def test_an_unknown_file_is_described_and_the_known_projects_listed(tmp_path: Path) -> None:
    for contents, message in (
        ({"state_dict": {f"encoder.{n}": torch.zeros(n, 2) for n in range(9)}},
         r"it has 9 tensors under 'state_dict', such as 'encoder\.0' \(0, 2\), .*'encoder\.4' \(4, 2\); known"),
        ({"net": {}, "step": 3}, r"it has 'net', 'step', but no dict of tensors, by itself or under 'model', "),
        ([torch.ones(2)], "it has a list, expected a dict of tensors"),
        ({}, "it is empty"),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match=message) as caught:
            open_checkpoint(written(tmp_path / "a.pth", contents))
        assert all(layout.PROJECT in str(caught.value) for layout in RELEASED)
        assert "\n" not in str(caught.value)


def test_the_layouts_do_not_take_each_others_files() -> None:
    for name in FOUND:
        module_of(released(name))
    assert module_of(released("gfn")) is released_seqnext
    assert module_of(released("coat")) is released_coat


TINY = method_settings("seqnet", backbone="resnet18", width=0.125, weights="none")


def test_our_format_keeps_how_the_published_numbers_were_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.pt"
    state = build_model(TINY, 3, load_weights=False).state_dict()
    save_checkpoint(path, Checkpoint(TINY, 3, state, evaluation=WEIGHTED))
    assert read_checkpoint(path).evaluation == load_stored(path).evaluation == WEIGHTED
    with caplog.at_level(logging.INFO):
        load_model(path)
    assert "checkpoint of" not in caplog.text
    torch.save({**read_tensors(path), "evaluation": {"cwss": True}}, path)
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        read_checkpoint(path)
    contents = read_tensors(path)
    del contents["evaluation"]
    torch.save(contents, path)
    assert read_checkpoint(path).evaluation == {}
