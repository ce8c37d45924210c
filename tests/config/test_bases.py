"""A configuration file that builds on another one: ``base`` names it, and the file says what differs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from person_search.config import Config, load_config, to_yaml, with_settings
from person_search.errors import UsageError

BASELINE_LINE = {"flavour": "caffe", "weights": "weights/resnet50_caffe.pth"}
SEQNET_LINE = {
    "flip_at_random": True,
    "all_images": True,
    "weight_decay": 5e-4,
    "clip_grad": 10,
    "warmup_mode": "linear-from-factor",
    "warmup_factor": 1e-3,
    "lr_decay_epochs": 15,
    "cws": True,
}
"""What the methods have in common that the code of SeqNet, or what that is made from, trains."""
OIMNETPP = {"max_epochs": 20, "decay_biases": True, "precision": "16", "cws": False}
SEQNEXT = {
    "decay_biases": True,
    "max_epochs": 30,
    "lr_decay_epochs": (14, 24),
    "warmup_steps": 1001,
    "precision": "16",
    "crop_side": 640,
    "crop_canvas": 3,
    "crop_padding": "black",
    "crop_grow": True,
    "crop_min_area": 0.6,
}
SEQNEXT_OF = {
    "convnext_base": {"batch_size": 8, "optimizer": "adam", "lr": 1e-4, "weight_decay": 0},
    "resnet50": {"batch_size": 12, "backbone": "resnet50"},
}
OWN = {
    "seqnet_cuhk-sysu": {"max_epochs": 20, "decay_biases": True},
    "seqnet_prw": {"max_epochs": 18, "decay_biases": True},
    "oimnet++_cuhk-sysu": OIMNETPP,
    "oimnet++_prw": OIMNETPP | {"unlabelled_ids": ("483", "932")},
    "oimnet+++_cuhk-sysu": OIMNETPP,
    "oimnet+++_prw": OIMNETPP | {"unlabelled_ids": ("483", "932")},
    "seqnext_cuhk-sysu": SEQNEXT | SEQNEXT_OF["convnext_base"],
    "seqnext_prw": SEQNEXT | SEQNEXT_OF["convnext_base"],
    "seqnext_cuhk-sysu_resnet50": SEQNEXT | SEQNEXT_OF["resnet50"],
    "seqnext_prw_resnet50": SEQNEXT | SEQNEXT_OF["resnet50"],
    "seqnext_cuhk-sysu_gfn": SEQNEXT | SEQNEXT_OF["convnext_base"] | {"gfn": True, "gfn_scores": True},
    "seqnext_prw_gfn": SEQNEXT | SEQNEXT_OF["convnext_base"] | {"gfn": True, "gfn_scores": True},
    "nae4ps_cuhk-sysu": {"max_epochs": 22},
    "nae4ps_prw": {"max_epochs": 22},
    "nae-plus_cuhk-sysu": {"max_epochs": 11, "lr_decay_epochs": 7, "init_from": "runs/nae4ps_cuhk-sysu"},
    "nae-plus_prw": {"max_epochs": 11, "lr_decay_epochs": 7, "init_from": "runs/nae4ps_prw"},
}
COAT = {"decay_biases": True, "seed": 1}
OWN |= {
    "coat_cuhk-sysu": COAT | {"batch_size": 4, "max_epochs": 14, "lr_decay_epochs": 10},
    "coat_prw": COAT | {"batch_size": 3, "max_epochs": 13, "lr_decay_epochs": (9, 13), "softmax_weight": 0.5},
}
RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)


def test_a_file_says_only_what_differs_from_its_base(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="model: {rpn: {nms: 0.6, fg_iou: 0.8}}\ntraining: {lr: 0.5, batch_size: 3}",
        second="base: first.yaml\nmodel: {rpn: {fg_iou: 0.9}}",
        third="base: second.yaml\ntraining: {lr: 0.25}",
    )
    expected = with_settings(Config(), rpn_nms=0.6, rpn_fg_iou=0.9, lr=0.25, batch_size=3)
    assert load_config(tmp_path / "third.yaml") == expected


def test_a_base_is_looked_for_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "published", base="base: ../shared/all.yaml\ntraining: {batch_size: 3}")
    write(tmp_path / "shared", all="training: {lr: 0.5}")
    write(tmp_path, mine=f"base: published/base.yaml\ndata: {{data_root: '{tmp_path / 'data'}'}}")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    expected = with_settings(Config(), lr=0.5, batch_size=3, data_root=tmp_path / "data")
    assert load_config("../mine.yaml") == load_config(tmp_path / "mine.yaml") == expected
    (elsewhere / "absolute.yaml").write_text(f"base: {tmp_path / 'mine.yaml'}")
    assert load_config("absolute.yaml") == expected


def test_another_method_leaves_what_it_does_not_have_of_its_base(tmp_path: Path) -> None:
    write(
        tmp_path,
        first="model: {method: baseline, pk: {per_person: 2}, rpn: {nms: 0.6}}",
        second="base: first.yaml\nmodel: {method: nae}",
    )
    assert load_config(tmp_path / "second.yaml") == with_settings(Config(), method="nae", rpn_nms=0.6)


def test_base_and_file_both_go_over_the_settings_of_a_run(tmp_path: Path) -> None:
    write(tmp_path, first="training: {lr: 0.5, seed: 3}", second="base: first.yaml\ntraining: {lr: 0.25}")
    run = with_settings(Config(), lr=1.0, seed=1, batch_size=7)
    expected = with_settings(run, lr=0.25, seed=3)
    assert load_config(tmp_path / "second.yaml", over=run) == expected


def test_what_a_run_folder_holds_needs_no_base(tmp_path: Path) -> None:
    write(tmp_path, first="training: {lr: 0.5}", second="base: first.yaml\ntraining: {seed: 3}")
    config = load_config(tmp_path / "second.yaml")
    tree = yaml.safe_load(to_yaml(config))
    assert "base" not in tree
    assert tree["training"]["lr"] == 0.5
    write(tmp_path / "run", config=to_yaml(config))
    assert load_config(tmp_path / "run" / "config.yaml") == config


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("base: second.yaml", "base: first.yaml", "'{0}' builds on itself: {0} -> {1} -> {0}; take 'base' out of one"),
        ("base: ./first.yaml", "", "'{0}' builds on itself: {0} -> {0}; take 'base' out of one"),
        ("base: third.yaml", "", "cannot read config '{2}', the base of '{0}': No such file or directory"),
        ("base: 3", "", "'{0}': base: expected the name of a YAML file, found 3"),
        ("base:", "", "'{0}': base: expected the name of a YAML file, found None"),
        ("base: [second.yaml]", "", "'{0}': base: expected the name of a YAML file, found ['second.yaml']"),
        ("base: second.yaml", "training: [", "config '{1}', the base of '{0}' is not valid YAML at line 1"),
        ("base: second.yaml", "training: {lrr: 1}", "config '{1}': unknown key 'training.lrr'. Did you mean 'lr'?"),
        ("base: second.yaml\ntraining: {lrr: 1}", "", "config '{0}': unknown key 'training.lrr'. Did you mean 'lr'?"),
        ("training:\n  lr: 1\n  lr: 2", "", "config '{0}' is not valid YAML at line 3: the key 'lr' is there twice"),
        ("training: {base: second.yaml}", "", "config '{0}': unknown key 'training.base'."),
    ],
)
def test_a_base_that_cannot_be_is_refused(tmp_path: Path, first: str, second: str, message: str) -> None:
    write(tmp_path, first=first, second=second)
    names = [tmp_path / f"{name}.yaml" for name in ("first", "second", "third")]
    with pytest.raises(UsageError, match=re.escape(message.format(*names))) as raised:
        load_config(names[0])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_what_its_name_says(recipe: Path) -> None:
    config = load_config(recipe)
    assert config.training.run_dir == Path("runs", recipe.stem)
    if recipe.stem == "demo":
        return
    method, dataset, *more = recipe.stem.split("_")
    assert (config.model.method, config.data.dataset) == (method, dataset)
    expected = with_settings(
        Config(),
        data_root="data",
        dataset=dataset,
        workers=4,
        method=method,
        run_dir=f"runs/{recipe.stem}",
        **(BASELINE_LINE if method in ("baseline", "oim", "nae") else SEQNET_LINE | OWN[recipe.stem]),
        **({"shorter_side": 900, "longer_side": 1500} if more == ["900x1500"] else {}),
        **({} if method == "baseline" else {"uni_optim": True}),
    )
    assert config == expected
