"""Lines about what files hold and the program does not use; digests of what is annotated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from test_catalogue import scene

from person_search.data.fingerprint import fingerprint
from person_search.data.notes import Notes
from person_search.data.scene import Split, as_boxes


def test_entries_of_one_kind_become_one_line() -> None:
    notes = Notes()
    for number in range(5):
        notes.add("a.json", "{n} boxes without area are left out", f"annotation {number}")
    notes.add("a.json", "the key 'info' is not used")
    notes.add("b.json", "{n} boxes without area are left out", "annotation 9")
    assert notes.lines() == (
        "'a.json': 5 boxes without area are left out (annotation 0, annotation 1, annotation 2, ...)",
        "'a.json': the key 'info' is not used",
        "'b.json': 1 boxes without area are left out (annotation 9)",
    )


def test_fingerprint_tells_what_is_annotated_apart() -> None:
    scenes = [scene("a", [0, 1]), scene("b", [-1])]
    split = Split("coco", "train", Path("x"), scenes, 2)
    same = fingerprint(replace(split, image_root=Path("elsewhere")))
    assert same == fingerprint(split)
    moved = scenes[0].boxes + 1
    others = [
        [scene("a", [1, 0]), scenes[1]],
        [replace(scenes[0], boxes=moved), scenes[1]],
        [replace(scenes[0], name="c"), scenes[1]],
        [replace(scenes[0], ignore=as_boxes([0, 0, 1, 1])), scenes[1]],
        scenes[:1],
    ]
    assert len({fingerprint(split), *(fingerprint(replace(split, scenes=other)) for other in others)}) == 6
