"""COCO-style JSON with people: bring your own pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from person_search.config import DataConfig
from person_search.data.coco_file import SPLIT_NAMES, CocoFile, split_named
from person_search.data.notes import Notes
from person_search.data.scene import Dataset, Scene, Split, SplitName
from person_search.data.settings import CocoSettings
from person_search.errors import DataError, UsageError

LAYOUT = "ROOT/{train,val,test}.json (val is optional), or one ROOT/annotations.json; images in ROOT/images or ROOT"
SHARED = "annotations.json"


class CocoDataset(Dataset):
    """Pictures with a COCO-style JSON file per split, or one file for all.

    ``images``: ``id``, ``file_name`` and, optional, ``width``, ``height``, ``camera`` (integer), ``split``.
    ``annotations``: ``image_id``, ``bbox`` (x, y, w, h in pixels), ``person_id`` (a whole number; absent or negative:
    no identity), ``iscrowd`` (1: a region to ignore, unless it has a person's id). The id may stand among
    ``attributes``, and there be CVAT's ``track_id``; ``person_id_key`` names another key. Which ``categories`` are
    people is decided once for a file, see ``people_among``. ``queries``, optional: ``image_id``, ``bbox``,
    ``person_id``; without it the queries are the first box of every identity that is in two images or more.

    In one file for all, an image's ``split`` says where it belongs; images without one are test images. Identities
    are numbered 0..N-1 by sorted ``person_id``, in each split for itself. What a file holds and is not used is noted.
    """

    summary = LAYOUT
    Settings = CocoSettings
    config: CocoSettings
    crowds_with_id_are_people: ClassVar[bool] = True
    """Whether a crowd region that has a person's id is that person, drawn as a mask."""

    other_files: ClassVar[frozenset[str]] = frozenset({"synth.json"})
    """JSON files that lie in the folder and are no annotations."""

    def __init__(self, root: Path, config: DataConfig | None = None):
        super().__init__(root, config)
        self._shared: tuple[Path, CocoFile] | None = None

    def has_validation(self) -> bool:
        """Whether there are validation images."""
        if self._own_file("val") is not None:
            return True
        path = self._shared_file()
        return path is not None and self._shared_content(path).has_split("val")

    def split(self, name: SplitName) -> Split:
        """One split. Raises DataError for missing or damaged files, UsageError if there is no such split."""
        own = self._own_file(name)
        shared = self._shared_file()
        notes = Notes()
        if own is not None:
            content = self._file(own).own(name, notes)
            if not content.images:
                raise UsageError(f"no {name} split: '{own}' lists no images")
        elif shared is not None:
            content = self._shared_content(shared).part(name, notes)
            if not content.images:
                raise UsageError(
                    f'\'{shared}\' has no {name} images; give images "split": "{name}" or write {name}.json beside it'
                )
        elif any(self._own_file(other) is not None for other in ("train", "test")):
            raise UsageError(f"no {name} split in '{self.root}': expected the file {name}.json")
        else:
            raise DataError(f"no annotations in '{self.root}'; expected {LAYOUT}{self._other_files()}")
        scenes, people = content.scenes(notes)
        queries = content.queries(scenes, people, notes) if name != "train" else []
        return Split(
            "coco",
            name,
            self._image_root(scenes),
            scenes,
            len(people),
            queries,
            identity_names=tuple(map(str, people)),
            notes=(*content.file_notes, *notes.lines()),
        )

    def notes(self) -> tuple[str, ...]:
        """JSON files in the folder that are not read, and those read under another name than a split's."""
        if self.root != self._folder:
            return ()
        used = {path for name in ("train", "val", "test") if (path := self._own_file(name)) is not None}
        notes = Notes()
        for path in sorted(used):
            if path.stem not in ("train", "val", "test"):
                notes.add(path, f"it is read as {split_named(path.stem)}.json")
        shared = self._shared_file()
        if shared is not None and used:
            names = ", ".join(sorted(path.name for path in used))
            notes.add(shared, f"only images of splits without a file of their own are used ({names} are there)")
        try:
            files = sorted(self._folder.glob("*.json"))
        except OSError:
            files = []
        for path in files:
            if path in {*used, shared} or path.name in self.other_files:
                continue
            if (split := split_named(path.stem)) is not None:
                own = self._own_file(split)
                assert own is not None
                notes.add(path, f"it is not read: {own.name} is there for the {split} split")
            else:
                notes.add(self.root, "JSON files not read, whose names are no split's: {n}", path.name)
        return notes.lines()

    def _other_files(self) -> str:
        """JSON files that other programs may have written there, for an error."""
        try:
            files = sorted([*self._folder.glob("*.json"), *self._folder.glob("*/*.json")])
        except OSError:
            files = []
        if not files:
            return ""
        named = ", ".join(f"'{path.relative_to(self._folder).as_posix()}'" for path in files[:3])
        return f"; there is {named}{', ...' if len(files) > 3 else ''}: give it such a name in such a place"

    @property
    def _folder(self) -> Path:
        return self.root.parent if self.root.suffix == ".json" else self.root

    def _own_file(self, name: str) -> Path | None:
        """The file of the split ``name`` alone: by that name, else by another that means the same, as valid.json."""
        if self.root != self._folder:
            return None
        others = [alias for alias, split in SPLIT_NAMES.items() if split == name and alias != name]
        paths = [self._folder / f"{alias}.json" for alias in (name, *others)]
        return next((path for path in paths if path.is_file()), None)

    def _shared_file(self) -> Path | None:
        path = self.root if self.root != self._folder else self.root / SHARED
        return path if path.is_file() else None

    def _file(self, path: Path) -> CocoFile:
        return CocoFile(
            path, person_id_key=self.config.person_id_key, crowds_with_id_are_people=self.crowds_with_id_are_people
        )

    def _shared_content(self, path: Path) -> CocoFile:
        """The file of all splits, read once for them."""
        if self._shared is None or self._shared[0] != path:
            self._shared = path, self._file(path)
        return self._shared[1]

    def _image_root(self, scenes: Sequence[Scene]) -> Path:
        images = self._folder / "images"
        first = scenes[0].name if scenes else ""
        beside = bool(first) and not os.path.exists(images / first) and os.path.exists(self._folder / first)
        return images if images.is_dir() and not beside else self._folder
