"""Output of commands: results on standard output, progress and messages on standard error.

Text of users and models is shown as it is: nothing in it is markup, an emoji's name or a command to the terminal.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from unicodedata import category

from pydantic_core import to_jsonable_python
from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Column, Table
from rich.text import Text

T = TypeVar("T")
Report = Callable[[str], None]

# Seconds between progress lines when standard error is not a terminal.
LINE_INTERVAL_S = 10.0
# Columns when output is not a terminal: wide enough that nothing is truncated or wrapped.
UNLIMITED_WIDTH = 10_000
# Control, format, private and unpaired characters, and separators of lines; but not the joiners of words and emoji.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"


def _console(*, stderr: bool = False) -> Console:
    made = Console(stderr=stderr)
    if not made.is_terminal:
        made.width = UNLIMITED_WIDTH
    return made


console = _console()
errors = _console(stderr=True)


def escape(text: str, keep: str = "") -> str:
    r"""Return the text with invisible characters as escapes such as \x1b and \u202e, except those in `keep`."""
    return "".join(
        character.encode("unicode_escape").decode()
        if category(character) in _ESCAPED and character not in keep + _JOINERS
        else character
        for character in text
    )


def shorten(text: str, limit: int = 60) -> str:
    """Return the beginning of a text that is longer than the limit, with an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def print_text(text: str, *, style: str = "", on: Console = console) -> None:
    """Print lines of text; a terminal wraps those that are too long."""
    on.print(Text(escape(text, keep="\n"), style=style), soft_wrap=True)


def print_answer(text: str, end: str = "\n") -> None:
    """Print what a model answered, or a piece of it: unchanged, but escaped on a terminal."""
    console.file.write((escape(text, keep="\n\t") if console.is_terminal else text) + end)
    console.file.flush()


def print_json(value: Any) -> None:
    """Print the value as indented JSON."""
    print(json.dumps(to_jsonable_python(value), indent=2))  # noqa: T201  standard output is the result


def print_json_line(value: Any) -> None:
    """Print a JSON value on one line, for programs that read the last line."""
    print(json.dumps(to_jsonable_python(value)))  # noqa: T201  standard output is the result


def print_result(value: Any, text: str, *, as_json: bool) -> None:
    """Print the value as JSON, or else the text that describes it."""
    if as_json:
        print_json(value)
    else:
        print_text(text)


def print_rows(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, none: str, on: Console = console
) -> None:
    """Print a table without truncating cells; a narrow terminal wraps the lines. none: printed if there are no rows."""
    if not rows:
        print_text(none, on=on)
        return
    table = Table(*columns, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(escape(cell)) if isinstance(cell, str) else cell for cell in row))
    table.width = on.measure(table, options=on.options.update(width=UNLIMITED_WIDTH)).maximum
    on.print(table, crop=False)


def format_time(at: datetime) -> str:
    """Return the time in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}Z"


@contextmanager
def progress() -> Iterator[Report]:
    """Yield a function that shows progress: a changing line on a terminal, otherwise a line every LINE_INTERVAL_S."""
    if not errors.is_terminal:
        yield ProgressLines(lambda line: print_text(line, on=errors))
        return
    # Folded, because the line may contain a key that the user needs to resume.
    text = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    with Progress(SpinnerColumn(), text, console=errors, transient=True) as bar:
        task = bar.add_task("")
        yield lambda line: bar.update(task, description=escape(line))


class ProgressLines:
    """Progress for log files: writes a line if LINE_INTERVAL_S have passed since the last one."""

    def __init__(self, write: Report, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._due = clock() + LINE_INTERVAL_S

    def __call__(self, line: str) -> None:
        if self._clock() >= self._due:
            self._write(line)
            self._due = self._clock() + LINE_INTERVAL_S


def run_steps(steps: Iterator[T], line: Callable[[T], str]) -> T:
    """Run the steps, showing each as a line of progress, and return the last; there must be at least one.

    On Ctrl+C, print the last line, which says how to resume.
    """
    last = next(steps)
    try:
        with progress() as report:
            report(line(last))
            for last in steps:
                report(line(last))
    except KeyboardInterrupt:
        print_text(f"Interrupted; no data is lost. {line(last)}", on=errors)
        raise
    return last
