"""Results of the bundled models: as values, as JSON, as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

SHOTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True)
class TaskCurve:
    """One task's accuracy on unseen images, in [0, 1]: without demonstrations, and by number of demonstrations."""

    name: str
    held_out: bool
    attribute: str
    zero_shot: float
    shots: Mapping[int, float]


@dataclass(frozen=True)
class BundledReport:
    """Results over all tasks.

    Args:
        tasks: One accuracy curve per task.
        embedder_top1: Share of unseen queries, over all tasks, whose best task key belongs to their own task.
        lvlm_mb: Size of the LVLM's folder in 10^6 bytes.
        embedder_mb: Size of the embedder's folder in 10^6 bytes.
    """

    tasks: tuple[TaskCurve, ...]
    embedder_top1: float
    lvlm_mb: float
    embedder_mb: float

    @property
    def held_out(self) -> tuple[TaskCurve, ...]:
        """The tasks whose answer conventions the model never saw in pretraining."""
        return tuple(task for task in self.tasks if task.held_out)

    @property
    def zero_shot(self) -> float:
        """Mean over the held-out tasks."""
        return sum(task.zero_shot for task in self.held_out) / len(self.held_out)

    @property
    def shots(self) -> dict[int, float]:
        """Means over the held-out tasks, by number of demonstrations."""
        held_out = self.held_out
        return {shots: sum(task.shots[shots] for task in held_out) / len(held_out) for shots in held_out[0].shots}

    def as_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return {
            "zero_shot": self.zero_shot,
            "shots": _with_text_keys(self.shots),
            "tasks": [asdict(task) | {"shots": _with_text_keys(task.shots)} for task in self.tasks],
            "embedder_top1": self.embedder_top1,
            "lvlm_mb": self.lvlm_mb,
            "embedder_mb": self.embedder_mb,
        }

    def as_table(self) -> Table:
        """Return a table with one row per task, and the mean over the held-out tasks last."""
        table = Table(
            title="Accuracy on unseen images, by number of demonstrations",
            caption=f"queries that find their own task: {self.embedder_top1:.1%} · "
            f"model {self.lvlm_mb:.1f} MB, embedder {self.embedder_mb:.1f} MB",
        )
        table.add_column("task")
        table.add_column("held out")
        for shots in (0, *SHOTS):
            table.add_column(str(shots), justify="right")
        for task in self.tasks:
            table.add_row(task.name, "yes" if task.held_out else "", *_cells(task.zero_shot, task.shots))
        table.add_section()
        table.add_row("mean of held-out", "", *_cells(self.zero_shot, self.shots), style="bold")
        return table


def plot_curves(report: BundledReport, path: Path) -> None:
    """Write accuracy over the number of demonstrations, a line per task and the held-out mean, as an image file."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    for number, task in enumerate(report.tasks):
        style = "-" if task.held_out else ":"
        _line(axes, task.zero_shot, task.shots, style, color=f"C{number % 10}", label=task.name, linewidth=1.2)
    _line(axes, report.zero_shot, report.shots, "-", color="black", label="mean of held-out", linewidth=3.0)
    shots = [0, *report.shots]
    axes.set_xticks(range(len(shots)), [str(number) for number in shots])
    axes.set_xlabel("demonstrations in the prompt")
    axes.set_ylabel("accuracy on unseen images")
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small", title="dotted: known tasks")
    figure.savefig(path, dpi=150)


def _line(axes: Axes, zero_shot: float, shots: Mapping[int, float], style: str, **look: Any) -> None:
    """Shot counts are evenly spaced on the axis, because each is twice the previous one."""
    values = [zero_shot, *shots.values()]
    axes.plot(range(len(values)), values, style, marker="o", markersize=3, **look)


def _with_text_keys(shots: Mapping[int, float]) -> dict[str, float]:
    return {str(number): accuracy for number, accuracy in shots.items()}


def _cells(zero_shot: float, shots: Mapping[int, float]) -> list[str]:
    return [f"{accuracy:.2f}" for accuracy in (zero_shot, *shots.values())]
