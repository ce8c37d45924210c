"""The progress bar of a run."""

from __future__ import annotations

from types import TracebackType

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class RunProgress:
    """A bar over all steps with the time left, and a second one while a subtask, such as validation, is going on."""

    def __init__(self, *, total: int, done: int, shown: bool):
        # A program that only imports training gets no console.
        from person_search.runtime.terminal import console

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not shown,
        )
        self._steps = self._progress.add_task("training", total=total, completed=done, note="")
        self._other: TaskID | None = None

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def step(self, done: int, note: str) -> None:
        """``done`` steps are done; ``note`` says how it goes."""
        self._progress.update(self._steps, completed=done, note=note)

    def subtask(self, what: str, done: int, total: int) -> None:
        """Show how far ``what`` is, until it is done."""
        if self._other is None:
            self._other = self._progress.add_task(what, total=total, note="")
        self._progress.update(self._other, completed=done)
        if done >= total:
            self._progress.remove_task(self._other)
            self._other = None
