"""The predictions file: written whole, read without running anything, and every broken rule named."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from person_search.data.scene import Query, Scene, Split, as_boxes
from person_search.errors import DataError
from person_search.evaluation.optional_arrays import CONTEXT, OPTIONAL_ARRAYS, OptionalArray
from person_search.evaluation.predictions import REQUIRED, Predictions, align


@pytest.fixture
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (5, 2))
    boxes = np.concatenate([corners, corners + 30], axis=1).astype(np.float32)
    return Predictions(
        scene_names=np.array(["a.jpg", "b.jpg", "c.jpg"]),
        offsets=np.array([0, 2, 2, 5]),
        boxes=boxes,
        scores=rng.random(5, np.float32),
        embeddings=rng.standard_normal((5, 4)).astype(np.float32),
        query_embeddings=rng.standard_normal((2, 4)).astype(np.float32),
        query_offsets=np.array([0, 1, 3]),
        query_boxes=boxes[:3],
        query_scores=np.ones(3, np.float32),
        query_context=rng.standard_normal((3, 4)).astype(np.float32),
    )


def assert_equal(a: Predictions, b: Predictions) -> None:
    for name in (*REQUIRED, *CONTEXT):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def arrays_of(predictions: Predictions) -> dict[str, Any]:
    return {name: getattr(predictions, name) for name in (*REQUIRED, *CONTEXT)}


class TestFile:
    def test_comes_back_as_written(self, predictions: Predictions, tmp_path: Path) -> None:
        predictions.save(tmp_path / "new" / "p.npz")
        assert_equal(Predictions.load(tmp_path / "new" / "p.npz"), predictions)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.npz"]

    def test_without_context(self, predictions: Predictions, tmp_path: Path) -> None:
        plain = replace(predictions, query_offsets=None, query_boxes=None, query_scores=None, query_context=None)
        plain.save(tmp_path / "p.npz")
        assert Predictions.load(tmp_path / "p.npz").query_context is None

    def test_the_model_id_is_optional_and_one_text(self, predictions: Predictions, tmp_path: Path) -> None:
        path = tmp_path / "p.npz"
        replace(predictions, model_id="0123abcd").save(path)
        assert Predictions.load(path).model_id == "0123abcd"
        predictions.save(path)
        assert Predictions.load(path).model_id is None
        np.savez(path, **arrays_of(predictions), model_id=np.array(["0123abcd"]))
        assert Predictions.load(path).model_id == "0123abcd"
        for wrong in (np.array(["a", "b"]), np.array(3)):
            np.savez(path, **arrays_of(predictions), model_id=wrong)
            with pytest.raises(DataError, match=r"p\.npz': array 'model_id' .* expected one text"):
                Predictions.load(path)

    def test_other_integer_offsets_are_read_as_int64(self, predictions: Predictions, tmp_path: Path) -> None:
        replace(predictions, offsets=predictions.offsets.astype(np.uint16)).save(tmp_path / "p.npz")
        assert Predictions.load(tmp_path / "p.npz").offsets.dtype == np.int64

    def test_full_disk_keeps_the_old_file(
        self, predictions: Predictions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "p.npz"
        predictions.save(path)
        before = path.read_bytes()

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"cannot write predictions '.*p\.npz': No space left"):
            replace(predictions, scores=np.zeros(5, np.float32)).save(path)
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["p.npz"]

    def test_a_folder_that_cannot_be_made(self, predictions: Predictions, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="cannot write predictions"):
            predictions.save(tmp_path / "file" / "p.npz")

    def test_invalid_predictions_are_not_written(self, predictions: Predictions, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="'scores'"):
            replace(predictions, scores=np.full(5, 2, np.float32)).save(tmp_path / "p.npz")
        assert list(tmp_path.iterdir()) == []

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no such file"):
            Predictions.load(tmp_path / "p.npz")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"hello"])
    def test_not_an_archive(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "p.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"expected a NumPy \.npz archive"):
            Predictions.load(tmp_path / "p.npz")

    def test_truncated(self, predictions: Predictions, tmp_path: Path) -> None:
        predictions.save(tmp_path / "p.npz")
        whole = (tmp_path / "p.npz").read_bytes()
        (tmp_path / "p.npz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DataError, match=r"expected a NumPy \.npz archive"):
            Predictions.load(tmp_path / "p.npz")

    def test_damaged_inside(self, predictions: Predictions, tmp_path: Path) -> None:
        predictions.save(tmp_path / "p.npz")
        whole = bytearray((tmp_path / "p.npz").read_bytes())
        place = whole.find(predictions.embeddings.tobytes())
        whole[place] ^= 0xFF
        (tmp_path / "p.npz").write_bytes(whole)
        with pytest.raises(DataError, match="'embeddings' cannot be read"):
            Predictions.load(tmp_path / "p.npz")

    def test_single_array(self, tmp_path: Path) -> None:
        np.save(tmp_path / "p.npy", np.zeros(3))
        with pytest.raises(DataError, match="single array"):
            Predictions.load(tmp_path / "p.npy")

    def test_pickles_are_refused_and_not_run(self, predictions: Predictions, tmp_path: Path) -> None:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return (Path.touch, (tmp_path / "ran",))

        np.savez(tmp_path / "p.npz", **{**arrays_of(predictions), "scores": np.array([Trap()], object)})
        with pytest.raises(DataError, match="'scores' holds pickled objects"):
            Predictions.load(tmp_path / "p.npz")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize("name", ["offsets", "query_embeddings", "query_scores"])
    def test_missing_array(self, name: str, predictions: Predictions, tmp_path: Path) -> None:
        arrays = arrays_of(predictions)
        del arrays[name]
        np.savez(tmp_path / "p.npz", **arrays)
        with pytest.raises(DataError, match=f"'{name}'"):
            Predictions.load(tmp_path / "p.npz")


def with_value(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("scene_names", lambda a: a.astype("S"), r"unicode strings"),
        ("scene_names", lambda a: a[[0, 1, 0]], r"scene 'a.jpg' is listed 2 times"),
        ("offsets", lambda a: np.array([0, 3, 2, 5]), r"int64 of shape \(4,\): falls from 3 to 2 at 2"),
        ("offsets", lambda a: np.array([1, 2, 2, 5]), r"runs from 1 to 5; expected from 0 to the 5 rows"),
        ("offsets", lambda a: np.array([0, 2, 2, 4]), r"runs from 0 to 4"),
        ("offsets", lambda a: a[:-1], r"expected shape \(4,\), one more than the 3 scenes"),
        ("offsets", lambda a: a.astype(float), r"float64.*expected int64"),
        ("boxes", lambda a: a.astype(np.float64), r"float64 of shape \(5, 4\): expected float32"),
        ("boxes", lambda a: a[:, :3], r"expected shape \(any, 4\)"),
        ("boxes", lambda a: a[:, [2, 1, 0, 3]], r"row 0 is .* x1 <= x2"),
        ("boxes", lambda a: with_value(a, (3, 1), np.inf), r"row 3 holds NaN or infinity"),
        ("scores", lambda a: a[:4], r"of shape \(4,\): expected shape \(5\)"),
        ("scores", lambda a: with_value(a, 2, 1.5), r"row 2 is 1.5; scores lie in 0..1"),
        ("embeddings", lambda a: with_value(a, (4, 0), np.nan), r"float32 of shape \(5, 4\): row 4 holds NaN"),
        ("embeddings", lambda a: a[:, None], r"expected shape \(5, any\)"),
        ("query_embeddings", lambda a: a[:, :3], r"expected shape \(any, 4\)"),
        ("query_embeddings", lambda a: with_value(a, (1, 2), np.nan), r"row 1 holds NaN"),
        ("query_offsets", lambda a: np.array([0, 0, 3]), r"query 0 has no people"),
        ("query_offsets", lambda a: np.array([0, 3]), r"one more than the 2 queries"),
        ("query_context", lambda a: a[:2], r"expected shape \(3, 4\)"),
        ("query_scores", lambda a: -a, r"scores lie in 0..1"),
    ],
)
def test_broken_rules_name_array_shape_and_rule(
    name: str, change: Any, message: str, predictions: Predictions, tmp_path: Path
) -> None:
    arrays = arrays_of(predictions)
    arrays[name] = change(arrays[name])
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(DataError, match=f"'{name}' .*{message}") as caught:
        Predictions.load(tmp_path / "p.npz")
    assert "\n" not in str(caught.value)


@pytest.fixture
def with_arrays(predictions: Predictions, monkeypatch: pytest.MonkeyPatch) -> Predictions:
    """Those that are declared, and one with a row for each detection."""
    monkeypatch.setitem(OPTIONAL_ARRAYS, "distances", OptionalArray("distances", ("M", 2)))
    rng = np.random.default_rng(1)
    shapes = {"scene_embeddings": (3, 6), "query_scene_embeddings": (2, 6), "distances": (5, 2)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return replace(predictions, arrays=arrays)


class TestOptionalArrays:
    def test_come_back_as_written(self, with_arrays: Predictions, tmp_path: Path) -> None:
        with_arrays.save(tmp_path / "p.npz")
        found = Predictions.load(tmp_path / "p.npz")
        assert found.arrays.keys() == with_arrays.arrays.keys()
        for name, value in with_arrays.arrays.items():
            np.testing.assert_array_equal(found.arrays[name], value)
            np.testing.assert_array_equal(found.optional(name), value)

    def test_files_without_them_have_none(self, predictions: Predictions, tmp_path: Path) -> None:
        np.savez(tmp_path / "p.npz", **arrays_of(predictions), something_else=np.zeros(3))
        found = Predictions.load(tmp_path / "p.npz")
        assert found.arrays == {}
        assert found.optional("scene_embeddings") is None

    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("scene_embeddings", lambda a: a[:2], r"float32 of shape \(2, 6\): expected shape \(3, any\)"),
            ("scene_embeddings", lambda a: a[:, 0], r"of shape \(3,\): expected shape \(3, any\)"),
            ("scene_embeddings", lambda a: a.astype(np.float64), "expected float32"),
            ("scene_embeddings", lambda a: with_value(a, (1, 0), np.nan), "row 1 holds NaN"),
            ("query_scene_embeddings", lambda a: a[:1], r"expected shape \(2, 6\)"),
            ("query_scene_embeddings", lambda a: a[:, :5], r"expected shape \(2, 6\)"),
            ("distances", lambda a: a[:4], r"expected shape \(5, 2\)"),
        ],
    )
    def test_are_of_the_shape_that_is_declared(
        self, name: str, change: Any, message: str, with_arrays: Predictions, tmp_path: Path
    ) -> None:
        arrays = {**with_arrays.arrays, name: change(with_arrays.arrays[name])}
        np.savez(tmp_path / "p.npz", **arrays_of(with_arrays), **arrays)
        with pytest.raises(DataError, match=f"'{name}' .*{message}"):
            Predictions.load(tmp_path / "p.npz")

    def test_others_are_refused_with_the_nearest_name(self, predictions: Predictions, tmp_path: Path) -> None:
        unknown = replace(predictions, arrays={"scene_embedding": np.zeros((3, 2), np.float32)})
        with pytest.raises(DataError, match=r"no optional array 'scene_embedding'.*Did you mean 'scene_embeddings'"):
            unknown.save(tmp_path / "p.npz")
        with pytest.raises(DataError, match="no optional array 'scene_embedding'"):
            unknown.keep(unknown.scores < 0)
        with pytest.raises(DataError, match="'query_scores' is a field of predictions"):
            replace(predictions, arrays={"query_scores": np.zeros(3, np.float32)}).validate()

    def test_rows_of_detections_go_with_them(self, with_arrays: Predictions) -> None:
        kept = with_arrays.keep(np.array([True, False, False, True, True]))
        kept.validate()
        np.testing.assert_array_equal(kept.arrays["distances"], with_arrays.arrays["distances"][[0, 3, 4]])
        for name in ("scene_embeddings", "query_scene_embeddings"):
            np.testing.assert_array_equal(kept.arrays[name], with_arrays.arrays[name])

    def test_rows_of_scenes_take_the_order_of_the_split(self, with_arrays: Predictions) -> None:
        scenes = [Scene(name, as_boxes([]), np.zeros(0, np.int64)) for name in ("c.jpg", "a.jpg", "b.jpg")]
        box = as_boxes([(0, 0, 1, 1)])[0]
        split = Split("prw", "test", Path("."), scenes, 1, [Query(0, box, 0), Query(1, box, 0)])
        aligned = align(with_arrays, split)
        aligned.validate()
        for name, rows in {
            "scene_embeddings": [2, 0, 1],
            "query_scene_embeddings": [0, 1],
            "distances": [2, 3, 4, 0, 1],
        }.items():
            np.testing.assert_array_equal(aligned.arrays[name], with_arrays.arrays[name][rows])


class TestAlign:
    @pytest.fixture
    def split(self) -> Split:
        scenes = [Scene(name, as_boxes([]), np.zeros(0, np.int64)) for name in ("c.jpg", "a.jpg", "b.jpg")]
        box = as_boxes([(0, 0, 1, 1)])[0]
        return Split("prw", "test", Path("."), scenes, 1, [Query(0, box, 0), Query(1, box, 0)])

    def test_scenes_take_the_order_of_the_split(self, predictions: Predictions, split: Split) -> None:
        aligned = align(predictions, split)
        assert aligned.scene_names.tolist() == ["c.jpg", "a.jpg", "b.jpg"]
        assert aligned.offsets.tolist() == [0, 3, 5, 5]
        np.testing.assert_array_equal(aligned.boxes, predictions.boxes[[2, 3, 4, 0, 1]])
        np.testing.assert_array_equal(aligned.scores, predictions.scores[[2, 3, 4, 0, 1]])
        np.testing.assert_array_equal(aligned.embeddings, predictions.embeddings[[2, 3, 4, 0, 1]])
        np.testing.assert_array_equal(aligned.query_embeddings, predictions.query_embeddings)

    def test_missing_scene(self, predictions: Predictions, split: Split) -> None:
        more = replace(split, scenes=[*split.scenes, Scene("d.jpg", as_boxes([]), np.zeros(0, np.int64))])
        with pytest.raises(DataError, match=r"1 of the 4 scenes of prw test are missing, the first is 'd.jpg'"):
            align(predictions, more)

    def test_unknown_scene(self, predictions: Predictions, split: Split) -> None:
        with pytest.raises(DataError, match=r"1 scenes are not in prw test, the first is 'b.jpg'"):
            align(predictions, replace(split, scenes=split.scenes[:2]))

    def test_another_dataset(self, predictions: Predictions, split: Split) -> None:
        others = [Scene("s1.jpg", as_boxes([]), np.zeros(0, np.int64))]
        with pytest.raises(DataError, match=r"none of the 3 scenes is in prw test .*'s1.jpg'.*another dataset"):
            align(predictions, replace(split, scenes=others))

    def test_number_of_queries(self, predictions: Predictions, split: Split) -> None:
        with pytest.raises(DataError, match=r"'query_embeddings' holds 2 queries, prw test has 1"):
            align(predictions, replace(split, queries=split.queries[:1]))


def test_keep_counts_again(predictions: Predictions) -> None:
    kept = predictions.keep(np.array([False, True, True, False, True]))
    assert kept.offsets.tolist() == [0, 1, 1, 3]
    np.testing.assert_array_equal(kept.embeddings, predictions.embeddings[[1, 2, 4]])
    kept.validate()
