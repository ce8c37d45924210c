"""Settings belong to what they set: which there are is a matter of the method, the loss, the backbone, the dataset."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import Field, SerializeAsAny

from person_search import registry
from person_search.commandline import cli, commands
from person_search.config import (
    Config,
    DataConfig,
    load_config,
    method_settings,
    override,
    parse_config,
    to_yaml,
    with_settings,
)
from person_search.config.sections import Section, differences, flat, leaves
from person_search.data.settings import MotSettings
from person_search.errors import UsageError
from person_search.models.settings import (
    LossSettings,
    OimLossSettings,
    ResNetSettings,
    RpnSettings,
    TwoStageSettings,
)


def model_of(text: str) -> TwoStageSettings:
    model = parse_config({"model": yaml.safe_load(text)}, "here").model
    assert isinstance(model, TwoStageSettings)
    return model


@pytest.mark.parametrize(
    ("method", "sizes", "weight", "freeze"),
    [
        ("baseline", (8, 16, 32), 1.0, None),
        ("oim", (8, 16, 32), 1.0, False),
        ("nae", (32, 64, 128, 256, 512), 10.0, False),
    ],
)
def test_a_method_has_its_published_defaults(
    method: str, sizes: tuple[float, ...], weight: float, freeze: bool | None
) -> None:
    model = model_of(f"{{method: {method}}}")
    assert (model.rpn.anchor_sizes, model.box_loss_weight, model.backbone.freeze) == (sizes, weight, freeze)


@pytest.mark.parametrize("kind", ["methods", "datasets", "losses", "backbones"])
def test_what_is_built_in_names_the_settings_that_its_class_has(kind: str) -> None:
    names = getattr(registry, kind)
    for name in names.names():
        assert getattr(names.get(name), "Settings", None) is names.settings(name), name


def test_a_section_in_part_leaves_the_methods_own_defaults() -> None:
    model = model_of("{method: nae, rpn: {nms: 0.6}, loss: {scale: 20}, backbone: {width: 0.5}}")
    assert model.rpn == RpnSettings(anchor_sizes=(32, 64, 128, 256, 512), nms=0.6)
    assert model.loss == OimLossSettings(scale=20)
    assert model_of("{backbone: {width: 0.5}}").backbone == ResNetSettings(width=0.5, freeze=None)


def test_another_kind_keeps_what_all_kinds_have() -> None:
    class OtherSettings(TwoStageSettings):
        loss: SerializeAsAny[LossSettings] = OimLossSettings(weight=2.0, scale=20)

    assert OtherSettings(method="x", loss={"name": "softmax"}).loss == LossSettings(name="softmax", weight=2.0)
    assert OtherSettings(method="x", loss={"momentum": 0.1}).loss == OimLossSettings(weight=2, scale=20, momentum=0.1)
    frozen = method_settings("baseline", backbone="convnext_tiny").backbone
    assert (frozen.name, frozen.freeze) == ("convnext_tiny", None)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("model: {method: nea}", "here: model: unknown method 'nea'; known: .*Did you mean 'nae'"),
        ("model: {loss: {name: oin}}", "here: model.loss: unknown re-ID loss 'oin'.*Did you mean 'oim'"),
        ("data: {dataset: prv}", "here: data: unknown dataset 'prv'.*Did you mean 'prw'"),
        (
            "model: {backbone: {name: resnet5}}",
            "unknown backbone 'resnet5'.*Did you mean 'resnet50'",
        ),
        ("model: {method: nae, pk: {}}", "unknown key 'model.pk'. It is a setting of the method 'baseline'."),
        (
            "model: {loss: {name: softmax, scale: 3}}",
            "'model.loss.scale'. It is a setting of the re-ID loss",
        ),
        ("data: {mot_split: time}", "unknown key 'data.mot_split'. It is a setting of the dataset 'mot'."),
        (
            "model: {backbone: {name: convnext_tiny, flavour: caffe}}",
            "'model.backbone.flavour'.*'resnet101'",
        ),
        ("model: {rpn: {nsm: 0.5}}", "unknown key 'model.rpn.nsm'. Did you mean 'nms'"),
        ("model: {rpn: {lr: 1}}", r"unknown key 'model.rpn.lr'. \(it belongs under 'training:'\)"),
        ("model: {rois: {nms: 1}}", r"unknown key 'model.rois.nms'. \(it belongs under 'model.rpn:'\)"),
        ("training: {rpn_nms: 1}", r"unknown key 'training.rpn_nms'. \(it belongs under 'model.rpn:' as nms\)"),
        ("model: {rpn: {nms: 3}}", "here: model.rpn.nms: Input should be less than or equal to 1, found 3"),
        ("model: {rpn: {bg_iou: 0.8}}", "here: model.rpn: rpn_bg_iou 0.8 exceeds rpn_fg_iou 0.7"),
        ("model: {rois: {bg_iou: 0.8}}", "here: model.rois: roi_bg_iou 0.8 exceeds roi_fg_iou 0.5"),
        ("model: {rpn: 3}", "here: model.rpn: "),
        ("training: {lr: .inf}", "here: training.lr: Input should be a finite number, found inf"),
        ("training: {lr: true}", "here: training.lr: expected a number, found True"),
        ("training: {max_steps: false}", "here: training.max_steps: expected a number, found False"),
        (
            "evaluation: {gallery_size: [50, true]}",
            r"evaluation.gallery_size: expected a number, found \[50, True\]",
        ),
        ("model: {method: [nae]}", "here: model.method: "),
    ],
)
def test_a_wrong_key_or_name_is_answered_with_whose_or_the_nearest(tree: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_config(yaml.safe_load(tree), "here")


def test_flat_names_and_the_tree_say_the_same(tmp_path: Path) -> None:
    config = with_settings(
        Config(), method="nae", backbone="convnext_tiny", reid_loss="softmax", dataset="mot", rpn_nms=0.6, width=0.5,
        mot_min_gap=2.0, roi_size=(7, 7), reid_loss_weight=1.5, max_detections=9, lr=0.1,
    )  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config
    tree = yaml.safe_load(to_yaml(config))
    assert tree["model"]["rpn"]["nms"] == 0.6
    assert tree["model"]["loss"] == {"name": "softmax", "weight": 1.5}
    assert tree["data"]["mot_min_gap"] == 2.0
    changed = differences(config, Config())
    assert changed == {
        "method": "nae", "backbone": "convnext_tiny", "reid_loss": "softmax", "dataset": "mot", "rpn_nms": 0.6,
        "width": 0.5, "mot_min_gap": 2.0, "roi_size": (7, 7), "reid_loss_weight": 1.5, "max_detections": 9, "lr": 0.1,
    }  # fmt: skip
    assert with_settings(Config(), **changed) == config
    assert with_settings(Config(), **flat(config)) == config


def test_every_setting_is_described() -> None:
    for method in registry.methods.names():
        for dataset in registry.datasets.names():
            config = with_settings(Config(), method=method, dataset=dataset)
            assert [leaf.name for leaf in leaves(config) if not leaf.description] == []


def test_what_was_changed_goes_along_to_another_method_and_its_defaults_do_not() -> None:
    before = with_settings(Config(), rpn_nms=0.6, pk_per_person=2, reid_loss="softmax")
    after = with_settings(before, method="nae")
    assert after == with_settings(Config(), method="nae", rpn_nms=0.6, reid_loss="softmax")
    assert with_settings(after, method="baseline") == with_settings(Config(), rpn_nms=0.6, reid_loss="softmax")
    for name, value in (("pk_per_person", 2), ("oim_scale", 3.0), ("mot_split", "time")):
        with pytest.raises(UsageError, match=f"unknown setting '{name}'. It is a setting of the "):
            with_settings(after, **{name: value})


def test_a_file_over_other_settings_chooses_first(tmp_path: Path) -> None:
    own = with_settings(Config(), method="oim", rpn_nms=0.6, oim_scale=20.0, dataset="mot", mot_min_gap=1.0)
    path = tmp_path / "more.yaml"
    path.write_text("model: {method: nae, rpn: {fg_iou: 0.8}, loss: {weight: 2}}\ntraining: {lr: 0.003}")
    expected = {"method": "nae", "rpn_fg_iou": 0.8, "reid_loss_weight": 2.0}
    assert load_config(path, over=with_settings(own, lr=0.5)) == with_settings(own, **expected)
    path.write_text("model: {rpn: {nms: 0.7}}")
    assert load_config(path, over=own) == with_settings(own, rpn_nms=0.7)


def test_flipping_at_random_without_flipping_is_refused() -> None:
    with pytest.raises(UsageError, match=r"flip_at_random says how .* with flip off none is"):
        with_settings(Config(), flip=False, flip_at_random=True)


def test_two_settings_of_one_flat_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class More(Section):
        prefix = "rpn_"
        nms: float = Field(0.5, description="another one")

    class MineSettings(TwoStageSettings):
        more: More = More()

    class Mine:
        Settings = MineSettings

    monkeypatch.setitem(registry.methods._registered, "mine", Mine)
    with pytest.raises(UsageError, match=r"model\.rpn\.nms and model\.more\.nms are both called 'rpn_nms'"):
        with_settings(Config(), method="mine")


def test_a_plug_in_without_settings_of_its_own_has_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.losses._registered, "plain", type("Plain", (), {}))
    monkeypatch.setitem(registry.datasets._registered, "plain", type("Plain", (), {}))
    config = with_settings(Config(), reid_loss="plain", dataset="plain")
    assert flat(config.model)["reid_loss"] == "plain"
    assert type(config.data) is DataConfig


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[Config, str]:
    assert cli.run(["train", *words, "--print-config"], cli.dispatch) == 0
    out, error = capsys.readouterr()
    return parse_config(yaml.safe_load(out), "printed"), error


def test_flags_are_those_of_what_is_chosen_wherever_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    config, _ = printed(capsys, "--mot-min-gap", "2", "--width=0.5", "--dataset", "mot", "--backbone", "convnext_tiny")
    assert isinstance(config.data, MotSettings)
    assert config == with_settings(Config(), dataset="mot", mot_min_gap=2.0, backbone="convnext_tiny", width=0.5)
    config, _ = printed(capsys, "--pk-per-person", "2", "--method", "baseline")
    assert flat(config)["pk_per_person"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--method", "nae", "--pk-per-person", "2"],
            "'--pk-per-person'. It is a setting of the method",
        ),
        (
            ["--reid-loss", "softmax", "--oim-scale=2"],
            "'--oim-scale=2'. It is a setting of the re-ID loss",
        ),
        (["--method", "oim", "--no-pk-sampling"], "It is a setting of the method 'baseline'"),
        (["--method", "nea"], "Did you mean 'nae'"),
        (["--dataset"], "--dataset needs a value"),
    ],
)
def test_a_flag_of_what_is_not_chosen_says_whose_it_is(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert cli.run(["train", *words], cli.dispatch) == 2
    assert message in capsys.readouterr().err


def test_help_shows_the_settings_of_the_method_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(*words: str) -> str:
        with pytest.raises(SystemExit):
            cli.dispatch(["train", *words, "--help"])
        return capsys.readouterr().out

    assert "--pk-per-person" in shown()
    nae = shown("--method", "nae")
    assert "--pk-per-person" not in nae
    assert "512.0" in nae


def test_a_checkpoint_alone_takes_the_test_settings_of_any_method(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []
    monkeypatch.setattr(commands, "run_prediction", lambda *_, overrides, **__: given.append(overrides))
    words = ["predict", "--checkpoint", str(tmp_path / "alone.pt"), "--first-nms-threshold", "0.3"]
    assert cli.run(words, cli.dispatch) == 0
    assert given == [{"first_nms_threshold": 0.3}]
    with pytest.raises(UsageError, match=r"'first_nms_threshold'\. It is a setting of the method .*'seqnet'"):
        override(Config().model, given[0])
    (tmp_path / "config.yaml").write_text(to_yaml(with_settings(Config(), method="nae")))
    assert cli.run(words, cli.dispatch) == 2
    told = capsys.readouterr().err
    assert "'--first-nms-threshold'. It is a setting of the method " in told
    assert "'seqnet'" in told


def test_what_another_method_does_not_have_is_left_out_of_a_config_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(with_settings(Config(), pk_per_person=7, rpn_nms=0.6)))
    config, _ = printed(capsys, "--config", str(path), "--method", "oim")
    assert config == with_settings(Config(), method="oim", rpn_nms=0.6)
    (line,) = caplog.messages
    assert line == "'pk_per_person: 7' of the configuration is left out. It is a setting of the method 'baseline'."


def test_settings_are_read_without_the_network_library(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(with_settings(Config(), method="nae", reid_loss="softmax", backbone="convnext_tiny")))
    program = (
        "import sys\nfrom pathlib import Path\nfrom person_search.config import load_config\n"
        f"load_config(Path({str(path)!r}))\n"
        "assert not {'torch', 'timm', 'numpy'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(UsageError, match=r"best\.pt' is not YAML"):
        load_config(tmp_path / "best.pt")


def test_a_section_is_no_setting() -> None:
    with pytest.raises(UsageError, match="'model' is a section of settings"):
        with_settings(Config(), model={"method": "nae"})
