"""The comparison: each training once, its page true to its numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from person_search.config import load_config, method_settings
from person_search.config.sections import flat
from person_search.training import trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import compare
    import comparison_page

    yield compare, comparison_page
    for name in ("compare", "comparison_page"):
        del sys.modules[name]


def test_variants_differ_from_the_baseline_in_what_they_are_called(modules, tmp_path: Path) -> None:
    compare, page = modules
    configs = {name: compare.config_of("cpu", name, 0, tmp_path) for name in page.VARIANTS}
    base = configs["baseline"]
    assert base.model.method == "baseline"
    assert base.training.warmup_epochs > 0
    assert base.model.pk.sampling
    for name, config in configs.items():
        settings, usual = flat(config), flat(base)
        own = flat(method_settings(config.model.method))
        changed = {
            key
            for key in settings.keys() & usual.keys()
            if settings[key] != usual[key] and (key == "method" or settings[key] != own.get(key))
        }
        fewer = {"roi_batch_per_image"} if config.model.rois.size == (14, 14) else set()
        assert changed - {"run_dir"} == page.VARIANTS[name].settings.keys() | fewer, name
    assert len({config.training.run_dir for config in configs.values()}) == len(configs)


def test_other_settings_or_seeds_are_other_folders(modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare, _ = modules
    one = compare.config_of("cpu", "oim", 0, tmp_path).training.run_dir
    assert compare.config_of("cpu", "oim", 1, tmp_path).training.run_dir != one
    assert compare.config_of("cpu", "oim", 0, tmp_path / "x").training.run_dir.name == one.name
    changed = replace(compare.PRESETS["cpu"], settings=compare.PRESETS["cpu"].settings | {"lr": 0.5})
    monkeypatch.setitem(compare.PRESETS, "cpu", changed)
    assert compare.config_of("cpu", "oim", 0, tmp_path).training.run_dir.name != one.name


def test_the_table_has_means_and_spreads_of_the_seeds(modules) -> None:
    _, page = modules
    entry = page.Entry("oim", 0, 0.25, 0.5, 0.75, 10.0, 4.0, 1000.0, 20, "here")
    table = page.table([entry, replace(entry, seed=1, map=0.35), page.Entry(page.CHANCE, 0, 0.1, 0.2, None)])
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert cells == [
        ["OIM", "2", "30.0 ± 7.1", "50.0 ± 0.0", "75.0 ± 0.0", "10.0 ± 0.0", "4.0 ± 0.0", "1000 ± 0"],
        ["random ranking of true boxes", "-", "10.0", "20.0", "-", "-", "-", "-"],
    ]


def test_the_page_says_how_many_seeds_and_marks_what_is_published(modules) -> None:
    _, page = modules
    entry = page.Entry("oim", 0, 0.25, 0.5, 0.75, 10.0, 4.0, 1000.0, 20, "here")
    one = page.comparison({"cpu": [entry]}, {"cpu": "small"})
    assert page.wrapped(page.ONE_SEED) in one
    several = page.comparison({"cpu": [entry, replace(entry, seed=1)]}, {"cpu": "small"})
    assert page.wrapped(page.SEVERAL_SEEDS) in several
    assert page.wrapped(page.ONE_SEED) not in several
    published = one.split("### Published, not measured here")[1]
    results = [line for line in published.splitlines() if line.startswith(("| OIM", "| NAE", "| baseline"))]
    assert len(results) == 3
    assert all("(published)" in line for line in results)
    commands = [line for line in published.splitlines() if line.startswith("person-search train")]
    assert len(commands) == 6
    for command in commands:
        recipe, run_dir = command.split("--config ")[1].split()[0], command.split("--checkpoint ")[1]
        assert load_config(ROOT / recipe).training.run_dir == Path(run_dir)


def test_the_section_takes_its_own_place_on_a_page(modules) -> None:
    _, page = modules
    new = page.put_section("", "one")
    assert new == f"{page.START}\n\none\n{page.END}\n"
    text = page.put_section("# Results\n\nBy hand.\n", "one")
    assert text == f"# Results\n\nBy hand.\n\n{new}"
    below = text + "\nMore by hand.\n"
    assert page.put_section(below, "two") == below.replace("one", "two")


def test_a_finished_training_is_kept_and_published(modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compare, page = modules
    folder, out = tmp_path / "tiny", tmp_path / "docs" / "results.md"
    compare.generate(compare.SynthConfig(out=folder / "scenes", **compare.PRESETS["tiny"].scenes))
    entry = compare.train_one("tiny", "baseline", 0, folder)
    assert entry.steps == 8
    assert entry.memory > 100
    assert 0 <= entry.detection_ap <= 1
    assert entry.images_per_second * entry.epoch_seconds == pytest.approx(8 * 4)

    monkeypatch.setattr(trainer, "train", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(compare.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
    assert compare.train_one("tiny", "baseline", 0, folder) == entry
    compare.compare("tiny", ["baseline"], 1, folder, out)
    published = json.loads(out.with_suffix(".json").read_text())
    assert page.Entry(**published["tiny"][0]) == entry
    assert f"| {100 * entry.detection_ap:.1f} |" in out.read_text()

    # Another preset's numbers stay on the page.
    out.with_suffix(".json").write_text(json.dumps({"cpu": published["tiny"]}))
    compare.compare("tiny", ["baseline"], 1, folder, out)
    assert "preset `cpu`" in out.read_text()
    assert "preset `tiny`" in out.read_text()

    # So do this preset's that were made elsewhere; what was made here takes the place of its own.
    other, stale = dict(published["tiny"][0], variant="oim"), dict(published["tiny"][0], map=0.123)
    out.with_suffix(".json").write_text(json.dumps({"tiny": [other, stale]}))
    compare.compare("tiny", ["baseline"], 1, folder, out)
    rows = json.loads(out.with_suffix(".json").read_text())["tiny"]
    assert [row["variant"] for row in rows] == ["oim", "baseline", "chance"]
    assert rows[:2] == [other, published["tiny"][0]]
