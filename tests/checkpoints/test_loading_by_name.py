"""A name stands wherever a checkpoint is asked for."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from file_server import FileServer
from person_search.checkpoints.checkpoint import Checkpoint, save_checkpoint
from person_search.checkpoints.loading import find_and_open, find_checkpoint, load_model, load_stored
from person_search.commandline.commands import run_conversion
from person_search.commandline.shared_options import base_config
from person_search.config import Config, method_settings
from person_search.errors import CheckpointError
from person_search.models.building import build_model

TINY = method_settings(
    "baseline", backbone="resnet18", width=0.125, weights="none", shorter_side=(96,), longer_side=128, score_threshold=0
)
README = Path(__file__).parents[2] / "README.md"


@pytest.fixture
def at_home(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder; listed are the models 'tiny', a checkpoint, and 'packed' and 'elsewhere' in one archive."""
    model = build_model(TINY, num_identities=4)
    save_checkpoint(tmp_path / "made.pt", Checkpoint(TINY, 4, model.state_dict()))
    server.content = (tmp_path / "made.pt").read_bytes()
    common = {"method": "baseline", "training_set": "PRW", "url": f"{server.url}/file"}
    packed = common | {"archive": "all", "suffix": ".tar.gz", "identities": [482, 483]}
    elsewhere = packed | {"method": "nae4ps"}
    (tmp_path / "list.yaml").write_text(yaml.safe_dump({"tiny": common, "packed": packed, "elsewhere": elsewhere}))
    monkeypatch.setenv("PERSON_SEARCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PERSON_SEARCH_MODELS", str(tmp_path / "list.yaml"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def test_a_model_is_loaded_by_its_name(at_home: Path, server: FileServer) -> None:
    stored = load_stored("tiny")
    assert stored.file == at_home.parent / "cache" / "models" / "tiny.pth"
    # Results of it are not kept in a cache.
    assert stored.home == Path("runs", "tiny")
    expected = load_model(at_home.parent / "made.pt").state_dict()
    found = load_model("tiny").state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(server.asked) == 1
    assert load_stored(at_home.parent / "made.pt").home == at_home.parent


def test_a_file_or_folder_of_that_name_wins(at_home: Path, server: FileServer) -> None:
    Path("tiny").write_bytes(b"")
    assert find_checkpoint("tiny") == Path("tiny")
    Path("tiny").unlink()
    Path("tiny").mkdir()
    with pytest.raises(CheckpointError, match="the folder 'tiny' holds no"):
        find_checkpoint("tiny")
    assert find_checkpoint("./other") == Path("other")
    assert server.asked == []


def test_a_model_in_an_archive_is_chosen_by_what_it_is(at_home: Path, server: FileServer) -> None:
    with tarfile.open(at_home.parent / "all.tar.gz", "w:gz") as archive:
        for identities in (4, 482, 5532):
            made = at_home.parent / "one.pt"
            model = build_model(TINY, num_identities=identities)
            save_checkpoint(made, Checkpoint(TINY, identities, model.state_dict()))
            archive.add(made, f"logs/{identities}/checkpoint.pth")
    server.content = (at_home.parent / "all.tar.gz").read_bytes()
    stored = load_stored("packed")
    assert stored.file == at_home.parent / "cache" / "models" / "all.tar.gz" / "logs" / "482" / "checkpoint.pth"
    assert stored.model.num_identities == 482
    assert stored.home == Path("runs", "packed")
    with pytest.raises(CheckpointError, match=r"holds no such checkpoint; it holds 'logs/4/checkpoint\.pth'"):
        find_checkpoint("elsewhere")
    assert len(server.asked) == 1


def test_a_file_that_holds_another_method_than_listed_is_refused(at_home: Path) -> None:
    text = Path(at_home.parent, "list.yaml").read_text().replace("method: baseline", "method: seqnet")
    Path(at_home.parent, "list.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=r"'tiny': it is listed as seqnet, but '.*tiny\.pth' holds baseline, 4"):
        load_model("tiny")
    with pytest.raises(CheckpointError, match="it is listed as seqnet"):
        run_conversion("tiny", at_home / "made.pt", plugins=())
    with pytest.raises(CheckpointError, match="it is listed as seqnet"):
        find_and_open("tiny")
    assert not Path("made.pt").exists()


def test_a_name_has_no_settings_beside_it(at_home: Path) -> None:
    Path("config.yaml").write_text("data: {dataset: prw}\n")
    assert base_config(["--checkpoint", "tiny"], "--checkpoint")[0] == Config()
    assert base_config(["--checkpoint", "tiny.pt"], "--checkpoint")[0].data.dataset == "prw"


def test_the_readme_example_runs(at_home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a model of this test's in place of the one that would come from the net."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "seqnet-prw" in block]
    Path("holiday").mkdir()
    for name in ("street.jpg", "holiday/1.jpg", "holiday/2.jpg"):
        Image.effect_noise((320, 240), 80).convert("RGB").save(name)
    capsys.readouterr()
    exec(code.replace("seqnet-prw", "tiny"), {})
    ranking = eval(capsys.readouterr().out)
    assert 0 < len(ranking) <= 10
    assert ranking == sorted(ranking, reverse=True)
