"""Searching any folder of pictures: the ranking is the model's, and what cannot be searched is named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor

from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint
from person_search.checkpoints.loading import load_model
from person_search.commandline import cli
from person_search.config import method_settings
from person_search.data.decode import read_image
from person_search.data.notes import Notes
from person_search.data.scene import Boxes
from person_search.errors import DataError, UsageError
from person_search.models.building import build_model
from person_search.visualize.folder_search import FolderRanking, images_in, parse_box, search_folder

BOX = np.array([10, 8, 28, 50], np.float32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = method_settings(
        "baseline",
        backbone="resnet18", width=0.125, weights="none", shorter_side=(64,), longer_side=96, anchor_sizes=(24.0,),
        rpn_post_nms_test=20, score_threshold=0.0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(path, Checkpoint(config, 3, build_model(config, 3).state_dict()))
    return path


@pytest.fixture
def gallery(tmp_path: Path) -> Path:
    """Five pictures, one of them in a folder of its own, one not a picture, one cut short, and a text."""
    folder = tmp_path / "gallery"
    (folder / "inner").mkdir(parents=True)
    draw = np.random.default_rng(0)
    for name in ("a.jpg", "b.JPG", "c.png", "inner/d.jpg"):
        cv2.imwrite(str(folder / name), draw.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    (folder / "e.png").write_text("no picture")
    (folder / "f.jpg").write_bytes((folder / "a.jpg").read_bytes()[:700])
    for name in ("notes.txt", "clip.MP4", "one.heic", "two.HEIC", "list", ".DS_Store"):
        (folder / name).write_text("not looked at")
    return folder


def search(checkpoint: Path, gallery: Path, **options: object) -> FolderRanking:
    query = gallery / "a.jpg"
    settings: dict = {"top": 7, "score_threshold": 0.0, "batch_size": 2} | options
    return search_folder(load_model(checkpoint), read_image(query), BOX, images_in(gallery, without=query), **settings)


def test_the_most_similar_people_of_all_readable_pictures_come_first(checkpoint: Path, gallery: Path) -> None:
    ranking = search(checkpoint, gallery)
    model = load_model(checkpoint)
    wanted = model.embed([read_image(gallery / "a.jpg")], [torch.tensor(BOX)[None]])[0][0]
    everyone = []
    for name in ("b.JPG", "c.png", "inner/d.jpg"):
        found = model([read_image(gallery / name)])[0]
        everyone += [(float(v @ wanted), name, box) for v, box in zip(found.embeddings, found.boxes, strict=True)]
    everyone.sort(key=lambda hit: -hit[0])
    assert ranking.people == len(everyone) > 7
    assert [str(hit.path.relative_to(gallery)) for hit in ranking.hits] == [name for _, name, _ in everyone[:7]]
    np.testing.assert_allclose([hit.similarity for hit in ranking.hits], [s for s, _, _ in everyone[:7]], atol=1e-4)
    np.testing.assert_allclose([hit.box for hit in ranking.hits], [b.numpy() for _, _, b in everyone[:7]], atol=1e-2)
    assert sorted(Path(str(error).split("'")[1]).name for error in ranking.unreadable) == ["e.png", "f.jpg"]


def test_confidence_weighting_multiplies_similarities_by_the_score(checkpoint: Path, gallery: Path) -> None:
    plain, weighted = (search(checkpoint, gallery, top=1000, cws=cws).hits for cws in (False, True))
    expected = {(hit.path, *hit.box.tolist()): hit.similarity * hit.score for hit in plain}
    assert {(hit.path, *hit.box.tolist()): hit.similarity for hit in weighted} == pytest.approx(expected, abs=1e-6)
    assert [hit.similarity for hit in weighted] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-6)
    assert [hit.box.tolist() for hit in weighted] != [hit.box.tolist() for hit in plain]


def test_detections_below_the_threshold_take_no_part(checkpoint: Path, gallery: Path) -> None:
    everyone = search(checkpoint, gallery, top=1000)
    threshold = float(np.median([hit.score for hit in everyone.hits]))
    ranking = search(checkpoint, gallery, top=1000, score_threshold=threshold)
    assert 0 < ranking.people < everyone.people
    assert min(hit.score for hit in ranking.hits) >= threshold
    with pytest.raises(DataError, match=r"nobody found in 5 pictures at a score of 1; lower `search_threshold`"):
        search(checkpoint, gallery, score_threshold=1.0)


def test_the_command_draws_the_list_and_names_what_it_skips(
    checkpoint: Path, gallery: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "list.png"
    arguments = ["visualize", "--model", str(checkpoint), "--query", str(gallery / "a.jpg"), "--box", "10,8,28,50"]
    arguments += ["--gallery", str(gallery), "--search-threshold", "0", "--device", "cpu"]
    assert cli.run([*arguments, "--top", "3", "--out", str(out)], cli.dispatch) == 0
    captured = capsys.readouterr()
    assert "e.png" in captured.err
    assert "f.jpg" in captured.err
    assert "notes.txt" not in captured.err
    assert [kind for kind in (".heic 2", ".txt 1", ".mp4 1", "without an ending 1") if kind not in captured.err] == []
    assert captured.err.count("left out, by kind") == 1
    assert "the 3 most similar" in captured.out
    picture = cv2.imread(str(out))
    assert [path.name for path in out.parent.iterdir()] == ["list.png"]
    # A query and three hits stand side by side: more hits make a wider picture.
    assert cli.run([*arguments, "--top", "6", "--out", str(out)], cli.dispatch) == 0
    assert cv2.imread(str(out)).shape[1] > picture.shape[1]


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--box": "200,8,230,50"}, 2, "outside the query's picture, which is 96 x 64 pixels"),
        ({"--box": "10,8,5,50"}, 2, "corners and not width and height"),
        ({"--box": "10,8,28"}, 2, "expected x1,y1,x2,y2"),
        ({"--box": "10,8,28,nan"}, 2, "expected x1,y1,x2,y2"),
        ({"--query": "nowhere.jpg"}, 1, "nowhere.jpg"),
        ({"--gallery": "nowhere"}, 1, "'nowhere' is not a folder"),
        ({"--gallery": "empty"}, 1, "no pictures in 'empty'"),
        ({"--gallery": "phone"}, 1, ".pnm files there, found .heic 2, .mov 1"),
        ({"--gallery": "damaged"}, 1, "none of 1 pictures can be read"),
        ({"--out": "list.gif"}, 2, "ends in .png"),
        ({"--top": "0"}, 2, "--top 0"),
        ({"--model": "nowhere.pt"}, 1, "nowhere.pt"),
    ],
)
def test_misuse_is_one_line_and_leaves_nothing_behind(
    checkpoint: Path,
    gallery: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "x.jpg").write_bytes(b"no picture")
    (tmp_path / "phone").mkdir()
    for name in ("a.heic", "b.HEIC", "c.mov"):
        (tmp_path / "phone" / name).write_bytes(b"no picture")
    options = {"--model": str(checkpoint), "--query": str(gallery / "a.jpg"), "--box": "10,8,28,50"}
    options |= {"--gallery": str(gallery), "--device": "cpu", "--out": "list.png"} | change
    arguments = [part for pair in options.items() for part in pair]
    assert cli.run(["visualize", *arguments], cli.dispatch) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "list.png").exists()


def test_a_folder_holds_nothing_but_the_query(gallery: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "lonely"
    lonely.mkdir()
    (lonely / "q.png").write_bytes((gallery / "c.png").read_bytes())
    with pytest.raises(DataError, match="besides the query's own"):
        images_in(lonely, without=lonely / "q.png")


def test_what_a_folder_holds_besides_is_told_by_kind(gallery: Path, tmp_path: Path) -> None:
    (gallery / ".thumbnails").mkdir()
    (gallery / ".thumbnails" / "a.jpg").write_bytes((gallery / "a.jpg").read_bytes())
    (gallery / "._a.jpg").write_bytes(b"what a Mac notes of a.jpg")
    (gallery / "elsewhere").symlink_to(tmp_path)
    (gallery / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    notes = Notes()
    names = [path.relative_to(gallery).as_posix() for path in images_in(gallery, notes=notes)]
    assert names == ["a.jpg", "b.JPG", "c.png", "e.png", "f.jpg", "inner/d.jpg"]
    (line,) = notes.lines()
    told, _, advice = line.removeprefix(f"'{gallery}': left out, by kind: ").partition("; ")
    assert set(told.split(", ")) == {
        ".heic 2", "hidden pictures 2", ".txt 1", ".mp4 1", "without an ending 1", "linked folders 1", "broken links 1",
    }  # fmt: skip
    assert advice == "convert to JPEG or PNG what is to be searched"


def test_a_folder_of_pictures_alone_has_nothing_to_tell(gallery: Path) -> None:
    notes = Notes()
    assert images_in(gallery / "inner", notes=notes) == [gallery / "inner" / "d.jpg"]
    assert notes.lines() == ()


@pytest.mark.parametrize("name", ["h.bmp", "h.tif", "h.avif", "h.jfif", "h.webp", "h.gif", "h.ppm"])
def test_pictures_of_other_formats_are_searched(gallery: Path, name: str) -> None:
    picture = PIL.Image.open(gallery / "a.jpg")
    picture.save(gallery / "inner" / name, format="JPEG" if name == "h.jfif" else None)
    assert gallery / "inner" / name in images_in(gallery)
    assert read_image(gallery / "inner" / name).shape == (3, 64, 96)


def test_boxes_are_read_as_corners() -> None:
    box: Boxes = parse_box(" 1, 2.5,30,40")
    assert box.tolist() == [1, 2.5, 30, 40]
    with pytest.raises(UsageError):
        parse_box("a,b,c,d")


def test_pictures_come_from_inner_folders_too(gallery: Path) -> None:
    names = [path.relative_to(gallery).as_posix() for path in images_in(gallery)]
    assert names == ["a.jpg", "b.JPG", "c.png", "e.png", "f.jpg", "inner/d.jpg"]
    assert isinstance(read_image(gallery / "inner" / "d.jpg"), Tensor)
