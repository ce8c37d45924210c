"""Loader and scorer together against loops that walk through the published files as the literature's scorers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from published_loops import Detections, Listing, annotated_ap, listed_ap
from scipy.io import savemat

from person_search.config import EvaluationConfig
from person_search.data.cuhk_sysu import CuhkSysuDataset
from person_search.data.prw import PrwDataset
from person_search.data.scene import Protocol, ProtocolOptions, Split
from person_search.evaluation.overlaps import offsets_of
from person_search.evaluation.predictions import Predictions
from person_search.evaluation.results import Results, score

IMAGES = [f"s{number}.jpg" for number in range(30)]
PEOPLE = 6


def records(fields: str, rows: list[tuple[object, ...]]) -> np.ndarray:
    array = np.empty((1, len(rows)), dtype=[(field, object) for field in fields.split()])
    for number, row in enumerate(rows):
        array[0, number] = row
    return array


def corners(box: tuple[int, ...]) -> tuple[float, ...]:
    x, y, w, h = box
    return float(x), float(y), float(x + w), float(y + h)


def detect(rng: np.random.Generator, boxes: dict[str, list[tuple[float, ...]]]) -> Detections:
    """Most true boxes, moved a little, and some that are none; embeddings without ties."""
    found: dict[str, list[tuple[list[float], list[float]]]] = {}
    for name, true in boxes.items():
        near = [np.add(box, rng.integers(-6, 7, 4)) for box in true for _ in range(2) if rng.random() < 0.7]
        others = [np.array([x, x, x + 30, x + 60]) for x in rng.integers(0, 400, rng.integers(0, 3))]
        found[name] = [
            (box.astype(float).tolist(), rng.standard_normal(4).astype(np.float32).tolist()) for box in near + others
        ]
    return found


def scored(detections: Detections, queries: np.ndarray, split: Split, protocol: Protocol) -> Results:
    rows = [row for scene in split.scenes for row in detections[scene.name]]
    predictions = Predictions(
        scene_names=np.array([scene.name for scene in split.scenes]),
        offsets=offsets_of(np.array([len(detections[scene.name]) for scene in split.scenes])),
        boxes=np.array([box for box, _ in rows], np.float32),
        scores=np.ones(len(rows), np.float32),
        embeddings=np.array([embedding for _, embedding in rows], np.float32),
        query_embeddings=queries,
    )
    predictions.validate()
    return score(predictions, split, [protocol], EvaluationConfig())


class TestListedGalleries:
    """CUHK-SYSU: query 1 lists an image with its person twice, query 2 one without, query 3 one of each thrice."""

    @pytest.fixture
    def people(self) -> dict[tuple[str, int], tuple[int, int, int, int]]:
        rng = np.random.default_rng(4)
        return {
            (name, person): (int(60 * person), int(rng.integers(0, 200)), int(rng.integers(20, 50)), 90)
            for name in IMAGES
            for person in range(PEOPLE)
            if name == IMAGES[person] or rng.random() < 0.4
        }

    @pytest.fixture
    def lists(self, people: dict[tuple[str, int], tuple[int, int, int, int]]) -> list[list[Listing]]:
        rng = np.random.default_rng(5)
        lists = []
        for person in range(PEOPLE):
            names = [name for name in IMAGES if name != IMAGES[person]]
            held = [name for name in names if (name, person) in people]
            without = [name for name in names if name not in held]
            again = {1: [held[0]], 2: [without[0]], 3: [held[1], held[1], without[1], without[1]]}.get(person, [])
            held_listed = [name for name in again if name in held] + held
            listed = held_listed + [str(name) for name in rng.permutation(without)] + list(again)[len(again) // 2 :]
            lists.append([(name, people.get((name, person))) for name in listed])
        return lists

    def write(
        self, folder: Path, people: dict[tuple[str, int], tuple[int, int, int, int]], lists: list[list[Listing]]
    ) -> CuhkSysuDataset:
        protocols = folder / "annotation" / "test" / "train_test"
        protocols.mkdir(parents=True)
        images = []
        for name in IMAGES:
            own = [np.array([box]) for (image, _), box in people.items() if image == name]
            images.append((name, float(len(own)), records("idlocate ishard", [(box, 0.0) for box in own])))
        savemat(folder / "annotation" / "Images.mat", {"Img": records("imname nAppear box", images)})
        pool = np.empty((len(IMAGES), 1), dtype=object)
        pool[:, 0] = IMAGES
        savemat(folder / "annotation" / "pool.mat", {"pool": pool})
        rows: list[tuple[object, ...]] = []
        for person, gallery in enumerate(lists):
            query = (IMAGES[person], np.array([people[IMAGES[person], person]]), 0.0, f"p{person}")
            listed = [(name, np.zeros((0, 0)) if box is None else np.array([box]), 0.0) for name, box in gallery]
            rows.append((records("imname idlocate ishard idname", [query]), records("imname idlocate ishard", listed)))
        for size in (50, 100):
            savemat(protocols / f"TestG{size}.mat", {f"TestG{size}": records("Query Gallery", rows)})
        return CuhkSysuDataset(folder)

    def test_an_image_listed_twice_counts_twice_and_enters_once(
        self,
        tmp_path: Path,
        people: dict[tuple[str, int], tuple[int, int, int, int]],
        lists: list[list[Listing]],
    ) -> None:
        rng = np.random.default_rng(6)
        dataset = self.write(tmp_path, people, lists)
        split = dataset.split("test")
        boxes: dict[str, list[tuple[float, ...]]] = {name: [] for name in IMAGES}
        for (name, _), box in people.items():
            boxes[name].append(corners(box))
        detections = detect(rng, boxes)
        queries = rng.standard_normal((PEOPLE, 4)).astype(np.float32)
        for size in (50, 100):
            protocol = dataset.protocol(split, ProtocolOptions(gallery_size=size))
            results = scored(detections, queries, split, protocol)
            wanted = [listed_ap(queries[person], lists[person], detections) for person in range(PEOPLE)]
            found = [(query.ap, query.recall) for query in results.queries]
            np.testing.assert_allclose(np.array(found), np.array(wanted), rtol=0, atol=1e-12)
            assert results.search[0].map == pytest.approx(np.mean([ap for ap, _ in wanted]), abs=1e-12)
            once = [listed_ap(queries[p], list(dict(lists[p]).items()), detections) for p in range(PEOPLE)]
            # The doubled image without the person changes nothing; those with the person lower recall and AP.
            differs = [person for person in range(PEOPLE) if once[person] != pytest.approx(wanted[person], abs=1e-12)]
            assert differs == [1, 3]
            assert all(once[person] > wanted[person] for person in differs)

    def test_the_whole_set_lists_every_image_once(
        self,
        tmp_path: Path,
        people: dict[tuple[str, int], tuple[int, int, int, int]],
        lists: list[list[Listing]],
    ) -> None:
        rng = np.random.default_rng(7)
        dataset = self.write(tmp_path, people, lists)
        split = dataset.split("test")
        detections = detect(rng, {name: [corners(b) for (n, _), b in people.items() if n == name] for name in IMAGES})
        queries = rng.standard_normal((PEOPLE, 4)).astype(np.float32)
        results = scored(detections, queries, split, dataset.protocol(split, ProtocolOptions(gallery_size=-1)))
        for person, query in enumerate(results.queries):
            gallery = [(name, people.get((name, person))) for name in IMAGES if name != IMAGES[person]]
            wanted = listed_ap(queries[person], gallery, detections)
            assert (query.ap, query.recall) == pytest.approx(wanted, abs=1e-12)


def test_of_two_boxes_of_a_person_in_a_frame_the_first_is_the_true_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    frames = [f"c{1 + number % 3}s1_{number:06d}" for number in range(20)]
    folder = tmp_path / "PRW"
    (folder / "annotations").mkdir(parents=True)
    annotations: dict[str, tuple[list[int], np.ndarray]] = {}
    for number, frame in enumerate(frames):
        # Everybody once; in every third frame person 7 again, far from where they are the first time.
        ids = [int(person) for person in rng.permutation([7, 8, 9])] + ([7] if number % 3 == 0 else [])
        xywh = np.array([[100 * k, int(rng.integers(0, 200)), 40, 90] for k in range(len(ids))])
        savemat(folder / "annotations" / f"{frame}.jpg.mat", {"box_new": np.column_stack([ids, xywh]).astype(float)})
        annotations[f"{frame}.jpg"] = (ids, np.array([corners(tuple(box)) for box in xywh.tolist()]))
    names = np.empty((len(frames), 1), dtype=object)
    names[:, 0] = frames
    savemat(folder / "frame_test.mat", {"img_index_test": names})
    other = np.empty((1, 1), dtype=object)
    other[0, 0] = "c1s1_999999"
    savemat(folder / "frame_train.mat", {"img_index_train": other})
    savemat(folder / "ID_train.mat", {"ID_train": np.array([[7.0, 8.0, 9.0]])})
    asked = [(7, 1), (8, 2), (9, 3), (7, 4)]
    lines = []
    for person, number in asked:
        ids, boxes = annotations[f"{frames[number]}.jpg"]
        x1, y1, x2, y2 = boxes[ids.index(person)]
        lines.append(f"{person} {x1} {y1} {x2 - x1} {y2 - y1} {frames[number]}\r\n")
    (folder / "query_info.txt").write_bytes("".join(lines).encode())

    dataset = PrwDataset(tmp_path)
    split = dataset.split("test")
    detections = detect(rng, {name: [tuple(box) for box in boxes] for name, (_, boxes) in annotations.items()})
    queries = rng.standard_normal((len(asked), 4)).astype(np.float32)
    results = scored(detections, queries, split, dataset.protocol(split, ProtocolOptions()))
    wanted = [
        annotated_ap(queries[q], person, f"{frames[number]}.jpg", annotations, detections)
        for q, (person, number) in enumerate(asked)
    ]
    assert [query.ap for query in results.queries] == pytest.approx([ap for ap, _ in wanted], abs=1e-12)
    assert [query.recall for query in results.queries] == pytest.approx([recall for _, recall in wanted], abs=1e-12)
