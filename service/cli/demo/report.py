"""What the demo found, as a value, as a table for people, and as JSON for machines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Arm:
    """One way of asking: accuracy in [0, 1], prompt tokens and milliseconds a request (mean and median)."""

    accuracy: float
    prompt_tokens: float
    milliseconds: float


@dataclass(frozen=True)
class TaskResult:
    """One task asked in three ways. hits: share of steered requests for which the query found the task's vector."""

    name: str
    zero_shot: Arm
    icl: Arm
    steered: Arm
    hits: float


@dataclass(frozen=True)
class Sighting:
    """One picture's answers. image: PNG bytes."""

    image: bytes
    task: str
    question: str
    right: str
    before: str
    after: str
    vector: str


@dataclass(frozen=True)
class DemoReport:
    """Everything that the demo measured."""

    tasks: Sequence[TaskResult]
    shots: int
    queries: int
    sighting: Sighting
    seconds: float

    @property
    def retrieval_hit_rate(self) -> float:
        return fmean(task.hits for task in self.tasks)

    @property
    def mean_gain_over_icl(self) -> float:
        return fmean(task.steered.accuracy - task.icl.accuracy for task in self.tasks)

    def as_json(self) -> dict[str, Any]:
        """The documented object of `vlibrary demo --json`; accuracies in [0, 1], times in milliseconds."""
        return {
            "tasks": [
                {
                    "name": task.name,
                    "zero_shot": task.zero_shot.accuracy,
                    "icl": task.icl.accuracy,
                    "steered": task.steered.accuracy,
                    "icl_tokens": task.icl.prompt_tokens,
                    "steered_tokens": task.steered.prompt_tokens,
                    "icl_ms": task.icl.milliseconds,
                    "steered_ms": task.steered.milliseconds,
                }
                for task in self.tasks
            ],
            "retrieval_hit_rate": self.retrieval_hit_rate,
            "mean_gain_over_icl": self.mean_gain_over_icl,
        }


def show(report: DemoReport, console: Console) -> None:
    """Table, one picture before and after, and the summary."""
    console.print(_table(report))
    _show_sighting(report.sighting, console)
    gain = 100 * report.mean_gain_over_icl
    ratio = fmean(t.steered.prompt_tokens for t in report.tasks) / fmean(t.icl.prompt_tokens for t in report.tasks)
    console.print(
        f"The query itself found the right vector in {report.retrieval_hit_rate:.1%} of {report.queries} requests. "
        f"Against the {report.shots}-shot prompt: {gain:+.1f} points, {ratio:.1%} of its prompt tokens. "
        f"Whole run: {report.seconds:.0f} s."
    )


def _table(report: DemoReport) -> Table:
    table = Table(title=f"Unseen images, {report.queries // len(report.tasks)} a task: accuracy · prompt tokens · ms")
    table.add_column("task")
    for title in ("zero-shot", f"{report.shots}-shot prompt", "VLibrary"):
        table.add_column(title, justify="right")
    rows = [(task.name, [task.zero_shot, task.icl, task.steered]) for task in report.tasks]
    for name, arms in rows:
        table.add_row(name, *map(_cell, arms))
    table.add_section()
    table.add_row("mean", *(_cell(_mean([arms[column] for _, arms in rows])) for column in range(3)))
    return table


def _cell(arm: Arm) -> str:
    return f"{arm.accuracy:.1%} · {arm.prompt_tokens:.0f} · {arm.milliseconds:.0f}"


def _mean(arms: Sequence[Arm]) -> Arm:
    columns = zip(*(asdict(arm).values() for arm in arms), strict=True)
    return Arm(*map(fmean, columns))


def _show_sighting(sighting: Sighting, console: Console) -> None:
    grid = Table.grid(padding=(0, 3))
    words = Text.assemble(
        ("One picture, ", "dim"),
        (sighting.task, "bold"),
        f"\n\n{sighting.question}\n\n",
        ("before    ", "dim"),
        (f"{sighting.before}\n", "red" if sighting.before != sighting.right else "green"),
        ("after     ", "dim"),
        (f"{sighting.after}\n", "green" if sighting.after == sighting.right else "red"),
        ("right     ", "dim"),
        f"{sighting.right}\n",
        ("vector    ", "dim"),
        sighting.vector,
    )
    if console.is_terminal:
        grid.add_row(_picture(sighting.image), words)
    else:
        grid.add_row(words)
    console.print(grid)


def _picture(png: bytes) -> Text:
    """The picture in coloured half blocks: two pixels a character."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    text = Text()
    for y in range(0, picture.height - 1, 2):
        for x in range(picture.width):
            upper, lower = (picture.getpixel((x, y + below)) for below in (0, 1))
            text.append("▀", style=f"rgb{upper} on rgb{lower}".replace(" ", "").replace("onrgb", " on rgb"))
        text.append("\n")
    return text
