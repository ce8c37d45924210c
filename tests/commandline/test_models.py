"""``person-search models``: what is known of the models that have names, and whether their files are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from person_search.checkpoints.model_cache import note_used
from person_search.checkpoints.named_models import known_models, named_model
from person_search.commandline import cli, commands


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PERSON_SEARCH_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PERSON_SEARCH_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    for console in (commands.console, commands.messages):
        monkeypatch.setattr(console, "_width", 200, raising=False)
    return tmp_path


def models(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    found = cli.run(["models", *words], cli.dispatch)
    captured = capsys.readouterr()
    assert found == code, captured.err
    return captured.out, captured.err


def test_every_model_has_a_line_with_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = models(capsys, "--json", "models.json")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if "-prw " in line or "-cuhk-sysu " in line}
    assert set(rows) == set(known_models())
    assert rows["seqnet-prw"] == ["seqnet-prw", "seqnet", "PRW", "46.7/83.4", "MIT", "unknown", "Drive", "no"]
    assert rows["oim-prw"][3:6] == ["36.0/76.7", "unknown", "unknown"]
    assert rows["oimnetpp-prw"][3:] == ["unknown", "GPL-3.0", "unknown", "GitHub", "no"]
    assert out.count("not always one of weights") == out.count("for research only") == 1
    assert "that the authors published; they were not measured here" in out
    written = json.loads(Path("models.json").read_text())
    assert "not measured here" in written["remark"]
    (found,) = [each for each in written["models"] if each["name"] == "coat-prw"]
    assert (found["published"], found["size"], found["cached"]) == ({"mAP": 53.3, "top1": 87.4}, None, "no")


def test_one_model_is_shown_whole(capsys: pytest.CaptureFixture[str], at_home: Path) -> None:
    out, _ = models(capsys, "seqnet-prw")
    for what in (
        "https://drive.google.com/file/d/1I9OI6-sfVyop_aLDIWaYwd7Z4hD34hwZ",
        "46.7 / 83.4",
        "47.6 / 87.6",
        "this program",
        str(at_home / "cache" / "models" / "seqnet-prw.pth"),
        "for research only",
    ):
        assert what in out
    assert "482 or 483" in models(capsys, "nae4ps-prw")[0]
    assert "Did you mean 'seqnet-prw'?" in models(capsys, "seqnet-pwr", code=1)[1]


def test_files_in_the_cache_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert "none of these models is in the cache" in models(capsys, "--check")[0]
    for name in ("coat-prw", "nae4ps-prw"):
        file = named_model(name).file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"PK by hand")
    # The archive is the file of four models.
    lines = models(capsys, "--check")[0].splitlines()
    assert [line.split(": ")[0] for line in lines] == ["coat-prw.pth", "nae4ps-logs.tar.gz"]
    assert all("SHA-256" in line and line.endswith("the file was not used yet") for line in lines)
    for name in ("coat-prw", "nae4ps-prw"):
        note_used(named_model(name))
    assert " yes" in models(capsys)[0]
    assert "as noted when it was first there" in models(capsys, "coat-prw", "--check")[0]
    named_model("coat-prw").file.write_bytes(b"PK by HAND")
    out, err = models(capsys, "--check", code=1)
    assert "nae4ps-logs.tar.gz: as noted" in out
    assert "its SHA-256 is " in err
    assert "error: 1 of 2 files are not as expected" in err
