"""Every layout that can be written, through the commands: made, trained on, predicted and scored by its protocols."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from person_search.commandline import cli
from person_search.evaluation.predictions import Predictions

pytestmark = pytest.mark.slow

MODEL = (
    "--backbone resnet18 --width 0.125 --weights none --shorter-side 96 --longer-side 128 --anchor-sizes 20 40 "
    "--anchor-ratios 3 --rpn-post-nms-test 30 --score-threshold 0 --device cpu --workers 0"
)
LOADERS = {
    "synthetic": ("coco", ""),
    "coco": ("coco", ""),
    "mot": ("mot", "--mot-train-share 0.8 --mot-min-gap 1"),
    "cuhk-sysu": ("cuhk-sysu", ""),
    "prw": ("prw", ""),
}
"""Loader -> the layout it reads and what it needs to know about so small a set."""

PROTOCOLS = {
    "synthetic": {"": ["all scenes"], "--cross-camera": ["cross-camera"]},
    "coco": {"": ["all scenes"], "--cross-camera": ["cross-camera"]},
    "mot": {"": ["at least 1 s apart"], "--cross-camera": ["at least 1 s apart, cross-camera"]},
    "cuhk-sysu": {"--gallery-size 50": ["gallery 50"], "--gallery-size 50 -1": ["gallery 50", "whole set"]},
    "prw": {"": ["all scenes"], "--cross-camera": ["cross-camera"]},
}


def run(options: str) -> None:
    assert cli.run(options.split(), cli.dispatch) == 0, options


def scored(options: str, out: Path) -> dict[str, Any]:
    run(f"score --json {out} {options}")
    results: dict[str, Any] = json.loads(out.read_text())
    return results


@pytest.mark.parametrize("loader", LOADERS)
def test_from_pictures_to_numbers(loader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    layout, options = LOADERS[loader]
    run(f"synth --layout {layout} --identities 12 --scenes 40 --cameras 2 --width 320 --height 240 --out {tmp_path}/d")
    data = f"--dataset {loader} --data-root {tmp_path}/d {options}"
    training = f"--run-dir {tmp_path}/run --batch-size 2 --max-steps 3 --validate-every 0"
    run(f"train {data} {MODEL} {training}")
    predict = f"predict --checkpoint {tmp_path}/run --device cpu"
    run(f"{predict} --predictions {tmp_path}/found.npz")
    run(f"{predict} --predictions {tmp_path}/true.npz --use-gt-boxes --cbgm")

    found, true = (Predictions.load(tmp_path / name) for name in ("found.npz", "true.npz"))
    assert found.scene_names.tolist() == true.scene_names.tolist()
    assert len(found) > 0
    assert len(found.query_embeddings) == len(true.query_embeddings) > 0
    for extra, names in PROTOCOLS[loader].items():
        results = scored(f"{data} {extra} --predictions {tmp_path}/found.npz", tmp_path / "found.json")
        assert [search["protocol"] for search in results["search"]] == names
        assert results["dataset"] == loader
        assert len(results["queries"]) == len(found.query_embeddings)
        assert results["scenes"] == len(found.scene_names)
        # On true boxes everybody is found in every gallery scene that the protocol says they are in.
        best = scored(f"{data} {extra} --cbgm --predictions {tmp_path}/true.npz", tmp_path / "true.json")
        assert best["detection"]["all"]["recall"] == 1
        assert [search["recall"] for search in best["search"]] == [1] * len(names)
        assert all(search["queries"] > 0 for search in best["search"])


def test_prw_mini_asks_fewer_queries_in_the_same_galleries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(f"synth --layout prw --identities 24 --scenes 40 --cameras 2 --width 160 --height 120 --out {tmp_path}/d")
    data = f"--dataset prw --data-root {tmp_path}/d"
    run(f"train {data} {MODEL} --run-dir {tmp_path}/run --batch-size 2 --max-steps 1 --validate-every 0")
    asked = {}
    for queries in ("standard", "mini"):
        file = tmp_path / f"{queries}.npz"
        run(f"predict --checkpoint {tmp_path}/run --device cpu --queries {queries} --predictions {file}")
        results = scored(f"{data} --queries {queries} --predictions {file}", tmp_path / "results.json")
        asked[queries] = {(query["scene"], tuple(query["box"])) for query in results["queries"]}
    assert asked["mini"] < asked["standard"]
    capsys.readouterr()
    wrong = f"score {data} --queries mini --predictions {tmp_path}/standard.npz"
    assert cli.run(wrong.split(), cli.dispatch) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds {len(asked['standard'])} queries, prw test has {len(asked['mini'])}" in line
