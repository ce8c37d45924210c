"""Pictures against the sizes that annotations give them."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from person_search.commandline.commands import run_info
from person_search.config import Config, with_settings
from person_search.data.catalogue import open_dataset, open_split
from person_search.data.loading import TrainingOrder, scene_batches, training_batches
from person_search.data.scene import Scene, Split, as_boxes
from person_search.data.size_checks import SAMPLE, check_sizes, compare_sizes
from person_search.errors import DataError
from person_search.evaluation.evaluate import predict_split


def save(path: Path, width: int, height: int, orientation: int = 1) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (width, height)).save(path, exif=exif)


def split_of(root: Path, sizes: list[tuple[int, int] | None]) -> Split:
    scenes = [Scene(f"{n}.png", as_boxes([1, 1, 5, 5]), np.array([0]), size=size) for n, size in enumerate(sizes)]
    return Split("tiny", "train", root, scenes, 1)


def test_sizes_that_agree_are_unknown_or_of_turned_pictures_pass(tmp_path: Path) -> None:
    save(tmp_path / "0.png", 20, 12)
    save(tmp_path / "1.png", 20, 12)
    save(tmp_path / "2.png", 20, 12, orientation=6)
    split = split_of(tmp_path, [(20, 12), None, (12, 20)])
    check = compare_sizes(split)
    assert (check.looked_at, check.missing, check.contradiction) == (3, (), None)
    assert len(list(scene_batches(split, batch_size=3, workers=0))) == 1


def test_another_size_is_refused_beforehand_and_when_decoded(tmp_path: Path) -> None:
    save(tmp_path / "0.png", 20, 12)
    save(tmp_path / "1.png", 20, 12)
    split = split_of(tmp_path, [(20, 12), (40, 24)])
    with pytest.raises(DataError, match=r"1.png' is 20 x 12 pixels .* say 40 x 24: .* another size.*\(1 of the 2 "):
        check_sizes(split)
    with pytest.raises(DataError, match="is 20 x 12 pixels as it is seen, but its annotations say 40 x 24"):
        list(scene_batches(split, batch_size=2, workers=0))
    (batch,) = training_batches(split, TrainingOrder([0, 1], flip=False, batch_size=2), workers=0, pin=False)
    assert isinstance(batch, DataError)
    assert "annotations say 40 x 24" in str(batch)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_sizes_in_stored_pixels_of_a_turned_picture_are_told(tmp_path: Path, orientation: int) -> None:
    save(tmp_path / "0.png", 20, 12, orientation)
    split = split_of(tmp_path, [(20, 12)])
    with pytest.raises(DataError, match=r"is 12 x 20 pixels .*say 20 x 12: .* stored pixels, before the EXIF rotation"):
        check_sizes(split)
    with pytest.raises(DataError, match="stored pixels, before the EXIF rotation"):
        list(scene_batches(split, batch_size=1, workers=0))


def test_missing_pictures_are_counted_and_damaged_ones_left_to_decoding(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"no picture")
    check = compare_sizes(split_of(tmp_path, [(20, 12), (20, 12)]))
    assert (check.looked_at, check.missing, check.contradiction) == (2, ("0.png",), None)


def test_a_long_split_is_looked_at_from_first_to_last(tmp_path: Path) -> None:
    count = 3 * SAMPLE
    save(tmp_path / f"{count - 1}.png", 9, 9)
    check = compare_sizes(split_of(tmp_path, [(8, 9)] * count))
    assert check.looked_at == SAMPLE
    assert check.contradiction is not None
    assert "0.png" in check.missing
    assert compare_sizes(split_of(tmp_path, [])).looked_at == 0


def test_info_and_evaluation_refuse_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "0.png", 20, 12)
    image = {"id": 1, "file_name": "0.png", "width": 40, "height": 24}
    annotations = [{"image_id": 1, "bbox": [1, 1, 5, 5], "person_id": 3}]
    (tmp_path / "test.json").write_text(json.dumps({"images": [image], "annotations": annotations}))
    config = with_settings(Config(), dataset="coco", data_root=tmp_path)
    with pytest.raises(DataError, match="say 40 x 24"):
        run_info(config)
    assert "identities" in capsys.readouterr().out
    split = open_split(open_dataset(config.data), "test")
    model = Mock()
    monkeypatch.setattr("person_search.evaluation.evaluate.predict", model)
    with pytest.raises(DataError, match=r"say 40 x 24.*1 of the 1 test pictures looked at"):
        predict_split(model, split, config)
    model.assert_not_called()
