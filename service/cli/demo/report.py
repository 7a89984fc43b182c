"""The results of the demo: as values, as JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlibrary.formats.images import decode_image


@dataclass(frozen=True)
class Arm:
    """One arm of the comparison: zero-shot, n-shot prompt, or steered.

    Args:
        accuracy: Share of correct answers, in [0, 1].
        prompt_tokens: Mean prompt tokens per request.
        milliseconds: Median time per request.
    """

    accuracy: float
    prompt_tokens: float
    milliseconds: float


@dataclass(frozen=True)
class TaskResult:
    """The three arms of one task. hit_rate: share of steered requests to which the task's own vector was applied."""

    name: str
    zero_shot: Arm
    icl: Arm
    steered: Arm
    hit_rate: float

    @property
    def arms(self) -> tuple[Arm, Arm, Arm]:
        """Zero-shot, n-shot prompt, steered."""
        return self.zero_shot, self.icl, self.steered


@dataclass(frozen=True)
class Sample:
    """The answers to one query, before and after steering. image: PNG bytes; vector: what was applied."""

    image: bytes
    task: str
    question: str
    expected: str
    before: str
    after: str
    vector: str


@dataclass(frozen=True)
class DemoReport:
    """All results of one run. model: its title; queries: test queries over all tasks; seconds: duration of the run."""

    model: str
    tasks: Sequence[TaskResult]
    shots: int
    queries: int
    sample: Sample
    seconds: float

    @property
    def arm_names(self) -> tuple[str, str, str]:
        """Display names, in the order of `TaskResult.arms`."""
        return "zero-shot", f"{self.shots}-shot prompt", "VLibrary"

    @property
    def mean_arms(self) -> tuple[Arm, ...]:
        """Per arm the mean of each figure over the tasks, in the order of `TaskResult.arms`."""
        by_arm = zip(*(task.arms for task in self.tasks), strict=True)
        return tuple(Arm(*map(fmean, zip(*(asdict(arm).values() for arm in arms), strict=True))) for arms in by_arm)

    @property
    def retrieval_hit_rate(self) -> float:
        return fmean(task.hit_rate for task in self.tasks)

    @property
    def mean_gain_over_icl(self) -> float:
        return fmean(task.steered.accuracy - task.icl.accuracy for task in self.tasks)

    @property
    def token_ratio(self) -> float:
        """Prompt tokens of a steered request divided by those of an n-shot request."""
        _, icl, steered = self.mean_arms
        return steered.prompt_tokens / icl.prompt_tokens

    def as_json(self) -> dict[str, Any]:
        """Return the documented object of `vlibrary demo --json`; accuracies in [0, 1], times in milliseconds."""
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
    """Print the table, one sample, and a summary."""
    per_task = report.queries // len(report.tasks)
    table = Table(title=f"{per_task} unseen images per task: accuracy · prompt tokens · ms per request")
    table.add_column("task")
    for title in report.arm_names:
        table.add_column(title, justify="right")
    for task in report.tasks:
        table.add_row(task.name, *map(_cell, task.arms))
    table.add_section()
    table.add_row("mean", *map(_cell, report.mean_arms))
    console.print(table)
    _show_sample(report.sample, console)
    console.print(
        f"Retrieval applied the right vector to {report.retrieval_hit_rate:.1%} of {report.queries} requests. "
        f"Compared with the {report.shots}-shot prompt, VLibrary changes accuracy by "
        f"{100 * report.mean_gain_over_icl:+.1f} points and uses {report.token_ratio:.1%} of the prompt tokens. "
        f"Total time: {report.seconds:.0f} s."
    )


def _cell(arm: Arm) -> str:
    return f"{arm.accuracy:.1%} · {arm.prompt_tokens:.0f} · {arm.milliseconds:.0f}"


def _show_sample(sample: Sample, console: Console) -> None:
    def colour(answer: str) -> str:
        return "green" if answer == sample.expected else "red"

    words = Text.assemble(
        ("Sample from ", "dim"),
        (sample.task, "bold"),
        f"\n\n{sample.question}\n\n",
        ("without vector  ", "dim"),
        (f"{sample.before}\n", colour(sample.before)),
        ("with vector     ", "dim"),
        (f"{sample.after}\n", colour(sample.after)),
        ("expected        ", "dim"),
        f"{sample.expected}\n",
        ("vector          ", "dim"),
        f"{sample.vector}\n",
    )
    grid = Table.grid(padding=(0, 3))
    if console.is_terminal:
        grid.add_row(_half_blocks(sample.image), words)
    else:
        grid.add_row(words)
    console.print(grid)


def _half_blocks(png: bytes) -> Text:
    """Render the image as coloured half blocks, two pixels per character."""
    picture = decode_image(png)
    text = Text()
    for y in range(0, picture.height - 1, 2):
        for x in range(picture.width):
            (r, g, b), (r2, g2, b2) = (picture.getpixel((x, y + below)) for below in (0, 1))  # type: ignore[misc]
            text.append("▀", style=f"rgb({r},{g},{b}) on rgb({r2},{g2},{b2})")
        text.append("\n")
    return text
