"""What goes wrong when predictions and annotations do not fit, through the command: one line that names the place."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from person_search.commandline import cli
from person_search.config import Config, with_settings
from person_search.data.catalogue import open_dataset
from person_search.errors import as_options
from person_search.evaluation.chance import random_predictions
from person_search.evaluation.predictions import CONTEXT, REQUIRED
from person_search.evaluation.results import read_results

QUERY_FILE = "annotation/test/train_test/TestG50.mat"


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations of one camera in two layouts, and predictions that fit each."""
    root = tmp_path_factory.mktemp("sets")
    for layout in ("prw", "cuhk-sysu"):
        made = f"--layout {layout} --identities 12 --scenes 30 --cameras 1 --width 160 --height 120"
        assert cli.run(["synth", *made.split(), "--out", str(root / layout)], cli.dispatch) == 0
        shutil.rmtree(root / layout / {"prw": "frames", "cuhk-sysu": "Image"}[layout])
        split = open_dataset(with_settings(Config(), dataset=layout, data_root=root / layout).data).split("test")
        random_predictions(split).save(root / f"{layout}.npz")
    return root


@pytest.fixture
def message(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Score and return the error: one line, exit code 1, nothing written, the given file in it."""

    def score(layout: str, *extra: str, data: Path | None = None, predictions: Path | None = None) -> str:
        where = ["--dataset", layout, "--data-root", str(data or sets / layout)]
        read = ["--predictions", str(predictions or sets / f"{layout}.npz"), "--json", str(tmp_path / "out.json")]
        sizes = ["--gallery-size", "50"] if layout == "cuhk-sysu" else []
        capsys.readouterr()
        code = cli.run(["score", *where, *read, *sizes, *extra], cli.dispatch)
        (line,) = capsys.readouterr().err.splitlines()
        assert code == 1
        assert not (tmp_path / "out.json").exists()
        return line

    return score


def changed(sets: Path, out: Path, **arrays: Any) -> Path:
    """The predictions for PRW with arrays replaced, or left out where None."""
    with np.load(sets / "prw.npz") as archive:
        every = {**archive, **arrays}
    np.savez(out / "changed.npz", **{name: array for name, array in every.items() if array is not None})
    return out / "changed.npz"


def test_what_fits_is_scored(sets: Path, tmp_path: Path) -> None:
    options = f"--dataset prw --data-root {sets}/prw --predictions {changed(sets, tmp_path)}"
    assert cli.run(["score", *options.split()], cli.dispatch) == 0


@pytest.mark.parametrize("option", ["--per-query", "--json"])
def test_a_folder_to_write_to_is_refused_before_anything_is_scored(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["score", "--predictions", "none.npz", option, str(tmp_path)], cli.dispatch) == 2
    output, error = capsys.readouterr()
    assert (output, error) == (
        "",
        f"error: {option} '{tmp_path}' is a folder; expected the name of a file to write\n",
    )


@pytest.mark.parametrize(("layout", "other"), [("prw", "cuhk-sysu"), ("cuhk-sysu", "prw")])
def test_predictions_of_another_dataset(message: Callable[..., str], sets: Path, layout: str, other: str) -> None:
    line = message(layout, predictions=sets / f"{other}.npz")
    assert f"predictions '{sets / other}.npz': none of the " in line
    assert "another dataset or split" in line


def test_predictions_that_break_a_rule(message: Callable[..., str], sets: Path, tmp_path: Path) -> None:
    with np.load(sets / "prw.npz") as archive:
        given = dict(archive)
    holes, falling, renamed = (given[name].copy() for name in ("embeddings", "offsets", "scene_names"))
    holes[3, 2] = np.nan
    falling[[2, 3]] = falling[3] + 1, falling[2]
    renamed[0] = "x.jpg"
    shorter = np.delete(given["offsets"], -2)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"query_embeddings": given["query_embeddings"][1:]}, "'query_embeddings' holds"),
        ({"embeddings": holes}, "row 3 holds NaN"),
        ({"offsets": falling}, "at 3; offsets must never fall"),
        ({"scene_names": renamed}, "1 scenes are not in prw test, the first is 'x.jpg'"),
        ({"scene_names": given["scene_names"][:-1], "offsets": shorter}, "scenes of prw test are missing"),
        ({"scores": None}, "array 'scores' is missing"),
    ]
    for arrays, expected in wrong:
        file = changed(sets, tmp_path, **arrays)
        line = message("prw", predictions=file)
        assert f"predictions '{file}': " in line
        assert expected in line
    assert set(REQUIRED) == set(given)


def test_context_matching_without_context(message: Callable[..., str], sets: Path) -> None:
    line = message("prw", "--cbgm")
    assert f"predictions '{sets / 'prw.npz'}': CBGM needs the arrays {CONTEXT[0]}" in line


def test_a_gallery_without_scenes(message: Callable[..., str]) -> None:
    line = message("prw", "--cross-camera")
    assert "protocol 'cross-camera': the gallery of query 0" in line


@pytest.mark.parametrize("damage", ["missing", "truncated"])
@pytest.mark.parametrize(
    ("layout", "name"), [("prw", "frame_test.mat"), ("cuhk-sysu", "annotation/pool.mat"), ("cuhk-sysu", QUERY_FILE)]
)
def test_a_matlab_file_is_missing_or_cut_off(
    message: Callable[..., str], sets: Path, tmp_path: Path, damage: str, layout: str, name: str
) -> None:
    data = Path(shutil.copytree(sets / layout, tmp_path / "data"))
    content = (data / name).read_bytes()
    (data / name).unlink()
    if damage == "truncated":
        (data / name).write_bytes(content[: len(content) // 2])
    line = message(layout, data=data)
    assert str(data / name) in line
    assert {"missing": "missing file", "truncated": "is damaged"}[damage] in line


def elsewhere(rows: Any) -> None:
    rows["Query"][0, 1]["imname"][0, 0] = np.array(["s1.jpg"])


def no_such_box(rows: Any) -> None:
    rows["Query"][0, 1]["idlocate"][0, 0] = np.array([[1, 2, 3, 4]])


def empty(rows: Any) -> None:
    rows["Gallery"][0, 1] = rows["Gallery"][0, 1][:, :0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (elsewhere, "the image 's1.jpg' is not in this split"),
        (no_such_box, "the box (1, 2, 3, 4) matches no annotation of"),
        (empty, "the gallery is empty"),
    ],
)
def test_a_query_of_cuhk_sysu_that_contradicts_the_annotations(
    message: Callable[..., str], sets: Path, tmp_path: Path, change: Callable[[Any], None], expected: str
) -> None:
    data = Path(shutil.copytree(sets / "cuhk-sysu", tmp_path / "data"))
    rows = loadmat(data / QUERY_FILE)["TestG50"]
    change(rows)
    savemat(data / QUERY_FILE, {"TestG50": rows})
    line = message("cuhk-sysu", data=data)
    assert f"'{data / QUERY_FILE}' query 2: " in line
    assert expected in line


@pytest.mark.parametrize(
    ("place", "word", "expected"),
    [
        (5, "c1s1_000001", "the query's frame 'c1s1_000001' is not in frame_test.mat"),
        (0, "99999", "the box matches no annotation of person 99999"),
        (1, "5000", "the box matches no annotation of person"),
        (3, "wide", "expected 'id x y w h name'"),
    ],
)
def test_a_query_of_prw_that_contradicts_the_annotations(
    message: Callable[..., str], sets: Path, tmp_path: Path, place: int, word: str, expected: str
) -> None:
    data = Path(shutil.copytree(sets / "prw", tmp_path / "data"))
    lines = (data / "query_info.txt").read_text().splitlines()
    words = lines[1].split()
    words[place] = word
    lines[1] = " ".join(words)
    (data / "query_info.txt").write_text("\n".join(lines))
    line = message("prw", data=data)
    assert f"'{data / 'query_info.txt'}' line 2: " in line
    assert expected in line


def test_what_scores_nothing_says_so(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = sets / "prw.npz"
    with np.load(good) as archive:
        scores, embeddings = archive["scores"], archive["embeddings"]
    low = changed(sets, tmp_path, scores=scores / np.float32(4)).rename(tmp_path / "low.npz")
    lengths = np.linspace(1, 60, len(embeddings), dtype=np.float32)
    raw = changed(sets, tmp_path, embeddings=embeddings * lengths[:, None]).rename(tmp_path / "raw.npz")
    where = ["--dataset", "prw", "--data-root", str(sets / "prw")]

    def warnings(*arguments: str) -> list[str]:
        capsys.readouterr()
        assert cli.run([*arguments, *where], cli.dispatch) == 0
        return capsys.readouterr().err.splitlines()

    nothing = f"warning: predictions '{low}': 0 of {len(scores)} detections reach --search-threshold 0.5"
    varied = (
        f"warning: predictions '{raw}': embedding lengths of the {len(scores)} detections searched vary from 1 to 60"
    )
    assert warnings("score", "--predictions", str(good)) == []
    (found,) = warnings("score", "--predictions", str(low), "--json", str(tmp_path / "low.json"))
    assert found.startswith(nothing)
    # A file names settings, the command its options.
    plain = found.removeprefix("warning: ").replace("--search-", "search_").replace("--detection-", "detection_")
    assert read_results(tmp_path / "low.json").notes == [plain]
    (found,) = warnings("score", "--predictions", str(raw))
    assert found.startswith(varied)
    both = warnings("compare", str(low), str(raw), "--json", str(tmp_path / "compared.json"))
    assert [line.startswith(start) for line, start in zip(both, (nothing, varied), strict=True)] == [True, True]
    notes = [as_options(line) for line in json.loads((tmp_path / "compared.json").read_text())["notes"]]
    assert [f"warning: {note}" for note in notes] == both


def test_scoring_needs_no_pytorch(sets: Path) -> None:
    code = (
        "import sys; from person_search.commandline import cli\n"
        "assert cli.run(sys.argv[1:], cli.dispatch) == 0\n"
        "assert 'torch' not in sys.modules, 'seconds and hundreds of megabytes for nothing'\n"
    )
    arguments = ["score", "--dataset", "prw", "--data-root", str(sets / "prw"), "--predictions", str(sets / "prw.npz")]
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
