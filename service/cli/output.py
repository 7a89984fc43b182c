"""How results and progress are shown: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic_core import to_jsonable_python
from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table

T = TypeVar("T")
Tell = Callable[[str], None]

# Seconds between two lines of progress in a file: often enough to go on from, seldom enough to read.
EVERY_S = 10.0
# Columns of what goes into a file or a pipe: nothing that we print is longer, so nothing is cut or broken.
WIDE = 10_000


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = WIDE
    return made


console = _console()
errors = _console(stderr=True)


def print_json(value: Any) -> None:
    """Plain, so that it can be piped."""
    print(json.dumps(to_jsonable_python(value), indent=2))  # noqa: T201  standard output is the result


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[str]], *, none: str, on: Console = console) -> None:
    """A table in which nothing is cut: where the terminal is too narrow, it breaks the lines itself.

    none: what is said instead when there are no rows.
    """
    if not rows:
        on.print(none)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    table.width = on.measure(table, options=on.options.update(width=WIDE)).maximum
    on.print(table, crop=False)


def moment(at: datetime) -> str:
    """Return the time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"


@contextmanager
def progress() -> Iterator[Tell]:
    """What is to be told how far the work is: one line that changes, or lines now and then without a terminal."""
    if not errors.is_terminal:
        yield Lines(lambda line: errors.print(line, markup=False, highlight=False))
        return
    # Folded, since it may tell a key to go on from.
    text = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    with Progress(SpinnerColumn(), text, console=errors, transient=True) as bar:
        task = bar.add_task("")
        yield lambda line: bar.update(task, description=line)


class Lines:
    """Progress for a file: passes a line on when EVERY_S are over since the last one, or since the work began."""

    def __init__(self, write: Tell, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._due = clock() + EVERY_S

    def __call__(self, line: str) -> None:
        if self._clock() >= self._due:
            self._write(line)
            self._due = self._clock() + EVERY_S


def followed(steps: Iterator[T], line: Callable[[T], str]) -> T:
    """The last of the steps (there is one at least), each told as it comes, and the last one too when broken off."""
    last = next(steps)
    try:
        with progress() as tell:
            tell(line(last))
            for last in steps:
                tell(line(last))
    except KeyboardInterrupt:
        errors.print(f"Broken off, which is safe: {line(last)}", markup=False, highlight=False)
        raise
    return last
