"""The commands one after the other, on a tiny synthetic dataset, as a new user would run them.

Making the data, training and the installed wheel are programs of their own; the others are forked, which takes a
fraction of the time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

import person_search as package
from forked import run_forked
from person_search import UsageError, evaluate, load_config
from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint
from person_search.commandline import cli
from person_search.config import method_settings
from person_search.evaluation.files import evaluations_of
from person_search.evaluation.predictions import Predictions
from person_search.models.building import build_model

pytestmark = pytest.mark.slow

TINY = {
    "backbone": "resnet18",
    "width": 0.125,
    "weights": "none",
    "shorter_side": (96,),
    "longer_side": 128,
    "anchor_sizes": (20.0, 40.0),
    "anchor_ratios": (3.0,),
    "rpn_post_nms_test": 20,
    "score_threshold": 0.0,
}


MODULE = (sys.executable, "-m", "person_search")


def person_search(*arguments, check=True, program=None, cwd=None):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    words = [*map(str, arguments)]
    if program is None:
        found = run_forked(cli.main, argv=words, environment=environment, cwd=cwd)
    else:
        found = subprocess.run([*program, *words], capture_output=True, text=True, env=environment, cwd=cwd)
    if check:
        assert found.returncode == 0, found.stdout + found.stderr
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "synthetic"
    options = ["--identities", 12, "--scenes", 30, "--cameras", 2, "--width", 320, "--height", 240, "--out", out]
    person_search("synth", *options, program=MODULE)
    assert "kept" in person_search("synth", *options).stdout
    return out


@pytest.fixture(scope="module")
def run_dir(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    flags = []
    for key, value in TINY.items():
        flags += [f"--{key}", *(value if isinstance(value, tuple) else (value,))]
    person_search(
        "train", "--data-root", dataset, "--run-dir", folder, *flags,
        "--batch-size", 4, "--max-epochs", 1, "--workers", 0, "--log-every", 2, "--display",
        program=MODULE,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def evaluated(run_dir):
    return person_search("evaluate", "--checkpoint", run_dir, "--search-threshold", 0, "--references").stdout


@pytest.fixture(scope="module")
def evaluation(evaluated, run_dir):
    (only,), _ = evaluations_of(run_dir)
    return only.folder


def test_training_leaves_a_complete_run_folder(run_dir):
    names = {path.name for path in run_dir.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "last.pt", "best.pt", "epoch-001.pt"} <= names
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert any("loss/reid" in row for row in rows)
    assert any("val/detection_ap" in row for row in rows)
    assert any(path.name.startswith("events.out") for path in run_dir.rglob("*"))


def test_evaluation_writes_predictions_and_results_and_prints_the_reference_rows(evaluated, evaluation):
    assert "untrained, true boxes" in evaluated
    assert "random, true boxes" in evaluated
    results = json.loads((evaluation / "results.json").read_text())
    assert results["scenes"] == len(Predictions.load(evaluation / "predictions.npz").scene_names)
    assert len(results["queries"]) == results["search"][0]["queries"] + results["search"][0]["left_out"]
    assert all(len(query["top"]) <= 10 for query in results["queries"])


def test_predict_then_score_equals_evaluate(evaluation, run_dir, dataset, tmp_path):
    file, results = tmp_path / "predictions.npz", tmp_path / "results.json"
    person_search("predict", "--checkpoint", run_dir, "--predictions", file)
    person_search(
        "score", "--data-root", dataset, "--predictions", file, "--json", results, "--search-threshold", 0,
        "--per-query", tmp_path / "queries.csv",
    )  # fmt: skip
    scored, ours = (json.loads(path.read_text()) for path in (results, evaluation / "results.json"))
    # Notes name the file that was scored.
    assert len(scored.pop("notes")) == len(ours.pop("notes"))
    assert scored == ours
    assert len((tmp_path / "queries.csv").read_text().splitlines()) == 1 + len(Predictions.load(file).query_embeddings)


def test_scoring_needs_no_images(evaluation, dataset, tmp_path):
    bare = tmp_path / "annotations-only"
    shutil.copytree(dataset, bare, ignore=shutil.ignore_patterns("*.jpg"))
    scored = person_search("score", "--data-root", bare, "--predictions", evaluation / "predictions.npz")
    assert "mAP" in scored.stdout


def test_ground_truth_boxes_find_everybody(run_dir, tmp_path):
    person_search("evaluate", "--checkpoint", run_dir, "--use-gt-boxes", "--out", tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["detection"]["all"]["recall"] == 1
    assert results["search"][0]["recall"] == 1


def test_the_report_opens_from_disk(evaluated, run_dir, tmp_path):
    person_search("report", "--run-dir", run_dir, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert "http://" not in page
    assert "https://" not in page
    pictures = [
        word.split('"')[1] for word in page.split() if word.startswith('src="') and not word[5:].startswith("data:")
    ]
    assert pictures
    assert all((tmp_path / "report" / picture).is_file() for picture in pictures)


def test_a_checkpoint_by_itself_is_evaluated_and_reported(run_dir, dataset, tmp_path):
    shutil.copy(run_dir / "best.pt", tmp_path / "weights.pt")
    person_search("evaluate", "--checkpoint", tmp_path / "weights.pt", "--data-root", dataset)
    person_search("report", "--run-dir", tmp_path, "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text()
    assert 'id="scenes"' in page
    assert 'id="proposals"' in page


def readme_example(word, changes):
    """The first block of Python code in README.md that ``word`` is in, with ``changes`` made."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    example = next(block for part in readme.split("```python\n")[1:] if word in (block := part.split("```")[0]))
    for old, new in changes.items():
        example = example.replace(old, str(new))
    return example


def run_example(code, **options):
    """What ``code`` prints as a program of its own."""
    found = run_forked(exec, code, {"__name__": "__main__"}, **options)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_the_readme_example_runs(run_dir, dataset):
    changes = {"runs/first": run_dir, "score_threshold=0.5": "score_threshold=0.0", "data/synthetic": dataset}
    example = readme_example("hits", changes)
    hits = eval(run_example(example))
    assert len(hits) > 1
    assert hits == sorted(hits, reverse=True)


def test_the_readme_example_of_a_stream_runs(run_dir, dataset):
    example = readme_example("detections_of", {"runs/first": run_dir, "data/synthetic": dataset})
    names = [line.split()[0] for line in run_example(example).splitlines()]
    assert names == sorted(path.name for path in (dataset / "images" / "c1").glob("*.jpg"))


def test_the_readme_example_of_training_runs(run_dir, tmp_path):
    example = readme_example("train(config)", {"recipes/demo.yaml": run_dir / "config.yaml", "seed=1": "max_steps=2"})
    name, average, _ = run_example(example, cwd=tmp_path).splitlines()[-1].rsplit(" ", 2)
    (folder,) = (tmp_path / "runs" / "python" / "evaluation").iterdir()
    (search,) = json.loads((folder / "results.json").read_text())["search"]
    assert (name, float(average)) == (search["protocol"], search["map"])


def test_the_interface_takes_text_for_paths_and_refuses_what_is_no_model_setting(run_dir, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr("person_search.evaluation.evaluate.notes_of", lambda dataset, split: [f"of {split.name}"])
    config = load_config(str(run_dir / "config.yaml"))
    found = evaluate(str(run_dir), config, out=str(tmp_path / "out"), references=True, warn=said.append)
    assert said == ["of test"]
    assert found.folder == tmp_path / "out"
    assert [name for name, _ in found.references] == ["untrained, true boxes", "random, true boxes"]
    assert all(results.detection.all.recall == 1 for _, results in found.references)
    assert found.results.detection.all.recall < 1
    elsewhere = evaluate(run_dir, config, home=str(tmp_path / "home"))
    assert elsewhere.folder.parent == tmp_path / "home" / "evaluation"
    with pytest.raises(UsageError, match="'device' is no model setting"):
        evaluate(run_dir, config, device="cpu")
    assert "train" in dir(package)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["evaluate", "--checkpoint", "{data}/train.json"], 1, "is not a checkpoint"),
        (["evaluate", "--checkpoint", "nowhere.pt"], 1, "nowhere.pt"),
        (["evaluate", "--checkpoint", "{data}"], 1, "holds no best.pt or last.pt"),
        (["train", "--data-root", "nowhere"], 1, "nowhere"),
        (["train", "--data-root", "{data}", "--dataset", "mot"], 1, "seqinfo.ini"),
        (["train", "--data-root", "{data}", "--run-dir", "{run}"], 2, "--resume"),
        (["train", "--data-root", "{data}", "--run-dir", "x", "--weights", "nowhere.pth"], 2, "nowhere.pth"),
        (["train", "--data-root", "{data}", "--run-dir", "x", "--weights", "{data}/train.json"], 1, "train.json"),
        (["score", "--predictions", "{data}/test.json", "--data-root", "{data}"], 1, "test.json"),
        (["evaluate", "--checkpoint", "{run}", "--split", "train"], 2, "expected test or val"),
        (["evaluate", "--checkpoint", "{run}", "--gallery-size", "50"], 2, "gallery sizes"),
        (["report", "--run-dir", "{data}"], 2, "evaluate"),
    ],
)
def test_misuse_is_one_clear_line(run_dir, dataset, tmp_path, arguments, code, message):
    given = [argument.format(data=dataset, run=run_dir) for argument in arguments]
    found = person_search(*given, check=False, cwd=tmp_path)
    assert found.returncode == code, found.stderr
    errors = found.stderr.strip().splitlines()
    assert message in errors[-1]
    assert "Traceback" not in found.stderr
    assert len([line for line in errors if line.startswith("error:")]) == 1


def test_a_truncated_test_image_stops_evaluation_by_name(run_dir, dataset, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(dataset, broken)
    scene = json.loads((broken / "test.json").read_text())["images"][0]["file_name"]
    (picture,) = broken.rglob(Path(scene).name)
    picture.write_bytes(picture.read_bytes()[:500])
    found = person_search(
        "evaluate", "--checkpoint", run_dir, "--data-root", broken, "--out", tmp_path / "out", check=False
    )
    assert found.returncode == 1
    assert picture.name in found.stderr.splitlines()[-1]
    assert not (tmp_path / "out" / "results.json").exists()


def test_the_wheel_works_in_an_environment_of_its_own(dataset, tmp_path):
    root = Path(__file__).parents[1]
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    # The dependencies, which take minutes to install, are lent by this environment; the package is the wheel's.
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(str(Path(np.__file__).parents[1]))
    where = subprocess.run(
        [python, "-c", "import person_search; print(person_search.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(environment))
    assert (Path(where.stdout.strip()).parent / "py.typed").is_file()

    program = (str(environment / "bin" / "person-search"),)
    assert "train" in person_search("--help", program=program).stdout
    person_search(
        "synth", "--identities", 6, "--scenes", 20, "--cameras", 2, "--width", 160, "--height", 120,
        "--out", tmp_path / "d", program=program,
    )  # fmt: skip
    config = method_settings("baseline", **TINY)
    model = build_model(config, num_identities=4)
    save_checkpoint(tmp_path / "model.pt", Checkpoint(config, 4, model.state_dict()))
    file = tmp_path / "predictions.npz"
    common = ["--data-root", tmp_path / "d"]
    person_search(
        "predict", "--checkpoint", tmp_path / "model.pt", "--predictions", file, *common, program=program, cwd=tmp_path
    )
    scored = person_search("score", "--predictions", file, *common, program=program, cwd=tmp_path)
    assert "top-1" in scored.stdout
