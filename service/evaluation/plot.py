"""Plots of evaluation reports."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vlibrary.evaluation.report import BundledReport

SIZE = (8.0, 5.0)


def plot_curves(report: BundledReport, path: Path) -> None:
    """Write accuracy over the number of demonstrations, a line per task and the held-out mean, as an image file."""
    figure = Figure(figsize=SIZE, layout="constrained")
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
