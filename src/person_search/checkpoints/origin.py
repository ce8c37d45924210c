"""Which project a checkpoint of another layout is from, and what each of its tensors is called there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from person_search.config import MethodSettings
from person_search.config.sections import flat
from person_search.errors import CheckpointError

DATASETS = {5532: "CUHK-SYSU", 482: "PRW", 483: "PRW"}
"""Data sets by their number of training identities; of PRW's 483, some projects number all but one."""
LISTED = 4


class Layout(Protocol):
    """How one project names its tensors: what every module ``released*`` has."""

    PROJECT: str
    PAPER: str

    def is_released(self, state: Mapping[str, Any]) -> bool:
        """Whether these are the tensor names of such a checkpoint."""

    def recognise(self, state: dict[str, Tensor], held: Mapping[str, Any] = ...) -> dict[str, Any]:
        """Model settings that a state dict shows, or the settings ``held`` beside it, and ``num_identities``.

        Raises CheckpointError where they show none, or contradict each other.
        """

    def rename(self, name: str) -> str | None:
        """Our name of a tensor, None for what is not used. Raises CheckpointError for one that is none of theirs."""

    def names(self, state: dict[str, Tensor]) -> dict[str, str | None]:
        """``rename`` for all of a state dict."""

    def convert(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state dict with our names."""

    def evaluation_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of the evaluation, by name, that the published numbers of a model with ``settings`` were taken with.

        Those that are our defaults are left out.
        """


@dataclass(frozen=True, eq=False)
class Origin:
    """The project that a checkpoint is from.

    Attributes:
        layout: how the project names tensors.
        names: {our name of a tensor: that in the file}, the first where the file has several.
        unused: names in the file of tensors that nothing here, nor there, computes with.
    """

    layout: Layout
    names: Mapping[str, str]
    unused: tuple[str, ...]

    def name_in_file(self, ours: str) -> str:
        """What the file calls the tensor ``ours``, or would call it, as far as its other names tell; else ``ours``."""
        if ours in self.names:
            return self.names[ours]
        part = [name for name in self.names if name.partition(".")[0] == ours.partition(".")[0]]
        for beside in sorted(part, key=lambda other: -_common(ours, other)):
            start = _common(ours, beside)
            theirs, end = self.names[beside], beside[start:]
            guess = theirs.removesuffix(end) + ours[start:]
            if theirs.endswith(end) and self._is_called(guess, ours):
                return guess
        return ours

    def _is_called(self, theirs: str, ours: str) -> bool:
        try:
            return self.layout.rename(theirs) == ours
        except CheckpointError:
            return False

    def describe(self, config: MethodSettings, num_identities: int) -> str:
        """What the file was taken for, in one line."""
        settings = flat(config)
        parts = [f"method {config.method}"]
        if "levels" in settings:
            parts.append(f"re-ID features {' '.join(settings['levels'])}")
        trained = DATASETS.get(num_identities)
        parts.append(f"{num_identities} identities{f' (as {trained} has)' if trained else ''}")
        if self.unused:
            places = list(dict.fromkeys(name.rpartition(".")[0] for name in self.unused))
            more = f" and {len(places) - LISTED} more" if len(places) > LISTED else ""
            parts.append(f"left out, as nothing uses them: {', '.join(places[:LISTED])}{more}")
        return f"{self}: {'; '.join(parts)}"

    def __str__(self) -> str:
        return f"a checkpoint of {called(self.layout)}"


def called(layout: Layout) -> str:
    """A project and its paper."""
    return f"{layout.PROJECT} ({layout.PAPER})"


def _common(one: str, other: str) -> int:
    """How many characters two names begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def origin_of(layout: Layout, state: dict[str, Tensor]) -> Origin:
    """The origin of a state dict in ``layout``. Raises CheckpointError for a name that the layout does not have."""
    names: dict[str, str] = {}
    unused = []
    for theirs, ours in layout.names(state).items():
        if ours is None:
            unused.append(theirs)
        else:
            names.setdefault(ours, theirs)
    return Origin(layout, names, tuple(unused))
