"""Which scenes are trained on and which are validated on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TinyDataset
from person_search.config import Config
from person_search.data.scene import Dataset, SplitName
from person_search.errors import UsageError
from person_search.training.validation import training_and_validation


class WithoutValidation(TinyDataset):
    """Training and test scenes alone."""

    def has_validation(self) -> bool:
        return False


WHENEVER = [{"validate_every": 1}, {"validate_every": 0}, {"validate_every": 0, "validate_epochs": (1,)}]


@pytest.mark.parametrize("when", WHENEVER)
def test_held_out_scenes_are_never_trained_on(
    make_config: Callable[..., Config], tmp_path: Path, when: dict[str, object]
) -> None:
    dataset = WithoutValidation(tmp_path / "tiny")
    whole, _ = training_and_validation(dataset, make_config(**when))
    train, validation = training_and_validation(dataset, make_config(validation_share=0.5, **when))
    always, held_out = training_and_validation(dataset, make_config(validation_share=0.5, validate_every=1))
    assert held_out is not None
    left = {scene.name for scene in train.scenes}
    assert left == {scene.name for scene in always.scenes}
    assert left == {scene.name for scene in whole.scenes} - {scene.name for scene in held_out.split.scenes}
    assert 0 < len(left) < len(whole.scenes)
    assert (validation is None) == (when == {"validate_every": 0})


@pytest.mark.parametrize("when", WHENEVER)
def test_a_share_beside_a_validation_split_is_refused_however_often_it_is_used(
    make_config: Callable[..., Config], dataset: Dataset, when: dict[str, object]
) -> None:
    with pytest.raises(UsageError, match="validation split of its own"):
        training_and_validation(dataset, make_config(validation_share=0.5, **when))


def test_a_validation_split_that_is_not_asked_for_is_not_read(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    class Strict(TinyDataset):
        def split(self, name: SplitName) -> object:  # type: ignore[override]
            assert name == "train"
            return super().split(name)

    assert training_and_validation(Strict(tmp_path / "tiny"), make_config(validate_every=0))[1] is None
