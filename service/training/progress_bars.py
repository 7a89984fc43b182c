"""Progress reports of long work, shown as rich bars."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from transformers.utils.logging import disable_progress_bar

from vlibrary.training import progress as training


def bars(console: Console) -> Progress:
    """An empty set of bars, for a `with`; transformers' own bars are switched off, as they would write over these."""
    disable_progress_bar()
    return Progress(
        SpinnerColumn(finished_text="[green]✓[/]"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[figures]}[/]"),
        console=console,
    )


class Bar:
    """One line for one job: a training report is shown as its stage, its progress and its figures."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._title = title
        self._line: TaskID = progress.add_task(title, total=None, figures="")

    def __call__(self, report: training.Progress) -> None:
        figures = " ".join(f"{name} {value:.3f}" for name, value in report.figures.items())
        self._progress.update(
            self._line,
            description=f"{self._title}: {report.stage}",
            total=report.total,
            completed=report.done,
            figures=figures,
        )

    def finish(self, figures: str = "") -> None:
        """Mark the job as done."""
        self._progress.update(self._line, description=self._title, total=1, completed=1, figures=figures)
