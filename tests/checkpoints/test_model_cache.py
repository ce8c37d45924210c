"""Named models are fetched once into the user's cache, checked, and told apart from files and from each other."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from file_server import FileServer
from person_search.checkpoints import model_cache, named_models
from person_search.checkpoints.model_cache import check, obtain, read_note, state
from person_search.checkpoints.named_models import NamedModel, is_name, known_models, named_model
from person_search.errors import CheckpointError, DownloadError, UsageError
from person_search.registry import methods

NOBODY = "http://127.0.0.1:9/nothing.pth"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PERSON_SEARCH_HOME", str(folder))
    monkeypatch.delenv("PERSON_SEARCH_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    named_models._say_replaced.cache_clear()
    return folder


def listed(home: Path, **facts: object) -> NamedModel:
    """The model 'mine' of a list of the user's own."""
    home.mkdir(exist_ok=True)
    entry = {"method": "seqnet", "training_set": "PRW", **facts}
    (home / "models.yaml").write_text(yaml.safe_dump({"mine": entry}))
    return named_model("mine")


@pytest.fixture
def model(home: Path, server: FileServer) -> NamedModel:
    return listed(home, url=f"{server.url}/../../strange name.exe")


def refusal(model: NamedModel) -> str:
    with pytest.raises(CheckpointError) as raised:
        obtain(model)
    text = str(raised.value)
    assert "\n" not in text
    assert f"fetch {model.page} and put it at '{model.file}'" in text
    return text


def test_a_model_is_fetched_once_and_noted(
    home: Path, server: FileServer, model: NamedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert state(model) == "no"
    for _ in range(2):
        assert obtain(model) == home / "models" / "mine.pth"
    assert len(server.asked) == 1
    assert model.file.read_bytes() == server.content
    digest = hashlib.sha256(server.content).hexdigest()
    assert read_note(model.file) == model_cache.Note(model.address, len(server.content), digest)
    assert {path.name for path in model.file.parent.iterdir()} == {"mine.pth", "mine.pth.json", "mine.pth.lock"}
    assert state(model) == "yes"
    # One line, and no bar where there is no terminal.
    assert capsys.readouterr().err.splitlines() == [f"fetching mine from {model.page} to '{model.file}'"]


def test_a_break_is_gone_on_with_by_the_same_call(server: FileServer, model: NamedModel) -> None:
    server.cuts = [300_000, 0, 0, 0]
    assert "0.3 MB of 0.6 MB are there, and the same command goes on" in refusal(model)
    assert (state(model), model.file.exists()) == ("part", False)
    server.asked.clear()
    assert obtain(model).read_bytes() == server.content
    assert server.ranges_asked() == ["bytes=262144-"]


def test_a_file_of_another_digest_is_set_aside(home: Path, server: FileServer) -> None:
    wanted, came = "0" * 64, hashlib.sha256(server.content).hexdigest()
    model = listed(home, url=f"{server.url}/file.pth", sha256=wanted)
    text = refusal(model)
    assert f"its SHA-256 is {came}, expected {wanted} (as listed)" in text
    assert not model.file.exists()
    assert model.file.with_name("mine.pth.refused").read_bytes() == server.content
    model = listed(home, url=f"{server.url}/file.pth", sha256=came.upper(), size=len(server.content))
    assert obtain(model).read_bytes() == server.content


@pytest.mark.parametrize("cut", [None, 300_000], ids=["an answer of another kind", "cut short, of unknown length"])
def test_what_is_no_whole_checkpoint_is_not_kept_as_the_model(
    server: FileServer, model: NamedModel, cut: int | None
) -> None:
    whole = server.content
    server.content = b'{"error": "quota"}' if cut is None else whole[:cut]
    server.length = False
    assert "it is neither a whole file of torch.save's nor an archive" in refusal(model)
    assert (model.file.exists(), read_note(model.file)) == (False, None)
    server.content = whole
    assert obtain(model).read_bytes() == whole


def test_a_file_of_another_size_is_refused(home: Path, server: FileServer) -> None:
    model = listed(home, url=f"{server.url}/file.pth", size=5)
    assert "expected 5" in refusal(model)
    assert not model.file.exists()


def test_what_was_noted_first_holds_when_it_is_fetched_again(server: FileServer, model: NamedModel) -> None:
    obtain(model).unlink()
    assert obtain(model).read_bytes() == server.content
    model.file.unlink()
    before = hashlib.sha256(server.content).hexdigest()
    server.content = server.content[:4] + b"other" + server.content[4:]
    text = refusal(model)
    assert before in text
    assert hashlib.sha256(server.content).hexdigest() in text
    assert not model.file.exists()
    model.file.with_name("mine.pth.json").unlink()
    assert obtain(model).read_bytes() == server.content


def test_checking_finds_a_file_that_changed(model: NamedModel) -> None:
    file = obtain(model)
    assert check(model).startswith("as noted when it was first there: SHA-256 ")
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    # Every use compares the size, which costs nothing; a bit that changed is found by checking.
    obtain(model)
    with pytest.raises(DownloadError, match=r"its SHA-256 is .*, expected .* \(noted in "):
        check(model)
    file.write_bytes(content + b"more")
    assert "has 640030 bytes, and 640026 are noted" in refusal(model)


def test_a_file_that_was_put_there_by_hand_needs_no_network(home: Path, server: FileServer) -> None:
    content = b"PK by hand"
    model = listed(home, url=NOBODY)
    model.file.parent.mkdir(parents=True)
    model.file.write_bytes(content)
    assert obtain(model).read_bytes() == content
    assert server.asked == []
    digest = hashlib.sha256(content).hexdigest()
    assert check(model) == f"SHA-256 {digest}; nobody published one, and the file was not used yet"
    # Not before it was opened: what turns out to be another file is replaced without further ado.
    assert read_note(model.file) is None
    model_cache.note_used(model)
    assert read_note(model.file) == model_cache.Note(model.address, len(content), digest)
    model = listed(home, url=NOBODY, sha256="1" * 64)
    model.file.with_name("mine.pth.json").unlink()
    assert f"expected {'1' * 64} (as listed)" in refusal(model)


def test_a_cache_that_cannot_be_written_serves_what_it_has(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = listed(home, url=NOBODY)
    model.file.parent.mkdir(parents=True)
    model.file.write_bytes(b"PK")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(model_cache, "atomic_write_text", refuse)
    assert obtain(model) == model.file
    model.file.unlink()
    model.file.parent.rmdir()
    model.file.parent.write_text("no folder")
    assert "File exists" in refusal(model)


def test_another_address_for_a_name_does_not_take_the_old_file(
    home: Path, server: FileServer, model: NamedModel
) -> None:
    obtain(model)
    model = listed(home, url=f"{server.url}/newer.pth")
    assert "now another address is listed; remove it" in refusal(model)
    model.file.unlink()
    server.content = server.content[:4] + b"other" + server.content[4:]
    assert obtain(model).read_bytes() == server.content


def test_without_a_network_one_line_says_what_to_do_by_hand(home: Path) -> None:
    assert "Connection refused" in refusal(listed(home, url=NOBODY))
    drive = NamedModel("theirs", named_models.ModelFacts(method="seqnet", training_set="PRW", drive="AN-id"))
    assert drive.page == "https://drive.google.com/file/d/AN-id"
    assert drive.address == "https://drive.google.com/uc?id=AN-id"


def test_a_model_on_google_drive_is_asked_for_by_its_page(
    home: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address of Drive is replaced, and nothing else: gdown reads the page that this server sends."""
    monkeypatch.setattr(named_models.google_drive, "DOWNLOAD", server.url + "/uc?id={}")
    form = f'<html><form id="download-form" action="{server.url}/get"><input type="hidden" name="a" value="b"></form>'
    server.answers = [(200, {}, form.encode())]
    assert obtain(listed(home, drive="AN-id")).read_bytes() == server.content
    assert [path for path, _ in server.asked] == ["/uc?id=AN-id", "/get?a=b"]
    # Whoever is no Drive leads nobody on by a page.
    server.answers = [(200, {}, form.encode())]
    (home / "models" / "mine.pth").unlink()
    assert "sends an HTML page" in refusal(listed(home, url=f"{server.url}/file.pth"))


def test_of_two_processes_one_fetches_and_the_other_waits(server: FileServer, model: NamedModel) -> None:
    code = (
        "import sys\nfrom person_search.checkpoints.model_cache import obtain\n"
        "from person_search.checkpoints.named_models import named_model\n"
        "print(obtain(named_model('mine')), flush=True)\nassert 'torch' not in sys.modules\n"
    )
    server.hold.clear()
    processes, said = [], []
    for _ in range(2):
        processes.append(subprocess.Popen([sys.executable, "-c", code], stdout=-1, stderr=-1, text=True))
        said.append(processes[-1].stderr.readline())
    server.hold.set()
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert said[0].startswith("fetching mine from ")
    assert said[1] == "another process is fetching mine.pth; waiting for it\n"
    assert [out for out, _ in outputs] == [f"{model.file}\n"] * 2
    assert len(server.asked) == 1


def test_the_users_lists_win_and_say_so(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir()
    (home / "models.yaml").write_text(
        "seqnet-prw: {method: seqnet, training_set: PRW, url: 'https://a.example/m.pth'}\n"
    )
    assert named_model("coat-prw").listed_in is None
    assert caplog.messages == []
    assert named_model("seqnet-prw").address == "https://a.example/m.pth"
    other = tmp_path / "other.yaml"
    other.write_text("seqnet-prw: {method: seqnet, training_set: PRW, url: 'https://b.example/m.pth'}\nours: "
                     "{method: nae, training_set: ours, drive: ID}\n")  # fmt: skip
    monkeypatch.setenv("PERSON_SEARCH_MODELS", str(other))
    models = known_models()
    assert models["seqnet-prw"].address == "https://b.example/m.pth"
    assert models["ours"].listed_in == other
    assert caplog.messages == [
        f"the model 'seqnet-prw' is that of '{home / 'models.yaml'}', not that of this program",
        f"the model 'seqnet-prw' is that of '{other}', not that of '{home / 'models.yaml'}'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "expected names of models with their facts, found list"),
        ("a.pth: {}", "'a.pth' is no name of a model"),
        ("../a: {}", "'../a' is no name of a model"),
        ("a: {method: nae, training_set: b, urls: c}", "a: unknown key 'urls'. Did you mean 'url'?"),
        ("a: {method: nae, training_set: b}", "a: expected either url or drive"),
        ("a: {method: nae, training_set: b, url: 'https://c', drive: d}", "a: expected either url or drive"),
        ("a: {method: nae, training_set: b, url: 'file:///c'}", "a: url: expected an address"),
        ("a: {method: nae, training_set: b, drive: 'c/d'}", "a: drive: expected the id"),
        ("a: {method: nae, training_set: b, drive: c, sha256: abc}", "a: sha256: expected 64 hexadecimal digits"),
        ("a: {method: nae, training_set: b, drive: c, suffix: /../x.pth}", "a: suffix: expected a suffix"),
        ("a: {method: nae, training_set: b, drive: c, archive: ../x}", "a: archive: expected a name"),
        ("a: {method: nae, training_set: b, drive: c, size: 0}", "a: size: "),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_list_that_is_wrong_is_refused_by_name(home: Path, text: str, said: str) -> None:
    home.mkdir()
    (home / "models.yaml").write_text(text)
    with pytest.raises(UsageError) as raised:
        known_models()
    assert str(raised.value).startswith(f"list of models '{home / 'models.yaml'}'")
    assert said in str(raised.value)


def test_a_list_that_is_named_and_missing_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSON_SEARCH_MODELS", "nowhere.yaml")
    with pytest.raises(UsageError, match=r"cannot read list of models 'nowhere\.yaml'"):
        known_models()


def test_a_name_is_no_path(home: Path, tmp_path: Path) -> None:
    for path in ("folder/seqnet-prw", "./seqnet-prw", "seqnet-prw.pth", "seqnet-prw.pt", "..", "", "-x", str(tmp_path)):
        assert not is_name(path)
    assert is_name("seqnet-prw")
    Path("seqnet-prw").write_bytes(b"")
    assert not is_name("seqnet-prw")


def test_a_name_that_nobody_lists_is_answered_with_the_nearest(home: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file, folder or model 'seqnet-pwr'\. Did you mean 'seqnet-prw'\?"):
        named_model("seqnet-pwr")
    with pytest.raises(CheckpointError, match=r"Did you mean 'coat-prw'\?"):
        named_model("COAT-PRW")
    with pytest.raises(CheckpointError, match="person-search models lists the names"):
        named_model("xyz")


def test_the_list_of_this_program(home: Path) -> None:
    models = known_models()
    assert len(models) == 20
    for name, model in models.items():
        assert model.facts.method in methods.names()
        assert name.endswith({"CUHK-SYSU": "-cuhk-sysu", "PRW": "-prw"}[model.facts.training_set])
        assert model.address.startswith("https://")
        assert is_name(name)
    files = {model.file: model.address for model in models.values()}
    # Several models share an archive, and nothing else.
    assert len(set(files.values())) == len(files) == 17
    found = [name for name, model in models.items() if model.facts.archive and model.is_model("nae-plus", 483)]
    assert found == ["nae-plus-prw"]
    assert not models["nae4ps-prw"].is_model("nae4ps", 5532)


def test_the_list_is_in_the_wheel(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    builder = WheelBuilder(str(Path(__file__).parents[2]))
    assert "person_search/checkpoints/models.yaml" in {
        file.distribution_path for file in builder.recurse_included_files()
    }


def test_notes_are_json(model: NamedModel) -> None:
    note = json.loads(obtain(model).with_name("mine.pth.json").read_text())
    assert set(note) == {"url", "size", "sha256"}
