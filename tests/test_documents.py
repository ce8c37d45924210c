"""Every command line and block of README.md, CONTRIBUTING.md, docs/, recipes/ and the Makefile: its options exist, its
settings are valid, and the first run, scoring, search and resuming do what is written there."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from person_search.checkpoints.named_models import known_models
from person_search.commandline import cli, commands
from person_search.commandline.flags import option_names
from person_search.commandline.options import OPTIONS
from person_search.commandline.reference_options import NO_MEANING, parser
from person_search.config import Config, load_config, with_settings
from person_search.evaluation.predictions import Predictions
from person_search.registry import datasets, methods

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")

FIRST_RUN = [
    "person-search synth --identities 200 --scenes 2000 --cameras 6 --layout coco --out data/synthetic",
    "person-search train --config recipes/demo.yaml --run-dir runs/first",
    "person-search evaluate --checkpoint runs/first --references",
    "person-search report --run-dir runs/first --out report/first",
]
RESUME = "train --run-dir RUN --resume"
SEARCH = (
    "person-search visualize --model runs/first --query street.jpg --box 120,40,180,210 --gallery holiday/ "
    "--out ranking.png"
)
FIRST_SEARCH = (
    "person-search visualize --model runs/first --query data/synthetic/images/c1/000239.jpg --box 79,132,128,286 "
    "--gallery data/synthetic/images/c2 --out ranking.png"
)
SCORING = [
    "person-search score --dataset prw --data-root data --predictions theirs.npz --per-query per_query.csv",
    "person-search score --dataset prw --data-root data --predictions theirs.npz --json results.json "
    "--per-query aps.csv",
    "person-search compare ours.npz theirs.npz --dataset prw --data-root data",
]
EXECUTED = [*FIRST_RUN, FIRST_SEARCH, RESUME, SEARCH, *SCORING]

LICENSED = "needs CUHK-SYSU or PRW, which are licensed"
MANY = "needs several GPUs or machines; tests/training trains on two processes"
NETWORK = "needs a network, and a model that its authors released for research"
MODELS = "is executed by tests/commandline/test_models.py"
MINUTES = "takes minutes, and its commands are compared here or tested by themselves"
BY_THE_PAGES_OWN_TEST = "is executed by tests/test_extending.py"
INSTALLS = "installs; tests/test_end_to_end.py installs the wheel"
NAMES = "names a command or shows a way to call it, and says nothing that could be executed"
NOT_EXECUTED = {
    r"person-search (train|evaluate) .*(cuhk-sysu|prw).*": LICENSED,
    r"person-search visualize --model seqnet-prw .*": NETWORK,
    r"(person-search )?models (seqnet-prw|--check)": MODELS,
    r"person-search score --dataset cuhk-sysu .*-1": LICENSED,
    r"person-search info --dataset prw --data-root FOLDER": LICENSED,
    r"python main\.py .*--benchmark ssm .*": LICENSED,
    r"(person-search|torchrun|train) .*--(devices|nproc-per-node|nnodes) .*": MANY,
    r"make (demo|test|test-fast|test-gpu|lint|docs|format|compare|mutants)( \w+=\S+)?": MINUTES,
    r"(OMP_NUM_THREADS=1 )?python benchmarks/\w+\.py.*": MINUTES,
    r"person-search (synth --identities 300|train --config recipes/demo.yaml --data-root|evaluate|report) .*"
    r"(data/demo|runs/demo).*": MINUTES,
    r"PYTHONPATH=\. person-search .*|python (make_people|try_it)\.py": BY_THE_PAGES_OWN_TEST,
    r"pip install (--constraint constraints.txt )?\.": INSTALLS,
    r"pip install '\.\[weights\]'": INSTALLS,
    r"git clone ADDRESS person-search|cd person-search": INSTALLS,
    r"person-search (train --config recipes/demo.yaml --gfn --run-dir|evaluate --checkpoint) runs/filtered.*": MINUTES,
    r"pip install torch torchvision --index-url \S+": INSTALLS,
    r"person-search train --run-dir runs/first --resume": "is what the shorter line that is executed stands for",
    r"python -c .*": "is executed where it is read",
    r"tensorboard --logdir runs": "is another program's",
    r"person-search( \w+)?( --help)?|python main\.py --help|train --print-config|predict --(cbgm|cws)|"
    r"train --method nae --help": NAMES,
}
"""Pattern of a command line -> why it is read here and not executed."""
COMPLETED = {
    "person-search evaluate": "--checkpoint FILE",
    "person-search score": "--predictions FILE",
    "person-search convert": "FILE --out FILE",
    "person-search visualize": "--model FILE --query FILE --box 1,1,2,2 --gallery FOLDER",
    "predict --cbgm": "--checkpoint FILE",
    "predict --cws": "--checkpoint FILE",
}
"""What running text leaves out where it names a command."""

TINY = (
    "--width 0.125 --shorter-side 96 --longer-side 128 --anchor-sizes 20 40 --anchor-ratios 3 --rpn-post-nms-test 20 "
    "--score-threshold 0 --batch-size 4 --max-epochs 1 --workers 0"
)
SMALLER = {
    "--identities 200 --scenes 2000 --cameras 6": "--identities 12 --scenes 24 --cameras 2 --width 320 --height 240",
    "recipes/demo.yaml": f"'{ROOT}/recipes/demo.yaml' {TINY}",
    "runs/first": "runs/[a]",
    "RUN": "runs/[a] --max-epochs 2",
    "data/synthetic/images/c1/000239.jpg --box 79,132,128,286": "data/synthetic/images/c1/000001.jpg --box 9,9,60,160",
    "--gallery data/synthetic/images/c2": "--gallery data/synthetic/images/c2 --search-threshold 0",
    "--gallery holiday/": "--gallery holiday/ --search-threshold 0",
}
"""What is put in place of what is written, for little data and a folder whose name looks like markup."""


def fenced(text: str) -> list[str]:
    """Command lines of the shell blocks of a page."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^    (python .*)$", text, re.MULTILINE)
    return [part.strip() for line in lines for part in line.split("&&")]


def inline(text: str) -> list[str]:
    """Command lines in the running text of a page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    codes = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`", text)]
    names = "|".join(OPTIONS)
    start = rf"(\w+=\S* )?(person-search|python|torchrun|make|pip|tensorboard|{names}) \S"
    return [code for code in codes if re.match(start, code)]


def of_makefile() -> list[str]:
    """Command lines of the targets, with the variables' defaults, for a run that is there already."""
    values = dict(re.findall(r"^(\w+) [?:]?= ?(.*)$", MAKEFILE, re.MULTILINE)) | {"BIN": "/bin"}
    lines = re.findall(r"^\t(.*(?:person-search|benchmarks/).*)$", MAKEFILE, re.MULTILINE)
    lines = [re.sub(r"\$\(if .*\)\),(.*?)\)", r"\1", line) for line in lines]
    lines = [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], line) for line in lines]
    return [line.removeprefix("/bin/") for line in lines]


def plain(line: str) -> str:
    """A command line without its comment, with single spaces."""
    return " ".join(re.sub(r"(^|\s)#.*$", "", line).split())


LINES = sorted(
    {plain(line) for page in PAGES for line in [*fenced(page.read_text("utf-8")), *inline(page.read_text("utf-8"))]}
    | {plain(line) for line in of_makefile()}
)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_executed_here_or_there_is_a_reason(line: str) -> None:
    reasons = [reason for pattern, reason in NOT_EXECUTED.items() if re.fullmatch(pattern, line)]
    assert (line in EXECUTED) != bool(reasons), reasons


def test_nothing_is_listed_that_is_not_written() -> None:
    assert [line for line in EXECUTED if line not in LINES] == []
    assert [pattern for pattern in NOT_EXECUTED if not any(re.fullmatch(pattern, line) for line in LINES)] == []
    assert len(LINES) > 30


class Understood(BaseException):
    """A benchmark read its options."""


def understood(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Take a command line through its program up to where work would begin."""
    if line.startswith("PYTHONPATH=. ") or line in ("python make_people.py", "python try_it.py"):
        # Needs the plug-in of the page, whose modules tests/test_extending.py writes.
        return
    words = [word for word in shlex.split(f"{line} {COMPLETED.get(line, '')}") if word != "..."]
    while re.match(r"\w+=", words[0]):
        words.pop(0)
    for name in [name for name in vars(commands) if name.startswith("run_")]:
        monkeypatch.setattr(commands, name, lambda *given, **options: None)
    monkeypatch.chdir(ROOT)
    program, *rest = words
    if program == "torchrun":
        rest = rest[rest.index("person_search") + 1 :] if "person_search" in rest else ["train"]
    elif program in OPTIONS:
        rest = words
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", MAKEFILE, re.MULTILINE)
        return
    elif program in ("pip", "tensorboard", "git", "cd"):
        return
    execute = cli.dispatch
    if program == "python" and rest[0] == "main.py":
        execute = runpy.run_path(rest.pop(0))["execute"]
    elif program == "python" and rest[0] == "-c":
        exec(rest[1], {})
        return
    elif program == "python":
        read = argparse.ArgumentParser.parse_args

        def stop(self: argparse.ArgumentParser, *given: object) -> None:
            read(self, *given)
            raise Understood

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        monkeypatch.setattr(sys, "argv", rest)
        monkeypatch.syspath_prepend(ROOT / "benchmarks")
        with pytest.raises(Understood):
            runpy.run_path(rest[0], run_name="__main__")
        return
    try:
        code = cli.run(rest, execute)
    except SystemExit as stop_after_help:
        code = int(stop_after_help.code or 0)
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_understood(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    understood(line, monkeypatch, capsys)


@pytest.mark.parametrize(
    "line",
    [
        "person-search train --config recipes/nowhere.yaml",
        "train --run-dir RUN --resumed",
        "person-search evaluate --checkpoint runs/first --gallery-size many",
        "python main.py --benchmark sms",
        "torchrun --nproc-per-node 4 -m person_search train --device 4",
    ],
)
def test_a_wrong_command_line_is_not_understood(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(AssertionError, match="error: "):
        understood(line, monkeypatch, capsys)


def test_every_run_that_is_used_is_made_by_a_command_before() -> None:
    used, made = set(), {"runs/again", "runs/demo", "runs/filtered", "runs/first"}
    for line in LINES:
        used |= set(re.findall(r"--(?:checkpoint|model|start|run-dir) (runs/\S+)", line))
        for recipe in re.findall(r" train --config (\S+)$", line):
            made.add(load_config(ROOT / recipe).training.run_dir.as_posix())
    assert used <= made


OF_PLUGINS = {"--cosface-margin", "--csv-delimiter"}
"""Of the loss and the dataset that docs/extending.md shows."""
OF_OTHER_PROGRAMS = {
    "--constraint",
    "--help",
    "--debug",
    "--version",
    "--nproc-per-node",
    "--nnodes",
    "--logdir",
    "--index-url",
}


def test_every_option_that_is_written_anywhere_exists() -> None:
    chosen = [Config(), *(with_settings(Config(), dataset=name) for name in datasets.names())]
    chosen += [with_settings(Config(), method=name) for name in methods.names()]
    known = {f"--{name}" for base in chosen for options in OPTIONS.values() for name in option_names(options(base))}
    known |= {f"--no-{name.removeprefix('--')}" for name in known}
    known |= {name for action in parser()._actions for name in action.option_strings} | NO_MEANING.keys()
    known |= OF_OTHER_PROGRAMS | OF_PLUGINS
    for script in (ROOT / "benchmarks").glob("*.py"):
        known |= set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', script.read_text(encoding="utf-8")))
    for path in [*PAGES, ROOT / "CHANGELOG.md", *(ROOT / "recipes").glob("*.yaml")]:
        text = path.read_text(encoding="utf-8")
        written = set(re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", text))
        assert written <= known, (path, written - known)


BLOCKS = [
    (page.relative_to(ROOT).as_posix(), language, code)
    for page in PAGES
    for language, code in re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
]


def test_every_block_is_of_a_language_that_a_test_reads() -> None:
    assert {language for _, language, _ in BLOCKS} == {"sh", "python", "yaml", "toml"}
    # Each is run: by tests/test_end_to_end.py, tests/test_extending.py and the next test.
    python = {page for page, language, _ in BLOCKS if language == "python"}
    assert python == {"README.md", "docs/extending.md", "docs/scoring.md"}
    assert {page for page, language, _ in BLOCKS if language == "toml"} == {"docs/extending.md"}


def test_a_predictions_file_is_written_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = [code for page, language, code in BLOCKS if (page, language) == ("docs/scoring.md", "python")]
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    found = Predictions.load(tmp_path / "theirs.npz")
    assert (len(found.scene_names), len(found.boxes), len(found.query_embeddings)) == (2, 3, 1)


YAML = [code for _, language, code in BLOCKS if language == "yaml"]


@pytest.mark.parametrize("text", [text for text in YAML if "training_set:" in text])
def test_a_list_of_models_that_is_written_is_read(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models.yaml").write_text(text)
    monkeypatch.setenv("PERSON_SEARCH_HOME", str(tmp_path))
    added = [model for model in known_models().values() if model.listed_in is not None]
    assert added
    assert {model.facts.method for model in added} <= {*methods.names()}


@pytest.mark.parametrize("text", [text for text in YAML if "training_set:" not in text])
def test_settings_that_are_written_are_read(text: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path, dirs_exist_ok=True)
    (tmp_path / "written.yaml").write_text(text)
    assert load_config(tmp_path / "written.yaml") != Config()


def test_flags_beside_settings_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = [code for _, language, code in BLOCKS if language == "yaml" and "# --" in code]
    (tmp_path / "written.yaml").write_text(text)
    flags = " ".join(re.findall(r"# (--.*)$", text, re.MULTILINE))
    capsys.readouterr()
    assert cli.run(["train", *shlex.split(flags), "--print-config"], cli.dispatch) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "printed.yaml") == load_config(tmp_path / "written.yaml")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture
def at_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(commands.console, "_width", 200, raising=False)
    return workplace


def smaller(line: str) -> str:
    for written, instead in SMALLER.items():
        line = re.sub(rf"{re.escape(written)}(?=\s|$)", lambda found, instead=instead: instead, line)
    return line


def executed(capsys: pytest.CaptureFixture[str], line: str) -> str:
    words = shlex.split(smaller(line).removeprefix("person-search "))
    capsys.readouterr()
    code = cli.run(words, cli.dispatch)
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


def test_the_first_run(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    synth, train, evaluate, report = FIRST_RUN
    assert "24 scenes in data/synthetic" in executed(capsys, synth)
    assert "newest checkpoint runs/[a]/last.pt" in executed(capsys, train)
    assert "wrote runs/[a]/evaluation/" in executed(capsys, evaluate)
    assert "runs/[a]" in executed(capsys, report)
    assert "[a]" in (at_work / "report" / "first" / "index.html").read_text(encoding="utf-8")
    assert "wrote ranking.png" in executed(capsys, FIRST_SEARCH)


def test_going_on_with_a_run(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "2 whole epochs: newest checkpoint runs/[a]/last.pt" in executed(capsys, RESUME)


def test_searching_a_folder_of_pictures(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query, *others = sorted((at_work / "data" / "synthetic" / "images").rglob("*.jpg"))[:4]
    shutil.copy(query, "street.jpg")
    Path("holiday").mkdir()
    for picture in others:
        shutil.copy(picture, Path("holiday", f"[{picture.parent.name}] {picture.name}"))
    out = executed(capsys, SEARCH)
    assert "wrote ranking.png" in out
    assert "[c1] 0000" in out
    assert Path("ranking.png").is_file()


def test_scoring(at_work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("published").mkdir()
    monkeypatch.chdir("published")
    executed(capsys, "synth --layout prw --identities 12 --scenes 24 --cameras 2 --width 320 --height 240 --out data")
    for name in ("ours.npz", "theirs.npz"):
        executed(capsys, f"predict --checkpoint '../runs/[a]' --dataset prw --data-root data --predictions {name}")
    for line in SCORING:
        assert "mAP" in executed(capsys, line)
    assert all(Path(name).is_file() for name in ("per_query.csv", "aps.csv", "results.json"))


def test_errors_name_folders_as_they_are(at_work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["evaluate", "--checkpoint", "runs/[b]"], ["report", "--run-dir", "runs/[b]"]):
        assert cli.run(words, cli.dispatch) != 0
        assert "runs/[b]" in capsys.readouterr().err
    assert cli.run(["train", "--run-dir", "runs/[a]"], cli.dispatch) == 2
    assert "'runs/[a]' already holds a run" in capsys.readouterr().err
