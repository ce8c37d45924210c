"""Checkpoints are whole or absent, damage is noticed, and nothing in a file is executed."""

from __future__ import annotations

import os
import pickle
import resource
from pathlib import Path

import pytest
import torch

from person_search.checkpoints.checkpoint import (
    Checkpoint,
    drop_old_checkpoints,
    identity_names,
    load_model_state,
    newest_checkpoint,
    read_checkpoint,
    save_checkpoint,
    start_from,
)
from person_search.config import method_settings, override
from person_search.errors import CheckpointError
from person_search.models.building import build_model

TINY = method_settings("baseline", backbone="resnet18", width=0.125, weights="none")


def make(value: float = 1.0, size: int = 1000, training: dict | None = None) -> Checkpoint:
    return Checkpoint(TINY, 3, {"weight": torch.full((size,), value)}, {"step": 7} if training is None else training)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    state = {
        "randomness": [{"cpu": torch.get_rng_state()}],
        "best": float("inf"),
        "none": None,
        "nested": {0: (1, "a")},
    }
    save_checkpoint(tmp_path / "a.pt", make(2.5, training=state))
    read = read_checkpoint(tmp_path / "a.pt")
    assert read.model_config == TINY
    assert read.num_identities == 3
    assert torch.equal(read.model["weight"], torch.full((1000,), 2.5))
    assert torch.equal(read.training["randomness"][0]["cpu"], state["randomness"][0]["cpu"])
    assert {k: v for k, v in read.training.items() if k != "randomness"} == {
        k: v for k, v in state.items() if k != "randomness"
    }
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path) -> None:
    """The limit on file sizes stops the write half-way, as a full disk does."""
    path = tmp_path / "last.pt"
    save_checkpoint(path, make(1.0))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint.*last\.pt.*free some space") as caught:
            save_checkpoint(path, make(2.0, size=1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


def test_no_permission_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:
        tmp_path.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(CheckpointError, match=r"cannot write checkpoint.*[Pp]ermission"):
            save_checkpoint(folder / "last.pt", make())
    finally:
        os.seteuid(user)


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"gone.*No such file"):
        save_checkpoint(tmp_path / "gone" / "last.pt", make())


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_recognised(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CheckpointError, match=r"a\.pt.*cut short or damaged"):
        read_checkpoint(path)


def test_one_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make(1.0))
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((20,), 1.0).numpy().tobytes()) + 41] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


class Trap:
    """Makes a folder when it is unpickled in the ordinary way."""

    def __init__(self, path: str):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, sprung = tmp_path / "a.pt", tmp_path / "sprung"
    torch.save({"format": Trap(str(sprung))}, path)
    with pytest.raises(CheckpointError, match=r"a\.pt.*pickled code"):
        read_checkpoint(path)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", "is not a checkpoint"),
        (b"", "is not a checkpoint"),
        (pickle.dumps({"a": 1}), "is not a checkpoint"),
        (None, "there is no checkpoint"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "a.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "something other than"),
        ({"version": 99}, "format 99"),
        ({"model_config": {"method": [3]}}, "this version cannot read all settings of checkpoint .*model.method: "),
        ({"num_identities": 3.5}, "an incomplete person-search checkpoint: .*num_identities is 3.5"),
        ({"evaluation": {"cws": "maybe"}}, "cannot read the evaluation of .*a.pt': cws: .*found 'maybe'"),
    ],
)
def test_contents_that_do_not_fit_are_told_apart(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make())
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(path)


def test_the_newest_good_checkpoint_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert newest_checkpoint(tmp_path) is None
    for epoch in (9, 10):
        save_checkpoint(tmp_path / f"epoch-{epoch:03d}.pt", make(epoch))
    save_checkpoint(tmp_path / "best.pt", Checkpoint(TINY, 3, {}, None))
    save_checkpoint(tmp_path / "last.pt", make(11))
    assert newest_checkpoint(tmp_path)[0].name == "last.pt"
    (tmp_path / "last.pt").write_bytes(b"PK half")
    path, checkpoint = newest_checkpoint(tmp_path)
    assert path.name == "epoch-010.pt"
    assert checkpoint.model["weight"][0] == 10
    assert "last.pt" in caplog.text


def test_old_checkpoints_are_dropped_only_where_newer_ones_are_there(tmp_path: Path) -> None:
    for epoch in (1, 2, 3, 9):
        (tmp_path / f"epoch-{epoch:03d}.pt").touch()
    drop_old_checkpoints(tmp_path, epoch=8, keep=2)
    assert sorted(os.listdir(tmp_path)) == ["epoch-002.pt", "epoch-003.pt", "epoch-009.pt"]
    drop_old_checkpoints(tmp_path, epoch=9, keep=3)
    assert len(os.listdir(tmp_path)) == 3


def test_only_damaged_checkpoints_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"PK half")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .* is good \(1 tried\)"):
        newest_checkpoint(tmp_path)


def as_checkpoint(model) -> Checkpoint:
    return Checkpoint(model.config, model.num_identities, model.state_dict())


@pytest.mark.parametrize("loss", ["oim", "softmax"])
def test_starting_from_other_data_takes_all_but_the_identities(loss: str) -> None:
    config = override(TINY, {"reid_loss": loss})
    old, new = build_model(config, 3), build_model(config, 5)
    with torch.no_grad():
        for value in old.state_dict().values():
            value.add_(1)
    own = identity_names(new)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    start_from(new, as_checkpoint(old), Path("old.pt"))
    assert own
    assert all(name.startswith("reid_loss") for name in own)
    for name, value in new.state_dict().items():
        assert torch.equal(value, before[name] if name in own else old.state_dict()[name]), name


def test_other_identities_or_shapes_are_named() -> None:
    model = build_model(TINY, 3)
    with pytest.raises(CheckpointError, match=r"a\.pt.*trained on 5 identities, the data has 3"):
        load_model_state(model, as_checkpoint(build_model(TINY, 5)), Path("a.pt"))
    wider = build_model(override(TINY, {"width": 0.25}), 3)
    with pytest.raises(CheckpointError, match=r"'trunk\.conv1\.weight' is .*, the model wants"):
        load_model_state(model, as_checkpoint(wider), Path("a.pt"))
    other = build_model(override(TINY, {"method": "oim"}), 3)
    with pytest.raises(CheckpointError, match=r"method 'oim', the model of 'baseline'"):
        start_from(model, as_checkpoint(other), Path("a.pt"))
