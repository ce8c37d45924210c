"""Evaluations through the command line: each in a folder of its own that says what it is of, and the report of one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from person_search import __version__
from person_search.checkpoints.checkpoint import Checkpoint, read_checkpoint, save_checkpoint
from person_search.checkpoints.loading import load_stored
from person_search.commandline import cli
from person_search.config import Config, DataConfig, override, to_yaml, with_settings
from person_search.data.catalogue import open_dataset, open_split
from person_search.data.fingerprint import data_record, fingerprint
from person_search.data.holdout import hold_out
from person_search.errors import CheckpointError, DataError, UsageError
from person_search.evaluation.files import EVALUATION_FILES, evaluations_of, refuse_others, write_evaluation
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.record import LONGEST_NAME, Record, make_record, read_record
from person_search.evaluation.results import read_results, score
from person_search.models.backbones import resnet
from person_search.models.building import build_model
from person_search.models.two_stage import TwoStageModel
from person_search.runtime.files import atomic_folder

TINY: dict[str, Any] = {
    "backbone": "resnet18",
    "width": 0.125,
    "weights": "none",
    "shorter_side": (48,),
    "longer_side": 64,
    "anchor_sizes": (16.0,),
    "rpn_post_nms_test": 6,
    "score_threshold": 0.0,
}


def write_data(root: Path, *, shift: int = 0, scenes: int = 6) -> Path:
    """COCO-style train and test of ``scenes`` pictures of 64 x 48, with two people whose boxes begin at ``shift``."""
    (root / "images").mkdir(parents=True)
    for split in ("train", "test"):
        images, annotations = [], []
        for n in range(scenes):
            name = f"images/{split}{n}.png"
            picture = np.random.default_rng(n).integers(0, 255, (48, 64, 3), dtype=np.uint8)
            assert cv2.imwrite(str(root / name), picture)
            images.append({"id": n, "file_name": name, "width": 64, "height": 48})
            for k in range(2):
                box = [4 + 30 * k + shift, 6, 12, 30]
                person = 10 * (n // 2) + k if split == "train" else k
                annotations.append(
                    {"id": len(annotations), "image_id": n, "category_id": 1, "bbox": box, "person_id": person}
                )
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


def coco(root: Path) -> DataConfig:
    return with_settings(Config(), dataset="coco", data_root=root).data


def save_model(path: Path, seed: int = 0, **settings: Any) -> None:
    torch.manual_seed(seed)
    config = with_settings(Config(), **TINY | settings).model
    weightless = override(config, {"weights": "none"})
    save_checkpoint(path, Checkpoint(config, 4, build_model(weightless, 4).state_dict()))


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with ``data`` and a run, ``run``, that has a checkpoint of a random model."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path / "data")
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "last.pt")
    write_config(run)
    return tmp_path


def write_config(run: Path, **settings: Any) -> None:
    given = TINY | {"dataset": "coco", "data_root": Path("data"), "workers": 0, "device": "cpu"} | settings
    (run / "config.yaml").write_text(to_yaml(with_settings(Config(), **given)))


@pytest.fixture
def person_search(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line; returns what it printed, both streams, and expects ``code``."""

    def run(*arguments: object, code: int = 0) -> str:
        assert cli.run([str(argument) for argument in arguments], cli.dispatch) == code, capsys.readouterr().err
        out, err = capsys.readouterr()
        return out + err

    return run


PersonSearch = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_evaluations_of_other_data_and_settings_lie_side_by_side(work: Path, person_search: PersonSearch) -> None:
    write_data(work / "other", shift=2)
    asked: list[list[object]] = [
        [],
        ["--data-root", "other"],
        ["--search-threshold", 0],
        ["--nms-threshold", 0.5],
        ["--precision", "bf16"],
    ]
    kept: dict[Path, dict[str, bytes]] = {}
    for options in asked:
        printed = person_search("evaluate", "--checkpoint", "run", *options)
        for folder, before in kept.items():
            assert contents(folder) == before
        (new,) = {each.folder for each in evaluations_of(work / "run")[0]} - set(kept)
        assert set(contents(new)) == {"predictions.npz", "results.json", "record.json"}
        assert new.name in printed
        kept[new] = contents(new)
    names = sorted(folder.name.rsplit("-", 1)[0] for folder in kept)
    assert names == [
        "last-coco-data-test",
        "last-coco-data-test",
        "last-coco-data-test-nms-threshold-0.5",
        "last-coco-data-test-search-threshold-0",
        "last-coco-other-test",
    ]


def test_a_checkpoint_is_tested_as_its_published_numbers_were(work: Path, person_search: PersonSearch) -> None:
    (work / "alone").mkdir()
    published = replace(read_checkpoint(work / "run" / "last.pt"), evaluation={"cws": True, "same_size_batches": True})
    save_checkpoint(work / "alone" / "a.pt", published)
    options = ["--checkpoint", "alone/a.pt", "--dataset", "coco", "--data-root", "data", "--workers", 0]
    printed = person_search("evaluate", *options, "--out", "as-published")
    assert "tested with --same-size-batches, --cws, as the published numbers" in " ".join(printed.split())
    said = person_search("evaluate", *options, "--no-cws", "--no-same-size-batches", "--out", "as-said")
    assert "as the published numbers" not in said
    for name, there in (("as-published", True), ("as-said", False)):
        evaluation = read_record(work / name).config.evaluation
        assert (evaluation.cws, evaluation.same_size_batches) == (there, there)
    predicted = " ".join(person_search("predict", *options).split())
    assert "tested with --same-size-batches, as" in predicted
    assert "taken with --cws: give that to score" in predicted
    with tarfile.open(work / "alone" / "a.tar", "w") as archive:
        archive.add(work / "alone" / "a.pt", "x/a.pt")
    person_search("evaluate", "--checkpoint", "alone/a.tar", *options[2:])
    (folder,) = (work / "alone" / "evaluation").iterdir()
    assert read_record(folder).checkpoint.endswith("alone/a.tar/x/a.pt")
    person_search("convert", "alone/a.pt", "--out", "b.pt")
    assert read_checkpoint(work / "b.pt").evaluation == published.evaluation


def test_the_record_says_what_was_evaluated_and_how(work: Path, person_search: PersonSearch) -> None:
    printed = person_search(
        "evaluate", "--checkpoint", "run/last.pt", "--out", "out", "--search-threshold", 0.25, "--cws", "True"
    )
    record = read_record(work / "out")
    stored = load_stored(work / "run" / "last.pt")
    split = open_dataset(coco(work / "data")).split("test")
    assert record.checkpoint == str((work / "run" / "last.pt").resolve())
    assert record.model_id == stored.model_id == Predictions.load(work / "out" / "predictions.npz").model_id
    assert f"model id {stored.model_id}" in printed
    assert (record.dataset, record.data_root, record.split) == ("coco", str((work / "data").resolve()), "test")
    assert record.fingerprint == fingerprint(split)
    assert (record.version, record.changed) == (__version__, ("search-threshold 0.25", "cws"))
    assert record.date.endswith("+00:00")
    # The settings in effect: the checkpoint's own, and the command line's on top of them.
    assert record.config.model == stored.config
    assert record.config.evaluation.cws
    assert record.config.evaluation.search_threshold == 0.25


def test_a_checkpoint_by_itself_is_recorded_with_its_own_settings(work: Path, person_search: PersonSearch) -> None:
    (work / "alone").mkdir()
    shutil.copy(work / "run" / "last.pt", work / "alone" / "weights.pt")
    options = ["--dataset", "coco", "--data-root", "data", "--workers", 0, "--device", "cpu"]
    person_search("evaluate", "--checkpoint", "alone/weights.pt", *options)
    ((evaluation,), _) = evaluations_of(work / "alone")
    assert evaluation.record.config.model == load_stored(work / "alone" / "weights.pt").config
    assert evaluation.record.config.model.images.longer_side == 64


def test_the_same_again_replaces_its_own_folder_alone(work: Path, person_search: PersonSearch) -> None:
    person_search("evaluate", "--checkpoint", "run", "--out", "out", "--references")
    assert set(contents(work / "out")) == EVALUATION_FILES
    rows = (work / "out" / "references.json").read_bytes()
    record = read_record(work / "out")
    printed = person_search("evaluate", "--checkpoint", "run", "--out", "out", "--eval-batch-size", 1)
    assert read_record(work / "out").date > record.date
    assert (work / "out" / "references.json").read_bytes() == rows
    assert "kept from the evaluation before" in printed
    assert "'untrained, true boxes', 'random, true boxes'" in " ".join(printed.split())
    before = contents(work / "out")
    other = person_search("evaluate", "--checkpoint", "run", "--out", "out", "--search-threshold", 0, code=2)
    assert "'out' holds another evaluation" in other
    assert "last.pt" in other
    save_model(work / "run" / "last.pt", seed=1)
    assert "another evaluation" in person_search("evaluate", "--checkpoint", "run", "--out", "out", code=2)
    assert contents(work / "out") == before


def test_a_folder_of_other_things_is_never_replaced(work: Path, person_search: PersonSearch) -> None:
    for folder, file in (("run", "config.yaml"), ("notes", "notes.txt")):
        (work / folder).mkdir(exist_ok=True)
        (work / folder / file).touch()
        found = person_search("evaluate", "--checkpoint", "run", "--out", folder, code=2)
        assert f"'{file}', which no evaluation wrote" in found
        assert (work / folder / file).exists()
    (work / "old").mkdir()
    (work / "old" / "results.json").write_text("{}")
    assert "without the record" in person_search("evaluate", "--checkpoint", "run", "--out", "old", code=2)
    assert "is a file" in person_search("evaluate", "--checkpoint", "run", "--out", "run/config.yaml", code=2)
    (work / "empty").mkdir()
    person_search("evaluate", "--checkpoint", "run", "--out", "empty")
    assert (work / "empty" / "record.json").exists()


def test_reference_rows_that_cannot_be_read_cost_no_evaluation(work: Path, person_search: PersonSearch) -> None:
    person_search("evaluate", "--checkpoint", "run", "--out", "out", "--references")
    (work / "out" / "references.json").write_text("[1")
    printed = " ".join(person_search("evaluate", "--checkpoint", "run", "--out", "out").split())
    assert "the reference rows of the evaluation before are dropped: cannot read" in printed
    assert set(contents(work / "out")) == EVALUATION_FILES - {"references.json"}


def test_a_stop_during_the_references_loses_no_work_of_the_trained_model(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted = []

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("person_search.evaluation.evaluate._untrained_predictions", stopped)
    monkeypatch.setattr("person_search.evaluation.evaluate.predict_split", lambda *_, **__: predicted.append(True))
    person_search("evaluate", "--checkpoint", "run", "--out", "out", "--references", code=130)
    assert predicted == []


def test_a_full_disk_names_the_evaluation_and_leaves_the_earlier_one(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    person_search("evaluate", "--checkpoint", "run", "--out", "out")
    before = contents(work / "out")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("person_search.evaluation.predictions.np.savez", full)
    printed = person_search("evaluate", "--checkpoint", "run", "--out", "out", code=1)
    assert (
        "error: cannot write evaluation 'out': No space left on device; free space or choose another --out" in printed
    )
    assert contents(work / "out") == before


def test_a_stop_while_writing_leaves_the_earlier_evaluation_whole(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    person_search("evaluate", "--checkpoint", "run", "--out", "out")
    before, folders = contents(work / "out"), set(work.iterdir())
    written = []

    def stopped(record: Record) -> bytes:
        (new,) = (path for path in work.rglob("new") if path.is_dir())
        written.extend(path.name for path in new.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("person_search.evaluation.files.record_text", stopped)
    person_search("evaluate", "--checkpoint", "run", "--out", "out", code=130)
    assert {"predictions.npz", "results.json"} <= set(written)
    assert contents(work / "out") == before
    assert set(work.iterdir()) == folders


def test_a_place_that_cannot_be_written_is_named_before_the_work(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "person_search.evaluation.evaluate.predict_split", lambda *_, **__: pytest.fail("the work began")
    )
    found = person_search("evaluate", "--checkpoint", "run", "--out", "run/config.yaml/inside", code=1)
    assert "cannot write evaluation 'run/config.yaml/inside'" in found


def test_held_out_scenes_are_those_of_the_training(work: Path, person_search: PersonSearch) -> None:
    assert "held nothing out" in person_search("evaluate", "--checkpoint", "run", "--split", "val", code=2)
    write_config(work / "run", validation_share=0.34, seed=5)
    person_search("evaluate", "--checkpoint", "run", "--split", "val", "--out", "val", "--search-threshold", 0)
    held_out = hold_out(open_dataset(coco(work / "data")), 0.34, 5)[1]
    assert Predictions.load(work / "val" / "predictions.npz").scene_names.tolist() == [s.name for s in held_out.scenes]
    assert len(read_results(work / "val" / "results.json").queries) == len(held_out.queries) > 0
    other = person_search("predict", "--checkpoint", "run", "--split", "val", "--validation-share", 0.5, code=2)
    assert "validation_share 0.5 (the run: 0.34)" in other
    (work / "other.yaml").write_text(to_yaml(with_settings(Config(), dataset="coco", data_root=Path("data"), seed=6)))
    options = ["--config", "other.yaml", "--validation-share", 0.34, "--workers", 0]
    assert "seed 6 (the run: 5)" in person_search("evaluate", "--checkpoint", "run", "--split", "val", *options, code=2)
    person_search("report", "--run-dir", "run", "--evaluation", "val")
    assert "val split: 2 scenes" in (work / "report" / "index.html").read_text()


def test_scenes_of_other_data_are_not_taken_for_those_held_out(work: Path, person_search: PersonSearch) -> None:
    share, seed = 0.34, 5
    write_config(work / "run", validation_share=share, seed=seed)
    write_data(work / "other", shift=2)
    training = hold_out(open_dataset(coco(work / "data")), share, seed)[0]
    made = read_checkpoint(work / "run" / "last.pt")
    save_checkpoint(work / "run" / "last.pt", replace(made, data=data_record(training)))
    person_search("evaluate", "--checkpoint", "run", "--split", "val", "--out", "val")
    options = ["--checkpoint", "run", "--split", "val", "--data-root", "other"]
    for command in ("evaluate", "predict"):
        found = person_search(command, *options, code=2)
        assert "of 'other' validation_share 0.34 with seed 5 leaves other scenes for training" in found
        assert "run/last.pt' was trained on" in found
    # A converted copy has no settings of a run beside it, and still remembers.
    person_search("convert", "run", "--out", "alone/copy.pt")
    options = ["--checkpoint", "alone/copy.pt", "--split", "val", "--config", "run/config.yaml"]
    person_search("evaluate", *options)
    assert "leaves other scenes" in person_search("evaluate", *options, "--validation-share", 0.5, code=2)


def test_other_training_data_than_the_run_had_is_said_once(work: Path, person_search: PersonSearch) -> None:
    training = open_split(open_dataset(with_settings(Config(), dataset="coco", data_root=work / "data")), "train")
    made = read_checkpoint(work / "run" / "last.pt")
    save_checkpoint(work / "run" / "last.pt", replace(made, data=data_record(training)))
    said = "was trained on other data than is in"
    assert said not in person_search("evaluate", "--checkpoint", "run")
    shutil.move(work / "data", work / "moved")
    assert said not in person_search("evaluate", "--checkpoint", "run", "--data-root", "moved")

    write_data(work / "data", scenes=8)
    told = " ".join(person_search("evaluate", "--checkpoint", "run").split())
    assert told.count(said) == 1
    assert "6 scenes, 12 boxes, 6 identities then, 8 scenes, 16 boxes, 8 identities now in training" in told
    # A test set alone has nothing to compare with.
    (work / "data" / "train.json").unlink()
    assert said not in person_search("evaluate", "--checkpoint", "run")


def test_the_untrained_row_has_the_weights_that_training_began_with(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []
    monkeypatch.setattr(resnet, "find_weights", lambda weights, **_: (loaded.append(weights), "weights"))
    for name in ("copy_weights", "_refuse_other_flavour"):
        monkeypatch.setattr(resnet, name, lambda *_, **__: None)
    save_model(work / "run" / "last.pt", weights="imagenet")
    loaded.clear()
    person_search("evaluate", "--checkpoint", "run", "--references", "--out", "out")
    assert loaded == ["imagenet"]
    rows = json.loads((work / "out" / "references.json").read_text())
    assert [row["name"] for row in rows] == ["untrained, true boxes", "random, true boxes"]


def test_without_those_weights_the_untrained_row_is_left_out_and_said(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise CheckpointError("cannot download ImageNet weights")

    monkeypatch.setattr(resnet, "find_weights", offline)
    save_model(work / "run" / "last.pt", weights="imagenet")
    printed = person_search("evaluate", "--checkpoint", "run", "--references", "--out", "out")
    assert "the row of the untrained model is left out: cannot download ImageNet weights" in printed
    assert "untrained, true boxes" not in printed
    rows = json.loads((work / "out" / "references.json").read_text())
    assert [row["name"] for row in rows] == ["random, true boxes"]


def page_of(work: Path) -> str:
    return (work / "report" / "index.html").read_text()


def test_a_report_shows_the_newest_or_the_one_asked_for(work: Path, person_search: PersonSearch) -> None:
    old = work / "run" / "evaluation"
    old.mkdir()
    (old / "results.json").write_text("{}")
    assert "does not say which checkpoint" in person_search("report", "--run-dir", "run", code=2)
    person_search("evaluate", "--checkpoint", "run", "--search-threshold", 0)
    person_search("evaluate", "--checkpoint", "run", "--search-threshold", 0.1)
    newest, first = (each.folder.name for each in evaluations_of(work / "run")[0])
    assert "0.1" in newest
    printed = person_search("report", "--run-dir", "run")
    assert "with search-threshold 0.1" in printed
    assert f"not reported: {first}" in printed
    assert "with search-threshold 0.1;" in page_of(work)
    assert "search_threshold: 0.1" in page_of(work)
    person_search("report", "--run-dir", "run", "--evaluation", first)
    assert "with search-threshold 0;" in page_of(work)
    missing = person_search("report", "--run-dir", "run", "--evaluation", "nowhere", code=2)
    assert f"below 'run' are: {newest}, {first}" in missing
    (work / "run" / "evaluation" / newest / "record.json").write_text("{")
    assert "record.json': the file" in person_search("report", "--run-dir", "run")
    assert "with search-threshold 0;" in page_of(work)


def test_an_evaluation_of_another_run_is_not_reported_as_this_one_s(work: Path, person_search: PersonSearch) -> None:
    shutil.copytree(work / "run", work / "second")
    person_search("evaluate", "--checkpoint", "second", "--out", "out")
    found = person_search("report", "--run-dir", "run", "--evaluation", "out", code=2)
    assert f"give --run-dir {(work / 'second').resolve()}" in found
    person_search("report", "--run-dir", "second", "--evaluation", "out")


def test_proposals_are_of_the_very_checkpoint_with_the_settings_then(
    work: Path, person_search: PersonSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    person_search("evaluate", "--checkpoint", "run/last.pt", "--rpn-post-nms-test", 4)
    # What a run folder is usually read for is not what was evaluated.
    save_model(work / "run" / "best.pt", seed=3)
    drawn = []
    propose = TwoStageModel.propose

    def noted(model: TwoStageModel, images: Any) -> Any:
        found = propose(model, images)
        drawn.append((model.trunk.conv1.weight.clone(), len(found[0][0])))
        return found

    monkeypatch.setattr(TwoStageModel, "propose", noted)
    person_search("report", "--run-dir", "run")
    assert 'id="proposals"' in page_of(work)
    own = load_stored(work / "run" / "last.pt").model.trunk.conv1.weight
    assert all(torch.equal(weight, own) and 0 < count <= 4 for weight, count in drawn)


def test_no_proposals_of_a_model_that_was_not_evaluated(work: Path, person_search: PersonSearch) -> None:
    person_search("evaluate", "--checkpoint", "run")
    shutil.move(work / "run", work / "moved")
    person_search("report", "--run-dir", "moved")
    assert 'id="proposals"' in page_of(work)
    for change, what in (
        (lambda path: save_model(path, seed=1), "now holds model"),
        (lambda path: save_model(path, width=0.25), "does not fit"),
        (lambda path: path.write_bytes(b"PK"), "damaged"),
        (os.remove, "is gone"),
    ):
        change(work / "moved" / "last.pt")
        printed = person_search("report", "--run-dir", "moved")
        assert "proposals are left out: checkpoint" in printed
        assert what in printed
        assert 'id="proposals"' not in page_of(work)


def test_data_that_changed_since_is_not_reported(work: Path, person_search: PersonSearch) -> None:
    person_search("evaluate", "--checkpoint", "run")
    shutil.rmtree(work / "data")
    write_data(work / "data", shift=1)
    assert "no longer what was evaluated" in person_search("report", "--run-dir", "run", code=1)


def record_of(root: Path, **settings: Any) -> Record:
    config = with_settings(Config(), **{"data_root": root} | settings)
    split = open_dataset(coco(root)).split("test")
    return make_record(checkpoint=root / "a.pt", model_id="1" * 16, stored=Config().model, split=split, config=config)


def test_what_makes_another_evaluation(tmp_path: Path) -> None:
    root = write_data(tmp_path / "a")
    plain = record_of(root)
    for same in ({"workers": 7}, {"eval_batch_size": 1}, {"device": "cpu"}, {"validation_share": 0.3}):
        assert record_of(root, **same).identity == plain.identity
    other = [record_of(root, **s) for s in ({"cws": True}, {"precision": "bf16"}, {"seed": 1}, {"cbgm": True})]
    other.append(record_of(write_data(tmp_path / "b")))
    for change in ({"model_id": "2"}, {"split": "val"}, {"fingerprint": "f"}, {"checkpoint": "/x/b.pt"}):
        other.append(replace(plain, **change))  # type: ignore[arg-type]
    identities = {plain.identity, *(each.identity for each in other)}
    assert len(identities) == 1 + len(other)


def test_names_fit_every_file_system(tmp_path: Path) -> None:
    root = write_data(tmp_path / ("人" * 70))
    record = record_of(root, shorter_side=(300, 400), cws=True, gallery_size=(50, 100))
    assert record.changed == ("shorter-side 300 400", "gallery-size 50 100", "cws")
    assert len(record.name) <= LONGEST_NAME + 9
    with atomic_folder(tmp_path / record.name) as folder:
        (folder / "file").touch()
    assert (tmp_path / record.name / "file").exists()


def test_an_unreadable_record_is_not_replaced(tmp_path: Path) -> None:
    record = record_of(write_data(tmp_path / "data"))
    split = open_dataset(coco(tmp_path / "data")).split("test")
    empty = np.zeros((0, 4), np.float32)
    predictions = Predictions(
        np.array([scene.name for scene in split.scenes]), np.zeros(len(split.scenes) + 1, np.int64), empty,
        np.zeros(0, np.float32), empty, np.ones((len(split.queries), 4), np.float32),
    )  # fmt: skip
    results = score(predictions, split, [], Config().evaluation)
    write_evaluation(tmp_path / "out", record, predictions, results, [])
    assert read_record(tmp_path / "out") == record
    (tmp_path / "out" / "record.json").write_text('{"checkpoint": 3}')
    with pytest.raises(DataError, match=r"record\.json': checkpoint"):
        refuse_others(tmp_path / "out", record)
    (tmp_path / "out" / "record.json").unlink()
    with pytest.raises(UsageError, match="without the record"):
        write_evaluation(tmp_path / "out", record, predictions, results, [])
