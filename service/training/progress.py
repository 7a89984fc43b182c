"""Progress reports of long-running work, and terminal bars that show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rich import progress as rich
from rich.console import Console
from transformers.utils.logging import disable_progress_bar


@dataclass(frozen=True)
class Progress:
    """One progress report.

    Args:
        stage: Name of the current stage.
        done: Units of the stage completed so far.
        total: Units in the stage.
        figures: Measurements so far, such as losses.
    """

    stage: str
    done: int
    total: int
    figures: Mapping[str, float] = field(default_factory=dict)


Report = Callable[[Progress], None]


def ignore(_: Progress) -> None:
    """Discard the report."""


def progress_bars(console: Console) -> rich.Progress:
    """Return an empty set of bars, to be used in a `with` block.

    Switches off transformers' own bars, which would overwrite these.
    """
    disable_progress_bar()
    return rich.Progress(
        rich.SpinnerColumn(finished_text="[green]✓[/]"),
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=24),
        rich.TimeElapsedColumn(),
        rich.TextColumn("{task.fields[figures]}", style="dim", markup=False),
        console=console,
    )


class Bar:
    """The bar of one job. Call it with a report to show the report's stage, progress and figures."""

    def __init__(self, bars: rich.Progress, title: str) -> None:
        self._bars = bars
        self._title = title
        self._line = bars.add_task(title, total=None, figures="")

    def __call__(self, report: Progress) -> None:
        self._bars.update(
            self._line,
            description=f"{self._title}: {report.stage}",
            total=report.total,
            completed=report.done,
            figures=" ".join(f"{name} {value:.3f}" for name, value in report.figures.items()),
        )

    def finish(self, figures: str = "") -> None:
        """Mark the job as done and replace its figures."""
        self._bars.update(self._line, description=self._title, total=1, completed=1, figures=figures)
