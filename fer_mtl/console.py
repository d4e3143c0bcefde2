"""What a run says while it works: a live bar on a terminal, one plain line an epoch elsewhere."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Console:
    """Prints lines and, between them, the progress of one thing at a time. ``quiet`` prints nothing."""

    def __init__(self, quiet: bool = False, output: RichConsole | None = None) -> None:
        self.output = output or RichConsole(quiet=quiet, highlight=False, emoji=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def line(self, text: str) -> None:
        """A line of its own, above a bar if there is one; not wrapped when it goes to a file or a pipe."""
        with self._lasting():
            self.output.print(text, markup=False, soft_wrap=not self.output.is_terminal)

    @contextmanager
    def _lasting(self) -> Iterator[None]:
        """Work outlasts the terminal that shows it: once that is closed, nothing more is said."""
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.output.quiet = True

    @contextmanager
    def bar(self, name: str, total: int, done: int = 0) -> Iterator[None]:
        """Show progress inside the block; nothing but the lines where the output is no terminal."""
        if not self.output.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
        )
        progress = self._progress = Progress(*columns, console=self.output, transient=True)
        self._task = progress.add_task(name, total=total, completed=done, note="")
        shown = False
        try:
            with self._lasting():
                progress.start()
                shown = True
            yield
        finally:
            self._progress = self._task = None
            if shown:
                with self._lasting():
                    progress.stop()

    def note(self, text: str) -> None:
        """Beside the bar: how far a long step is."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, note=text)

    def advance(self, note: str = "") -> None:
        """One more step is done."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=1, note=note)
