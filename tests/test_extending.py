"""The code of docs/extending.md, as it stands there: a package with one of each in it."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from forked import run_forked
from person_search import load_model, registry
from person_search.checkpoints.checkpoint import identity_names
from person_search.commandline import cli
from person_search.config import method_settings
from person_search.errors import UsageError

DOCUMENT = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the document's files and the pictures that one draws; all that they register is forgotten later."""
    for code in blocks("python"):
        path = tmp_path / code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)
    monkeypatch.chdir(tmp_path)
    runpy.run_path("make_people.py")
    for kind in (registry.methods, registry.datasets, registry.losses, registry.backbones):
        monkeypatch.setattr(kind, "_registered", {})
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_search"]:
        del sys.modules[name]
    registry.load_plugins.cache_clear()


def test_the_documents_package_trains_and_goes_through_a_checkpoint(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(workplace)
    left = runpy.run_path("try_it.py")
    assert "DeepEmbedding 3" in capsys.readouterr().out
    outcome, model = left["outcome"], left["model"]
    assert (model.reid_loss.margin, model.embedding[0].out_features) == (0.3, 128)
    assert (outcome.step, outcome.skipped) == (4, 0)
    assert type(model.reid_loss).__name__ == "CosFaceLoss"
    assert (model.trunk.channels, model.top.channels) == (32, 64)
    assert model.trunk.stem_parts() == [model.trunk.stage0]
    assert identity_names(model) == {"reid_loss.directions"}
    assert (workplace / "runs/mine/config.yaml").read_text().count("- my_search") == 1

    again = load_model("runs/mine", score_threshold=0.0)
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    detections = again([torch.rand(3, 120, 160, generator=torch.Generator().manual_seed(0))])[0]
    assert detections.embeddings.shape == (len(detections), 256)


def test_the_loss_asks_for_its_margin_and_leaves_background_alone(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(workplace)
    registry.import_modules(["my_search"])
    config = method_settings("baseline", reid_loss="cosface").loss
    loss = registry.losses.get("cosface")(4, 3, config)
    with torch.no_grad():
        loss.directions.copy_(torch.eye(3, 4))
    rows, labels = torch.tensor([[2.0, 0, 0, 0], [0, 0, 0, 5], [1, 1, 1, 0]]), torch.tensor([0, -1, -2])
    logits = torch.tensor([[config.scale * (1 - 0.25), 0, 0]])
    assert loss(rows, labels)[0].item() == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels[:1]).item(), rel=1e-5
    )
    assert loss(rows[:0], labels[:0])[0].item() == 0


def test_an_installed_package_is_found_by_its_entry_point(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (declared,) = (tomllib.loads(text) for text in blocks("toml"))
    monkeypatch.syspath_prepend(workplace)
    registry.load_plugins.cache_clear()
    with pytest.raises(UsageError, match=r"unknown method 'deep-embedding'.*`plugins` MODULE"):
        registry.methods.get("deep-embedding")
    registry.load_plugins.cache_clear()

    installed = workplace / "my_search-0.1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-search\nVersion: 0.1\n")
    groups = declared["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    (installed / "entry_points.txt").write_text("\n".join(lines))
    assert registry.methods.get("deep-embedding").__name__ == "DeepEmbedding"
    assert "csv" in registry.datasets.names()
    assert "cosface" in registry.losses.names()


def test_a_plug_in_that_fails_is_named(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.syspath_prepend(workplace)
    (workplace / "my_search" / "__init__.py").write_text("import nothing_of_that_name\n")
    assert cli.run(["info", "--plugins", "my_search", "--dataset", "csv"], cli.dispatch) == 2
    assert "cannot import plug-in 'my_search': No module named 'nothing_of_that_name'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_documents_commands_run(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What PYTHONPATH=. says.
    monkeypatch.syspath_prepend(workplace)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    (commands,) = blocks("sh")
    outputs = []
    for command in commands.splitlines():
        variable, program, *words = shlex.split(command)
        assert (variable, program) == ("PYTHONPATH=.", "person-search")
        found = run_forked(cli.main, argv=words, environment=environment)
        assert found.returncode == 0, f"{command}\n{found.stdout}{found.stderr}"
        outputs.append(found.stdout)
    assert "trained" in outputs[0]
    assert "mAP" in outputs[1]
