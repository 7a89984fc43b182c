"""How far a long run is: a bar on a terminal, a line now and then elsewhere; both on standard error."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY_S = 30.0


class Line:
    """Of so many things, what is done, how fast, and how many violations there were."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()
        columns = (MofNCompleteColumn(), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        figures = TextColumn("{task.fields[figures]}")
        # Standard output stays as it is, for whoever reads the last line.
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
        """So many more are done; so many violations there were altogether."""
        self._done += done
        now = time.monotonic()
        figures = f"{self._done / (now - self._started):.2f} a second, {violations} violations"
        self._bar.update(self._task, completed=self._done, figures=figures)
        if not self._console.is_terminal and now - self._told > EVERY_S:
            self._told = now
            self._console.print(f"{self._done} of {self._total}: {figures}", markup=False, highlight=False)
