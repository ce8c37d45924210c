"""Files of version 0.1.0: config.yaml and checkpoints, as that version wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from pydantic import Field

from person_search.checkpoints.loading import load_stored
from person_search.config import (
    Config,
    MethodSettings,
    load_config,
    method_settings,
    migration,
    parse_config,
    to_builtins,
    to_yaml,
    with_settings,
)
from person_search.errors import CheckpointError, UsageError
from person_search.models.building import build_model
from person_search.registry import methods

WRITTEN = Path(__file__).parent / "written_by_0_1_0"
NAE = {
    "method": "nae", "reid_loss": "softmax", "dataset": "mot", "mot_split": "sequence", "mot_train_share": 0.25,
    "backbone": "resnet18", "width": 0.5, "weights": "none", "levels": ("C4", "C5"), "rpn_nms": 0.6,
    "roi_batch_per_image": 32, "score_threshold": 0.1, "cws": True, "shorter_side": (480, 600), "lr": 0.01,
    "keep_checkpoints": 3, "max_skipped_steps": 20,
}  # fmt: skip
"""What ``nae.yaml`` says and is of use, in flat names."""


@pytest.fixture(autouse=True)
def nothing_said_before() -> None:
    migration._warn.cache_clear()


def test_defaults_are_still_the_defaults(caplog: pytest.LogCaptureFixture) -> None:
    assert load_config(WRITTEN / "defaults.yaml") == Config()
    assert caplog.messages == []


def test_every_setting_finds_its_place_and_what_has_none_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = WRITTEN / "nae.yaml"
    config = load_config(path)
    assert config == with_settings(Config(), **NAE)
    assert sorted(caplog.messages) == [
        f"config '{path}': 'oim_scale: 20.0', which version 0.1.0 wrote for all, is of no effect here and left out. "
        "It is a setting of the re-ID loss 'loim' or 'oim' or 'oim-safe' or 'oim-sequential'.",
        f"config '{path}': 'pk_per_person: 2', which version 0.1.0 wrote for all, is of no effect here and left out. "
        "It is a setting of the method 'baseline'.",
    ]
    new = tmp_path / "config.yaml"
    new.write_text(to_yaml(config))
    assert load_config(new) == config


def test_the_table_holds_what_the_version_wrote() -> None:
    defaults = yaml.safe_load((WRITTEN / "defaults.yaml").read_text())
    still = {"method", "levels", "box_loss_weight"}
    old = to_builtins(migration.OLD_MODEL_SETTINGS)
    assert {key: value for key, value in defaults["model"].items() if key not in still} == old
    assert {key: defaults["data"][key] for key in migration.OLD_DATA_SETTINGS} == migration.OLD_DATA_SETTINGS


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("model: {backbone: resnet18, width: 0.5}", {"backbone": "resnet18", "width": 0.5}),
        ("model: {reid_loss: softmax, reid_loss_weight: 1}", {"reid_loss": "softmax", "reid_loss_weight": 1.0}),
        ("model: {method: nae, anchor_sizes: null, box_loss_weight: null, freeze: null}", {"method": "nae"}),
        ("model: {rpn_nms: 0.6, rois: {size: [7, 7]}}", {"rpn_nms": 0.6, "roi_size": (7, 7)}),
        ("{model: {cws: true}, evaluation: {cbgm: true}}", {"cws": True, "cbgm": True}),
        ("{model: {cws: true}, evaluation: {cws: false}}", {}),
    ],
)
def test_what_a_person_wrote_for_that_version_is_read(text: str, settings: dict[str, Any]) -> None:
    assert parse_config(yaml.safe_load(text), "here") == with_settings(Config(), **settings)


@pytest.mark.parametrize("value", ["true", "false"])
def test_what_a_person_wrote_for_another_method_is_refused(value: str) -> None:
    with pytest.raises(UsageError, match=r"here: 'model\.pk_sampling' is of no effect.* of the method 'baseline'"):
        parse_config(yaml.safe_load(f"model: {{method: oim, pk_sampling: {value}}}"), "here")


def test_a_malformed_evaluation_is_not_lost_beside_an_old_cws() -> None:
    with pytest.raises(UsageError, match="evaluation"):
        parse_config({"model": {"cws": True}, "evaluation": [1]}, "here")


def test_none_of_a_plug_ins_own_setting_stays_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class FreezeSettings(MethodSettings):
        freeze: str | None = Field("conv1", description="what stays as it is")

    class Method:
        Settings = FreezeSettings

    monkeypatch.setitem(methods._registered, "with-freeze", Method)
    config = with_settings(Config(), method="with-freeze", freeze=None)
    assert parse_config(yaml.safe_load(to_yaml(config)), "here") == config


def test_a_file_over_a_runs_settings_may_be_old(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("model: {rpn_nms: 0.6, oim_scale: 20}")
    own = with_settings(Config(), method="nae", rpn_fg_iou=0.8)
    assert load_config(path, over=own) == with_settings(own, rpn_nms=0.6, oim_scale=20.0)


def test_the_old_place_and_the_new_one_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match=r"'model\.rpn' is given as a section and, as version 0\.1\.0 had it"):
        parse_config({"model": {"rpn_nms": 0.6, "rpn": {"fg_iou": 0.8}}}, "here")


def test_values_are_checked_in_their_new_place() -> None:
    with pytest.raises(UsageError, match=r"here: model\.rpn\.nms: Input should be less than or equal to 1, found 3"):
        parse_config({"model": {"rpn_nms": 3}}, "here")


def old_checkpoint(path: Path, **changes: Any) -> dict[str, Any]:
    """A checkpoint as version 0.1.0 wrote it, of a tiny model."""
    settings = yaml.safe_load((WRITTEN / "nae.yaml").read_text())["model"]
    settings |= {"width": 0.125, "cws": False, "pk_per_person": 4, "oim_scale": 30.0} | changes
    torch.manual_seed(0)
    config = method_settings(
        "nae", **{key: NAE[key] for key in ("backbone", "weights", "levels", "reid_loss")}, width=0.125
    )
    contents = {
        "format": "person-search checkpoint",
        "version": 1,
        "model_config": settings,
        "num_identities": 3,
        "model": build_model(config, 3).state_dict(),
        "training": None,
    }
    torch.save(contents, path)
    return contents


def test_a_checkpoint_opens_and_detects(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.pt"
    contents = old_checkpoint(path)
    stored = load_stored(path, score_threshold=0.0)
    assert caplog.messages == []
    wanted = {key: NAE[key] for key in NAE if key in ("reid_loss", "backbone", "weights", "levels", "rpn_nms")}
    assert stored.config == method_settings(
        "nae", **wanted, width=0.125, roi_batch_per_image=32, score_threshold=0.1, shorter_side=(480, 600)
    )
    for name, value in stored.model.state_dict().items():
        assert torch.equal(value, contents["model"][name]), name
    assert stored.model([torch.rand(3, 60, 80)])


def test_a_checkpoint_says_what_became_of_its_settings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "last.pt"
    old_checkpoint(path, cws=True, pk_per_person=9)
    load_stored(path)
    said = "\n".join(caplog.messages)
    assert "its 'cws' of version 0.1.0 is a setting of the evaluation now: set `cws` there" in said
    assert "'pk_per_person: 9', which version 0.1.0 wrote for all, is of no effect here" in said


def test_a_checkpoint_with_settings_of_nobody_is_refused(tmp_path: Path) -> None:
    old_checkpoint(tmp_path / "last.pt", depth=3)
    with pytest.raises(CheckpointError, match=r"cannot read all settings of checkpoint .*unknown key 'model\.depth'"):
        load_stored(tmp_path / "last.pt")
