"""Progress of a long run on standard error: a bar on a terminal, otherwise a line from time to time."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 30.0


class ProgressLine:
    """Shows how many items are done, how fast, and the number of violations."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()
        columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        figures = TextColumn("{task.fields[figures]}")
        # Standard output is not redirected, because its last line is the result.
        self._bar = Progress(*columns, figures, console=console, redirect_stdout=False, redirect_stderr=False)
        self._task = self._bar.add_task("", total=total, figures="")

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, done: int, violations: int) -> None:
        """Add this many done items; violations: the total so far."""
        self._done += done
        now = time.monotonic()
        figures = f"{self._done / (now - self._started):.2f} a second, {violations} violations"
        self._bar.update(self._task, completed=self._done, figures=figures)
        if not self._console.is_terminal and now - self._told > EVERY_S:
            self._told = now
            self._console.print(f"{self._done} of {self._total}: {figures}", markup=False, highlight=False)
