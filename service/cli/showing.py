"""How results and progress are shown: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

T = TypeVar("T")

console = Console()
errors = Console(stderr=True)


def print_json(value: Any) -> None:
    """Plain, so that it can be piped."""
    print(json.dumps(value, indent=2))  # noqa: T201  standard output is the result


def progress() -> Progress:
    """One line that says what is going on."""
    return Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False), console=errors, transient=True)


def followed(steps: Iterator[T], line: Callable[[T], str]) -> T:
    """The last of the steps (there is one at least), each shown as it comes, and the last one too when broken off."""
    last = next(steps)
    try:
        with progress() as bar:
            task = bar.add_task(line(last))
            for last in steps:
                bar.update(task, description=line(last))
    except KeyboardInterrupt:
        errors.print(f"Broken off, which is safe: {line(last)}", markup=False, highlight=False)
        raise
    return last
