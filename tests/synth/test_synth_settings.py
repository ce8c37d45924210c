from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from person_search.errors import UsageError
from person_search.synth.settings import SynthConfig


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"identities": 3}, "identities"),
        ({"scenes": 5, "identities": 4}, "scenes"),
        ({"cameras": 0}, "cameras"),
        ({"width": 100}, "width"),
        ({"height": 5000}, "height"),
        ({"seed": -1}, "seed"),
        ({"difficulty": 1.2}, "difficulty"),
        ({"difficulty": "harsh"}, "difficulty"),
        ({"layout": "voc"}, "layout"),
        ({"min_visibility": 1.5}, "min_visibility"),
        ({"identities": 30, "scenes": 20}, "30 identities"),
        ({"train_share": 0.9, "val_share": 0.1}, "train_share"),
        ({"layout": "prw", "cameras": 10}, "prw"),
        ({"identity": 10}, "Did you mean 'identities'"),
    ],
)
def test_refuses_in_one_line_that_names_the_setting(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named) as caught:
        SynthConfig(**settings)
    assert "\n" not in str(caught.value)


def test_difficulty_has_names_and_numbers() -> None:
    levels = [SynthConfig(difficulty=name).level for name in ("easy", "normal", "hard")]
    assert levels == sorted(set(levels))
    assert SynthConfig(difficulty=0.3).level == 0.3
    assert SynthConfig(difficulty="normal").fingerprint() == SynthConfig(difficulty=0.5).fingerprint()


def test_fingerprint_knows_every_setting_that_changes_the_files() -> None:
    base = SynthConfig().fingerprint()
    assert SynthConfig(out=Path("elsewhere")).fingerprint() == base
    others: list[dict[str, Any]] = [
        {"identities": 201}, {"scenes": 2001}, {"cameras": 5}, {"width": 320}, {"height": 240}, {"seed": 1},
        {"difficulty": "hard"}, {"layout": "mot"}, {"min_visibility": 0.3}, {"train_share": 0.6}, {"val_share": 0.2},
    ]  # fmt: skip
    assert {*others[0], *(key for other in others for key in other), "out"} == set(SynthConfig.model_fields)
    for other in others:
        assert SynthConfig(**other).fingerprint() != base
