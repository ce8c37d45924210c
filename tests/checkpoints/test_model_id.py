"""A model's id says which model it is, wherever and however it is kept, and changes with anything of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from person_search.checkpoints import loading
from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint
from person_search.checkpoints.loading import load_model, load_stored
from person_search.checkpoints.model_id import model_id
from person_search.commandline import cli
from person_search.config import method_settings, override
from person_search.models.building import build_model

TINY = method_settings("baseline", backbone="resnet18", width=0.125, weights="none")
STATE = {
    "conv.weight": torch.arange(24.0).reshape(1, 2, 3, 4),
    "norm.count": torch.tensor(3),
    "half": torch.ones(2, dtype=torch.bfloat16),
    "queue": torch.zeros(0, 4),
}


def test_order_memory_layout_and_the_origin_of_the_weights_do_not_count() -> None:
    again = dict(reversed(STATE.items()))
    again["conv.weight"] = again["conv.weight"].contiguous(memory_format=torch.channels_last)
    assert again["conv.weight"].stride() != STATE["conv.weight"].stride()
    same = model_id(TINY, 3, STATE)
    assert model_id(TINY, 3, again) == same
    assert model_id(override(TINY, {"weights": "/somewhere/resnet18.pth"}), 3, STATE) == same
    assert len(same) == 16
    assert int(same, 16) >= 0


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s | {"conv.weight": torch.nextafter(s["conv.weight"], torch.tensor(1e9))},
        lambda s: s | {"conv.weight": s["conv.weight"].reshape(2, 1, 3, 4)},
        lambda s: s | {"norm.count": torch.tensor(3, dtype=torch.int32)},
        lambda s: s | {"queue": torch.zeros(0, 5)},
        lambda s: {name: value for name, value in s.items() if name != "queue"},
        lambda s: {f"{name}s" if name == "half" else name: value for name, value in s.items()},
    ],
    ids=["one bit", "shape", "type", "shape of nothing", "less", "name"],
)
def test_any_change_of_a_tensor_counts(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    assert model_id(TINY, 3, change(STATE)) != model_id(TINY, 3, STATE)


def test_settings_and_identities_count() -> None:
    ids = {model_id(TINY, 3, STATE), model_id(TINY, 4, STATE)}
    ids.add(model_id(override(TINY, {"nms_threshold": 0.5}), 3, STATE))
    assert len(ids) == 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "last.pt"
    save_checkpoint(path, Checkpoint(TINY, 3, build_model(TINY, 3).state_dict(), {"optimizers": {"a": torch.ones(9)}}))
    return path


def test_converting_and_settings_changed_for_test_leave_the_id(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = load_stored(checkpoint)
    assert stored.file == checkpoint
    out = tmp_path / "ours.pt"
    assert cli.run(["convert", str(checkpoint), "--out", str(out)], cli.dispatch) == 0
    assert f"model id {stored.model_id}" in capsys.readouterr().out
    assert load_stored(out).model_id == stored.model_id
    changed = load_stored(checkpoint, score_threshold=0.5, rpn_nms=0.6)
    assert changed.model.config.rpn.nms == 0.6
    assert changed.model_id == stored.model_id


def test_a_checkpoint_is_read_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    once = loading.read_tensors
    monkeypatch.setattr(loading, "read_tensors", lambda path: read.append(path) or once(path))
    monkeypatch.setattr(
        "person_search.checkpoints.checkpoint.read_tensors", lambda path: read.append(path) or once(path)
    )
    load_model(checkpoint.parent)
    assert read == [checkpoint]
