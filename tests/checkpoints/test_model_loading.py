"""Files from elsewhere: what is in them is recognised, what should not be in them is refused, and nothing is run."""

from __future__ import annotations

import argparse
import builtins
import enum
import functools
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from person_search.checkpoints import inert_pickle
from person_search.checkpoints.checkpoint import Checkpoint, read_tensors, save_checkpoint
from person_search.checkpoints.inert_pickle import load_inert
from person_search.checkpoints.loading import load_model, open_checkpoint
from person_search.checkpoints.torch_files import OLD_FORMAT
from person_search.commandline import cli
from person_search.config import method_settings
from person_search.errors import CheckpointError, UsageError
from person_search.models.building import build_model
from person_search.models.settings import LossSettings

TINY = method_settings("baseline", backbone="resnet18", width=0.125, weights="none")
FORMATS = {"zip": True, "before torch 1.6": False}

formats = pytest.mark.parametrize("zipped", FORMATS.values(), ids=FORMATS)


class Scheduler:
    """An object as released checkpoints hold one beside their tensors."""

    def __init__(self) -> None:
        self.milestones = [4]


class Calls:
    """Calls ``function`` when it is unpickled in the ordinary way."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def released_state(identities: int = 7, queue: int = 5) -> dict[str, Tensor]:
    """A few tensors with the names of a released OIM checkpoint."""
    return {
        "backbone.conv1.0.weight": torch.ones(2, 3),
        "backbone.conv4_3.0.conv1.weight": torch.full((2, 2), 4.0),
        "roi_heads.box_head.top.conv5.0.conv1.weight": torch.full((2, 2), 5.0),
        "roi_heads.embedding_head.projectors.C5.0.weight": torch.full((3, 2), 6.0),
        "roi_heads.reid_loss.classifier.weight": torch.full((identities, 3), 7.0),
        "roi_heads.reid_loss.classifier.unlabeled_queue": torch.full((queue, 3), 8.0),
        "roi_heads.reid_loss.classifier.unlabeled_input_count": torch.tensor([9]),
    }


def released_file(path: Path, state: dict[str, Tensor], *, zipped: bool = True, **others: Any) -> Path:
    contents = {"epoch": 7, "state_dict": {"detector": OrderedDict(state)}, **others}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    return path


@formats
def test_a_released_checkpoint_is_read_whichever_torch_wrote_it(tmp_path: Path, zipped: bool) -> None:
    scheduler = {"det": Scheduler()}
    found = open_checkpoint(released_file(tmp_path / "a.pth", released_state(), zipped=zipped, lr_scheduler=scheduler))
    assert (found.model_config.method, found.model_config.levels, found.num_identities) == ("oim", ("C5",), 7)
    assert (found.model_config.backbone.flavour, found.model_config.loss.queue) == ("caffe", 5)
    assert found.training is None
    state = found.model
    assert set(state) == {
        "trunk.conv1.weight", "trunk.layer3.0.conv1.weight", "top.layer4.0.conv1.weight",
        "projection.levels.C5.0.weight", "reid_loss.lut", "reid_loss.queue", "reid_loss.queue_count",
    }  # fmt: skip
    assert torch.equal(state["reid_loss.lut"], torch.full((7, 3), 7.0))
    assert state["reid_loss.queue_count"].shape == ()
    assert state["reid_loss.queue_count"] == 9


@formats
@pytest.mark.parametrize(
    "wrap",
    [lambda state: state, lambda state: {f"module.{name}": value for name, value in state.items()}],
    ids=["bare", "data parallel"],
)
def test_tensors_by_themselves_are_recognised_too(tmp_path: Path, zipped: bool, wrap: Callable[[dict], dict]) -> None:
    torch.save(wrap(released_state()), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert open_checkpoint(tmp_path / "a.pth").num_identities == 7


def test_parameters_and_cpu_copies_of_other_types_come_through_beside_objects(tmp_path: Path) -> None:
    tensors = {
        "half": torch.ones(3, dtype=torch.float16),
        "bytes": torch.arange(4, dtype=torch.uint8),
        "view": torch.arange(6.0).reshape(2, 3).t(),
        "parameter": nn.Parameter(torch.ones(2), requires_grad=False),
        "object": Scheduler(),
    }
    for zipped in FORMATS.values():
        torch.save(tensors, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        found = load_inert(tmp_path / "a.pth")
        for name, value in tensors.items():
            if name != "object":
                assert torch.equal(found[name], value), name
                assert found[name].dtype == value.dtype
        assert not isinstance(found["object"], Scheduler)


class Node(dict):
    """Settings as yacs keeps them: a dict with attributes."""

    def __init__(self, values: dict[str, Any]):
        super().__init__(values)
        self.frozen = True


class Names(list):
    """A list of a class of its own, with attributes."""

    def __init__(self, values: Iterable[str | int] = ()):
        super().__init__(values)
        self.sorted = False


class Mode(enum.Enum):
    TRAIN = 1


@formats
@pytest.mark.parametrize(
    "held",
    [
        Node({"lr": 0.1, "steps": Node({"first": [1, 2]})}),
        Names(["a", "b"]),
        argparse.Namespace(lr=0.1, scheduler=Scheduler(), nested=argparse.Namespace(names=Names([1]))),
        np.float64(0.5),
        np.arange(3),
        Mode.TRAIN,
        defaultdict(list, {"a": [Scheduler()]}),
        {Path("runs"), 3},
        functools.partial(Scheduler, 3),
    ],
    ids=lambda held: type(held).__name__,
)
def test_objects_beside_tensors_are_passed_over(tmp_path: Path, zipped: bool, held: Any) -> None:
    path = released_file(tmp_path / "a.pth", released_state(), zipped=zipped, held=held, others=[held, {"more": held}])
    assert open_checkpoint(path).num_identities == 7


class Stateful:
    """Runs code of its own when it is unpickled in the ordinary way."""

    def __init__(self, sprung: Path):
        self.sprung = sprung

    def __reduce__(self) -> tuple[Any, ...]:
        return make, (str(self.sprung),), {"inner": Node({"deep": [Scheduler()]}), "path": self.sprung}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["path"].with_name("state").touch()


def make(sprung: str) -> Stateful:
    Path(sprung).touch()
    return Stateful(Path(sprung))


@formats
def test_neither_functions_nor_setstate_of_a_stand_in_are_called(tmp_path: Path, zipped: bool) -> None:
    sprung = tmp_path / "sprung"
    path = released_file(tmp_path / "a.pth", released_state(), zipped=zipped, held=Stateful(sprung))
    assert open_checkpoint(path).num_identities == 7
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]
    pickle.loads(pickle.dumps(Stateful(sprung)))
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.pth", "sprung", "state"}


@formats
def test_a_class_of_the_file_need_not_be_there(tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.pth"
    with monkeypatch.context() as patch:
        gone = types.ModuleType("gone_project.config")
        gone.Config = type("Config", (dict,), {"__module__": gone.__name__})
        patch.setitem(sys.modules, "gone_project", types.ModuleType("gone_project"))
        patch.setitem(sys.modules, gone.__name__, gone)
        released_file(path, released_state(), zipped=zipped, cfg=gone.Config(a=gone.Config()))
    assert open_checkpoint(path).num_identities == 7


@formats
def test_what_the_reader_does_not_take_is_refused_and_not_called_damage(tmp_path: Path, zipped: bool) -> None:
    path = released_file(tmp_path / "a.pth", released_state(), zipped=zipped, held=[Scheduler(), 2**3000])
    with pytest.raises(CheckpointError, match=r"a\.pth' is refused: .*Unsupported operand 139.*executed$"):
        open_checkpoint(path)


def test_nothing_of_a_tar_archive_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo(OLD_FORMAT.decode("latin-1")))
        for name in ("storages", "tensors", "pickle"):
            archive.addfile(tarfile.TarInfo(name))
    assert OLD_FORMAT in path.read_bytes()[:32]
    for read in (open_checkpoint, read_tensors, load_inert):
        with pytest.raises(CheckpointError, match="cut short or damaged"):
            read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


def test_a_file_of_too_many_classes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert_pickle, "MAX_NAMES", 3)
    path = released_file(tmp_path / "a.pth", released_state(), held=[Scheduler(), Names(), Mode.TRAIN, Node({})])
    with pytest.raises(CheckpointError, match="refused: it names more than 3 classes"):
        open_checkpoint(path)


SPRINGS: dict[str, Callable[[Path], Calls]] = {
    "os.system": lambda sprung: Calls(os.system, f"touch {sprung}"),
    "os.mkdir": lambda sprung: Calls(os.mkdir, str(sprung)),
    "builtins.eval": lambda sprung: Calls(eval, f"__import__('os').mkdir({str(sprung)!r})"),
    "builtins.exec": lambda sprung: Calls(exec, f"import os; os.mkdir({str(sprung)!r})"),
    "builtins.getattr": lambda sprung: Calls(getattr, Calls(builtins.__import__, "os"), "system"),
    "subprocess.run": lambda sprung: Calls(subprocess.run, ["touch", str(sprung)]),
    "torch.load": lambda sprung: Calls(torch.load, str(sprung)),
    "torch.save": lambda sprung: Calls(torch.save, [1], str(sprung)),
}


@formats
@pytest.mark.parametrize("spring", SPRINGS.values(), ids=SPRINGS)
@pytest.mark.parametrize("beside_tensors", [True, False])
def test_pickled_code_is_never_executed(
    tmp_path: Path, zipped: bool, spring: Callable[[Path], Calls], beside_tensors: bool
) -> None:
    path, sprung = tmp_path / "a.pth", tmp_path / "sprung"
    if beside_tensors:
        released_file(path, released_state(), zipped=zipped, lr_scheduler={"det": spring(sprung)})
    else:
        torch.save(spring(sprung), path, _use_new_zipfile_serialization=zipped)
    refused = ""
    try:
        open_checkpoint(path)
    except CheckpointError as error:
        refused = str(error)
    assert not sprung.exists()
    # What only looks like an unknown class is passed over where the tensors are wanted, like a scheduler is.
    harmless_to_name = spring in (SPRINGS["torch.load"], SPRINGS["torch.save"])
    if not (beside_tensors and harmless_to_name):
        assert "pickled code" in refused or "holds neither" in refused
        assert str(path) in refused
    if not harmless_to_name:
        assert "nothing of it was executed" in refused


def test_the_springs_are_real(tmp_path: Path) -> None:
    for name in ("os.system", "os.mkdir", "builtins.eval", "builtins.exec", "subprocess.run", "torch.save"):
        sprung = tmp_path / name
        pickle.loads(pickle.dumps(SPRINGS[name](sprung)))
        assert sprung.exists(), name


def old_format(body: bytes) -> bytes:
    """A file in the format before torch 1.6 whose main pickle is ``body``."""
    whole = io.BytesIO()
    torch.save({}, whole, _use_new_zipfile_serialization=False)
    data = whole.getvalue()
    start = data.index(pickle.dumps({}, protocol=2))
    return data[:start] + body + pickle.dumps([], protocol=2)


def test_attributes_of_torchs_functions_cannot_be_set(tmp_path: Path) -> None:
    """A pickle that renames a function and passes it off as a saved container would have torch write a file."""
    name = str(tmp_path / "written")
    state = pickle.dumps((None, {"dump_patches": True, "__name__": name}), protocol=0)[:-1]
    function = b"ctorch._utils\n_rebuild_tensor_v2\n"
    container = b"(" + pickle.dumps("module", 0)[:-1] + function + b"Vsource.py\nVother source\nt" + b"Q"
    path = tmp_path / "a.pth"
    path.write_bytes(old_format(function + state + b"b0" + container + b"."))
    before = torch._utils._rebuild_tensor_v2.__name__
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert torch._utils._rebuild_tensor_v2.__name__ == before == "_rebuild_tensor_v2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


@formats
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("scheduler", [True, False])
def test_a_truncated_file_is_refused_in_one_line(tmp_path: Path, zipped: bool, share: float, scheduler: bool) -> None:
    others = {"lr_scheduler": Scheduler()} if scheduler else {}
    path = released_file(tmp_path / "a.pth", released_state(300), zipped=zipped, **others)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"a\.pth.*(cut short or damaged|is not a checkpoint)") as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    program = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(program, str(tmp_path / "a.pt"))
    for read in (open_checkpoint, read_tensors, load_inert):
        with pytest.raises(CheckpointError, match=r"a\.pt.*TorchScript program.*nothing in it was executed"):
            read(tmp_path / "a.pt")


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in released_state().items() if name not in key}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("backbone.conv4_3"), "neither a person-search checkpoint nor a released checkpoint"),
        (without("classifier"), "no identity table or classifier"),
        (without("projectors"), r"looks like oim, but holds no 'roi_heads\.embedding_head\.projectors\.C5"),
        (released_state() | {"backbone.fpn.weight": torch.ones(1)}, "'backbone.fpn.weight' belongs to no known method"),
        (
            released_state() | {"roi_heads.extra.classifier.weight": torch.ones(9, 3)},
            "identity tables have 7 and 9 rows",
        ),
        (released_state(identities=0), "identity tables have 0 rows"),
    ],
)
def test_files_of_other_methods_are_told_apart(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(released_file(tmp_path / "a.pth", state))
    assert "a.pth" in str(caught.value)


def test_a_softmax_classifier_is_recognised_by_the_missing_queue(tmp_path: Path) -> None:
    found = open_checkpoint(released_file(tmp_path / "a.pth", without("unlabeled")))
    assert found.model_config.loss == LossSettings(name="softmax")
    assert torch.equal(found.model["reid_loss.classifier.weight"], torch.full((7, 3), 7.0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(path, Checkpoint(TINY, 3, build_model(TINY, 3).state_dict()))
    return path


def test_a_checkpoint_of_another_method_is_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"model\.pt.*of the method 'baseline', the model of 'nae'"):
        load_model(saved, method="nae")


@pytest.mark.parametrize("device", ["quux", "cuda:99", "hpu"])
def test_a_device_that_is_not_there_is_refused_before_the_file_is_read(device: str) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' was asked for; this machine has cpu"):
        load_model("no file", device=device)


def test_another_number_of_identities_is_named(saved: Path, tmp_path: Path) -> None:
    contents = read_tensors(saved)
    torch.save({**contents, "num_identities": 4}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt.*'reid_loss\.C5\.lut' is \(3, 64\), the model wants \(4, 64\)"):
        load_model(tmp_path / "a.pt")


def test_convert_keeps_the_model_and_leaves_training_out(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, out = tmp_path / "last.pt", tmp_path / "made" / "ours.pt"
    checkpoint = open_checkpoint(saved)
    save_checkpoint(whole, Checkpoint(TINY, 3, checkpoint.model, {"optimizers": {"state": torch.ones(1000)}}))
    assert cli.run(["convert", str(whole), "--out", str(out)], cli.dispatch) == 0
    converted = open_checkpoint(out)
    assert converted.training is None
    assert converted.model_config == TINY
    assert all(torch.equal(value, checkpoint.model[name]) for name, value in converted.model.items())
    assert "baseline, C5, oim, 3 identities" in capsys.readouterr().out


def test_convert_does_not_write_over_its_own_input_nor_convert_half_a_model(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = saved.read_bytes()
    assert cli.run(["convert", str(saved), "--out", str(saved)], cli.dispatch) == 2
    assert saved.read_bytes() == before
    lacking = released_file(tmp_path / "a.pth", released_state())
    assert cli.run(["convert", str(lacking), "--out", str(tmp_path / "ours.pt")], cli.dispatch) == 1
    assert "does not fit this model" in capsys.readouterr().err
    assert not (tmp_path / "ours.pt").exists()


@pytest.mark.parametrize("model", [3, {"trunk.conv1.weight": 3}, {"trunk.conv1.weight": torch.ones(1)}])
def test_contents_that_are_no_model_are_refused(saved: Path, tmp_path: Path, model: object) -> None:
    torch.save({**read_tensors(saved), "model": model}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        load_model(tmp_path / "a.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda value: value.int(), "holds int32, the model wants floating-point numbers"),
        (lambda value: value.to(torch.complex64), "holds complex64, the model wants floating-point numbers"),
        (lambda value: value.to_sparse(), "is sparse_coo, the model wants a dense tensor"),
        (lambda value: value.to("meta"), "is on the device meta, the model wants a dense tensor"),
    ],
)
def test_weights_are_not_copied_from_numbers_of_another_kind(
    saved: Path, tmp_path: Path, change: Callable[[torch.Tensor], torch.Tensor], message: str
) -> None:
    contents = read_tensors(saved)
    name = "trunk.conv1.weight"
    torch.save({**contents, "model": {**contents["model"], name: change(contents["model"][name])}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=f"a.pt.*'{name}' {message}"):
        load_model(tmp_path / "a.pt")


def test_weights_of_another_precision_are_taken(saved: Path, tmp_path: Path) -> None:
    contents = read_tensors(saved)
    halves = {key: value.half() if value.is_floating_point() else value for key, value in contents["model"].items()}
    torch.save({**contents, "model": halves}, tmp_path / "a.pt")
    assert load_model(tmp_path / "a.pt").state_dict()["trunk.conv1.weight"].dtype == torch.float32


def test_the_old_format_is_told_by_torchs_own_number() -> None:
    assert torch.serialization.MAGIC_NUMBER.to_bytes(10, "little") == OLD_FORMAT


def test_storage_larger_than_the_file_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<q", 4), struct.pack("<q", 2**40)))
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        read_tensors(path)
