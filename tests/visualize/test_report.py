"""The report is complete, stands alone, escapes what it is given, and is never half written."""

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from person_search import __version__
from person_search.config import Config, method_settings, to_yaml, with_settings
from person_search.data.scene import Scene, Split, as_boxes
from person_search.errors import DataError, PersonSearchError, UsageError
from person_search.evaluation.detection import detection_metrics
from person_search.evaluation.ignore import without_ignored
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.record import make_record
from person_search.visualize.report import percent, write_report
from person_search.visualize.report_pictures import Layer, Pictures
from person_search.visualize.report_queries import choose_queries
from person_search.visualize.report_scenes import detection_scenes, mutual_best, proposal_scenes, spread

NASTY = '<img src=x onerror=alert(1)> & "q".jpg'
DASH = "\N{EN DASH}"
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Collects elements and text, and insists that tags are balanced."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.stack, self.words = [], [], []
        self.feed(html)
        assert not self.stack, f"not closed: {self.stack}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def ids(self):
        return {attrs["id"] for _, attrs in self.elements if "id" in attrs}

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def read_scene(scene):
    if "broken" in scene.name:
        raise DataError(f"cannot read image '{scene.name}'")
    return np.full((60, 80, 3), sum(scene.name.encode()) % 200, np.uint8)


def make_scenes(*names):
    return [Scene(name, as_boxes([]), np.zeros(0, np.int64)) for name in names]


def make_split(names=("a.jpg", NASTY, "c.jpg", "broken.jpg")):
    boxes = as_boxes([[10, 10, 20, 40], [50, 10, 62, 45]])
    ids = np.array([0, -1], np.int64)
    scenes = [Scene(name, boxes, ids, camera=number % 2 + 1) for number, name in enumerate(names)]
    return Split("synthetic", "test", Path("images"), scenes, 1)


def make_query(number, ap, truths=2, scene="a.jpg", hit=NASTY):
    box = [10.0, 10.0, 20.0, 40.0]
    top = [
        {"scene": hit, "box": box, "similarity": 0.75, "correct": True},
        {"scene": "broken.jpg", "box": box, "similarity": 0.5, "correct": False},
    ]
    return {
        "number": number,
        "scene": scene,
        "box": box,
        "person_id": 0,
        "ap": ap,
        "recall": 0.5,
        "rank_of_first": 1,
        "truth_scenes": truths,
        "found_scenes": truths // 2,
        "truths": [{"scene": "c.jpg", "box": box}] * truths,
        "top": top,
    }


def make_search(protocol="all scenes", **changes):
    row = {"protocol": protocol, "map": 0.4321, "top1": 0.5, "top5": 0.625, "top10": 0.75, "recall": 0.9}
    row |= {"queries": 6, "left_out": 1, "cmc": [0.5, 0.6, 0.7], "camera_pairs": []}
    row |= {"seen": None, "unseen": None}
    return row | changes


def make_results(**changes):
    part = {"recall": 0.912, "ap": 0.876, "boxes": 8}
    detection = {"threshold": 0.5, "all": part, "labelled": part | {"ap": 0.777}}
    detection["curve"] = {"precision": [1.0, 0.8], "recall": [0.1, 0.9]}
    results = {"dataset": "synthetic", "split": "test", "scenes": 4, "detections": 9, "detection": detection}
    results |= {"search": [make_search()], "queries": [make_query(n, n / 10) for n in range(6)]}
    return results | changes


def detections_of(split):
    found = as_boxes([[11, 10, 20, 40], [30, 10, 40, 40]])
    return {scene.name: (found, np.array([0.9, 0.6], np.float32)) for scene in split.scenes}


@pytest.fixture
def run_dir(tmp_path):
    run = tmp_path / "my <run>"
    run.mkdir()
    (run / "config.yaml").write_text(to_yaml(Config()), encoding="utf-8")
    (run / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.0, "loss/reid": 1.0, "lr/reid": 0.1, "identity_accuracy": 0.1}\n', encoding="utf-8"
    )
    return run


def write(run_dir, out, **changes):
    split = changes.pop("split", make_split())
    arguments = {
        "split": split,
        "results": make_results(),
        "predictions": detections_of(split),
        "proposals": detections_of(split),
        "reference_rows": [{"name": "random ranking", "map": 0.0123, "top1": 0.02, "top5": 0.03, "top10": 0.04}],
        "record": make_record(
            checkpoint=run_dir / "<best>.pt",
            model_id="0123",
            stored=method_settings("baseline"),
            split=split,
            config=Config(),
        ),
        "read_scene": read_scene,
    }
    index = write_report(run_dir, out, **(arguments | changes))
    assert index == out / "index.html"
    return Page(index.read_text(encoding="utf-8"))


def test_a_full_report_has_every_section_and_number(run_dir, tmp_path):
    pairs = [
        {"query": 1, "gallery": 2, "map": 0.333, "queries": 3},
        {"query": 2, "gallery": 1, "map": 0.1, "queries": 1},
    ]
    seen = {"map": 0.555, "top1": 0.666, "queries": 4}
    search = [make_search("gallery 50", camera_pairs=pairs, seen=seen), make_search("gallery 100", map=0.2)]
    page = write(run_dir, tmp_path / "report", results=make_results(search=search))
    sections = {"metrics", "training", "cameras", "scenes", "proposals", "rankings", "worst", "configuration"}
    assert sections <= page.ids
    assert {attrs["href"].removeprefix("#") for attrs in page.all("a") if attrs["href"][0] == "#"} == sections
    for number in ("43.2", "50.0", "62.5", "87.6", "91.2", "77.7", "33.3", "55.5", "66.6", "1.2", "random ranking"):
        assert number in page.text, number
    curves = {path.name for path in (tmp_path / "report" / "curves").iterdir()}
    names = {"loss", "accuracy", "rates", "precision-recall", "cmc", "gallery"}
    assert curves == {f"{name}.svg" for name in names}


def test_every_address_is_relative_and_there_and_every_picture_is_described(run_dir, tmp_path):
    out = tmp_path / "report"
    page = write(run_dir, out)
    used = [attrs["src"] for attrs in page.all("img")]
    used += [attrs["href"] for attrs in page.all("a") if attrs["href"][0] != "#"]
    assert used
    for address in used:
        assert ":" not in address
        assert (out / address).is_file(), address
    for image in page.all("img"):
        assert image["alt"]
        assert image["width"]
        assert image["height"]
    assert not page.all("script")
    assert all(attrs["href"].startswith("data:") for attrs in page.all("link"))
    assert all("scope" in attrs for attrs in page.all("th"))
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert written == {"index.html", *used}


def test_names_are_escaped(run_dir, tmp_path):
    page = write(run_dir, tmp_path / "report")
    assert NASTY in page.text
    assert "my <run>" in page.text
    assert not [image for image in page.all("img") if "onerror" in image]


def test_what_is_not_there_leaves_out_its_section(tmp_path):
    run = tmp_path / "bare"
    run.mkdir()
    results = {"dataset": "synthetic", "split": "test", "scenes": 0, "detections": 0, "search": [], "queries": []}
    page = write(run, tmp_path / "report", results=results, predictions={}, proposals=None, reference_rows=[])
    assert page.ids == {"metrics", "configuration"}
    assert not page.all("img")


def test_missing_numbers_are_dashes(run_dir, tmp_path):
    search = [make_search(map=None, top1=float("nan"))]
    page = write(run_dir, tmp_path / "report", results=make_results(search=search))
    assert f"all scenes {DASH} {DASH} 62.5" in page.text
    assert [percent(value) for value in (None, float("nan"), 0, 1, 0.12345)] == [DASH, DASH, "0.0", "100.0", "12.3"]


@pytest.mark.parametrize(
    "error",
    [DataError("cannot be decoded"), FileNotFoundError(2, "No such file"), RuntimeError("bad"), ValueError("x")],
)
def test_unreadable_pictures_are_listed_once_and_replaced(run_dir, tmp_path, error):
    tries = []

    def read(scene):
        if scene.name == "broken.jpg":
            tries.append(scene)
            raise error
        return read_scene(scene)

    page = write(run_dir, tmp_path / "report", read_scene=read)
    assert "1 picture could not be read" in page.text
    assert page.text.count(f"broken.jpg: {error.args[-1]}") == 1
    assert any("cannot be read" in image["alt"] for image in page.all("img"))
    assert len(tries) == 1


def test_pictures_of_the_wrong_kind_are_unreadable(run_dir, tmp_path):
    page = write(run_dir, tmp_path / "report", read_scene=lambda scene: np.zeros((60, 80), np.float32))
    assert "4 pictures could not be read" in page.text


@pytest.mark.parametrize("broken", ["a: [", "training: 3", "- 1"])
def test_of_a_broken_config_only_the_training_is_left_out(run_dir, tmp_path, broken):
    (run_dir / "config.yaml").write_text(broken, encoding="utf-8")
    text = write(run_dir, tmp_path / "report").text
    assert "backbone resnet50" in text
    assert "max_epochs" not in text


def test_the_settings_are_those_evaluated_with_and_of_the_run_its_training(run_dir, tmp_path):
    run = with_settings(Config(), max_epochs=77, backbone="resnet18", dataset="prw", seed=3)
    (run_dir / "config.yaml").write_text(to_yaml(run), encoding="utf-8")
    text = write(run_dir, tmp_path / "report").text
    assert "max_epochs: 77" in text
    assert "backbone resnet50" in text
    assert "dataset: synthetic" in text
    assert "seed: 0" in text


def test_the_page_says_what_was_evaluated(run_dir, tmp_path):
    text = write(run_dir, tmp_path / "report").text
    assert f"{run_dir.resolve()}/<best>.pt, model id 0123" in text
    assert f"person-search {__version__}" in text


def test_configuration_is_summed_up_and_shown_whole(run_dir, tmp_path):
    text = write(run_dir, tmp_path / "report").text
    assert "backbone resnet50" in text
    assert "re-ID loss oim" in text
    assert "pre_nms_train: 12000" in text


def test_a_report_replaces_the_one_before(run_dir, tmp_path):
    out = tmp_path / "report"
    write(run_dir, out)
    write(run_dir, out, results=make_results(queries=[]), proposals=None)
    assert {path.stem[:5] for path in (out / "pictures").iterdir()} == {"scene"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my <run>", "report"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ZeroDivisionError()])
def test_an_interrupted_report_leaves_the_one_before_as_it_was(run_dir, tmp_path, error):
    out = tmp_path / "report"
    write(run_dir, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    def interrupt(scene):
        raise error

    with pytest.raises(type(error)):
        write(run_dir, out, read_scene=interrupt)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my <run>", "report"]


@pytest.mark.parametrize("foreign", ["notes.txt", "index.html"])
def test_a_folder_with_other_things_in_it_is_refused(run_dir, tmp_path, foreign):
    out = tmp_path / "mine"
    out.mkdir()
    (out / foreign).write_text("precious")
    with pytest.raises(UsageError, match=foreign):
        write(run_dir, out)
    assert (out / foreign).read_text() == "precious"


def test_a_report_with_a_file_added_to_it_is_refused(run_dir, tmp_path):
    out = tmp_path / "report"
    write(run_dir, out)
    (out / "notes.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"notes\.txt"):
        write(run_dir, out)


def test_a_file_in_the_way_is_refused(run_dir, tmp_path):
    (tmp_path / "report").write_text("precious")
    with pytest.raises(UsageError, match="expected a folder"):
        write(run_dir, tmp_path / "report")


def test_an_empty_folder_is_used(run_dir, tmp_path):
    (tmp_path / "report").mkdir()
    assert "metrics" in write(run_dir, tmp_path / "report").ids


def test_a_place_that_cannot_be_written_is_one_line(run_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PersonSearchError, match="cannot write report") as caught:
        write(run_dir, tmp_path / "file" / "report")
    assert "\n" not in str(caught.value)


def test_at_most_the_wanted_number_of_lists_is_shown(run_dir, tmp_path):
    page = write(run_dir, tmp_path / "report", max_queries=3)
    assert len(page.all("article")) == 3
    assert not write(run_dir, tmp_path / "report", max_queries=0).all("article")


def test_only_the_worst_queries_show_who_should_have_been_found(run_dir, tmp_path):
    text = write(run_dir, tmp_path / "report").text
    shown = "Who should have been found"
    before, _, worst = text.partition("Worst queries The 2 queries")
    assert shown not in before
    assert worst.count(shown) == 2


def test_hits_are_marked_and_described_as_judged(run_dir, tmp_path):
    query = make_query(0, 0.5)
    query["top"].append(query["top"][0] | {"correct": None})
    page = write(run_dir, tmp_path / "report", results=make_results(queries=[query]))
    people = [attrs["class"] for attrs in page.all("figure") if "person" in attrs.get("class", "")]
    assert people == ["person asked", "person right", "person wrong", "person unjudged"]
    described = [image["alt"].split(":")[0] for image in page.all("img") if image["alt"].startswith("Rank")]
    assert described == ["Rank 1, right", "Rank 2, wrong", "Rank 3, unjudged"]
    assert "✓ 1. 0.750" in page.text
    assert "✗ 2. 0.500" in page.text


def test_scenes_to_be_found_are_those_counted_not_those_kept(run_dir, tmp_path):
    queries = [make_query(k, 0.0, truths=7) | {"truth_scenes": 40, "found_scenes": 11} for k in range(3)]
    text = write(run_dir, tmp_path / "report", results=make_results(queries=queries)).text
    assert "found in 11 of 40 gallery scenes" in text
    assert "(5 of 40)" in text


def test_the_whole_set_is_a_gallery_size(run_dir, tmp_path):
    search = [make_search("gallery 2"), make_search("whole set")]
    write(run_dir, tmp_path / "report", results=make_results(search=search))
    assert ">3</text>" in (tmp_path / "report" / "curves" / "gallery.svg").read_text(encoding="utf-8")


def test_large_scenes_are_shrunk_with_their_boxes_and_keep_their_colours(tmp_path):
    image = np.full((600, 1920, 3), (200, 100, 20), np.uint8)
    picture = Pictures(tmp_path, make_scenes("big.jpg"), lambda _: image).scene_with(
        "big", "big.jpg", [Layer(as_boxes([[400, 100, 1200, 500]]), (0, 0, 255), thickness=3)]
    )
    written = cv2.imread(str(tmp_path / picture.src))[..., ::-1].astype(int)
    assert written.shape == (picture.height, picture.width, 3) == (300, 960, 3)
    np.testing.assert_allclose(written[10, 10], (200, 100, 20), atol=12)
    rows, columns = np.nonzero((written[..., 2] > 150) & (written[..., 0] < 100))
    np.testing.assert_allclose([columns.min(), rows.min(), columns.max(), rows.max()], [200, 50, 600, 250], atol=3)


def test_a_scene_is_tried_once_however_often_it_is_asked_for(tmp_path):
    tries = []
    names = ["broken.jpg", *(f"{number}.jpg" for number in range(30))]
    pictures = Pictures(tmp_path, make_scenes(*names), lambda scene: tries.append(scene.name) or read_scene(scene))
    for name in [*names, "broken.jpg"]:
        pictures.scene(name)
    assert tries.count("broken.jpg") == 1


def test_whole_scenes_keep_the_place_of_unreadable_hits(tmp_path):
    pictures = Pictures(tmp_path, make_split().scenes, read_scene)
    query = make_query(0, 0.5)
    hits = [query["top"][1], query["top"][0]]
    both = pictures.whole_scenes("both", query, hits)
    alone = pictures.whole_scenes("alone", query, hits[1:])
    assert both.width > alone.width
    assert pictures.whole_scenes("none", query | {"scene": "broken.jpg"}, hits) is None


def test_chosen_queries_are_the_worst_the_best_and_a_spread():
    aps = [0.5, 0.1, 0.9, None, 0.2, 0.9, float("nan"), 0.6, 0.3, 0.1, 0.7, 0.8]
    queries = [make_query(number, ap, truths=number) for number, ap in enumerate(aps)]
    chosen = {kind: [query["number"] for query in found] for kind, found in choose_queries(queries, 6).items()}
    assert chosen == {"worst": [1, 9], "best": [5, 2], "spread": [0, 11]}


def test_queries_with_nobody_to_find_are_not_chosen():
    aps = [float("nan"), 0.5, None, 0.4, 0.6]
    queries = [make_query(number, ap) for number, ap in enumerate(aps)]
    assert {kind: [query["number"] for query in found] for kind, found in choose_queries(queries, 9).items()} == {
        "worst": [3],
        "best": [4],
        "spread": [1],
    }


def test_right_hits_are_boxed_green_and_wrong_ones_red(run_dir, tmp_path):
    def read(scene):
        return np.full((60, 80, 3), 128, np.uint8)

    write(run_dir, tmp_path / "report", read_scene=read)
    for rank, channel in ((1, 1), (2, 0)):
        crop = cv2.imread(str(tmp_path / "report" / "pictures" / f"query-0-hit-{rank}.jpg"))[..., ::-1].astype(int)
        boxed = np.abs(crop - 128).max(-1) > 40
        assert boxed.any()
        assert (crop[boxed].argmax(-1) == channel).mean() > 0.8


@pytest.mark.parametrize(("count", "wanted"), [(0, 6), (1, 6), (2, 6), (3, 6), (5, 6), (40, 24), (40, 1), (40, 2)])
def test_no_query_is_chosen_twice(count, wanted):
    queries = [make_query(number, (number * 7 % 11) / 11) for number in range(count)]
    numbers = [query["number"] for found in choose_queries(queries, wanted).values() for query in found]
    assert len(numbers) == len(set(numbers)) == min(count, wanted)


def test_spread_takes_both_ends():
    assert spread(0, 3) == []
    assert spread(2, 3) == [0, 1]
    assert spread(11, 3) == [0, 5, 10]
    assert spread(5, 0) == []


def test_what_scenes_count_is_what_detection_scores(tmp_path):
    rng = np.random.default_rng(3)
    scenes, found = [], {}
    for number in range(30):
        truths = as_boxes(random_boxes(rng, rng.integers(0, 6)))
        ignore = as_boxes(random_boxes(rng, rng.integers(0, 2)))
        scenes.append(Scene(f"{number}.jpg", truths, np.arange(len(truths)), ignore=ignore))
        near = np.repeat(truths, 2, axis=0) + rng.normal(0, 5, (2 * len(truths), 4))
        boxes = as_boxes(np.concatenate([near, random_boxes(rng, 3), ignore + 1]))
        found[f"{number}.jpg"] = (boxes, rng.random(len(boxes)).astype(np.float32))
    split = Split("synthetic", "test", tmp_path, scenes, 6)
    offsets = np.cumsum([0, *(len(boxes) for boxes, _ in found.values())])
    boxes = np.concatenate([boxes for boxes, _ in found.values()])
    scores = np.concatenate([scores for _, scores in found.values()])
    zeros = np.zeros((len(boxes), 1), np.float32)
    predictions = Predictions(
        [scene.name for scene in scenes], offsets, boxes, scores, zeros, np.zeros((0, 1), np.float32)
    )
    counted = without_ignored(predictions, split)
    metrics = detection_metrics(counted, split, threshold=0.3, labelled=False)

    shown = detection_scenes(split, found, Pictures(tmp_path, split.scenes, read_scene), threshold=0.3, wanted=30)
    totals = {kind: sum(scene.counts[kind] for scene in shown) for kind in ("right", "missed", "false")}
    assert totals["right"] == round(metrics.recall * metrics.boxes) > 20
    assert totals["right"] + totals["missed"] == metrics.boxes
    assert totals["right"] + totals["false"] == (counted.scores >= 0.3).sum() < (scores >= 0.3).sum()


def random_boxes(rng, count):
    corners = rng.uniform(0, 40, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(10, 40, (count, 2))], axis=1)


def test_of_two_detections_on_a_person_the_closer_is_right():
    truths = as_boxes([[0, 0, 10, 20]])
    assert mutual_best(as_boxes([[0, 0, 10, 17], [0, 0, 10, 19]]), truths).tolist() == [-1, 0]
    assert mutual_best(as_boxes([[0, 0, 10, 9]]), truths).tolist() == [-1]
    assert mutual_best(as_boxes([]), truths).tolist() == []
    assert mutual_best(truths, as_boxes([])).tolist() == [-1]


def test_only_the_fifty_best_proposals_are_shown_by_what_they_are_on(tmp_path):
    split = make_split(("a.jpg",))
    on_identity, on_other = split.scenes[0].boxes
    boxes = as_boxes([on_identity] * 10 + [on_other] * 20 + [[30, 30, 45, 45]] * 40)
    scores = np.concatenate([np.linspace(1, 0.9, 30), np.linspace(0.8, 0.1, 40)]).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(boxes))
    shown = proposal_scenes(
        split, {"a.jpg": (boxes[order], scores[order])}, Pictures(tmp_path, split.scenes, read_scene)
    )
    assert shown[0].counts == {"background": 20, "without identity": 20, "with identity": 10}


def test_the_report_does_not_need_torch():
    code = "import sys, person_search.visualize.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
