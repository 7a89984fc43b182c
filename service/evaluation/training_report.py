"""The report of a training: loss curves, norms per layer and branch, and accuracy over strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vlibrary.domain.vector import SteeringVector
from vlibrary.evaluation.strength import find_window

NAMES = {"attention": "attention output", "mlp": "MLP output", "layer": "layer output"}


@dataclass(frozen=True)
class TrainingReport:
    """The record of one training.

    Args:
        name: Name of the vector.
        curve: One entry per step: "step", the training losses, and "validation" at the steps that measured it (nats).
        norms: Per site, the Euclidean norm of the shift in every layer, [L].
        stream: The norm of the model's residual stream after every layer, [L]; empty if it was not measured.
        accuracies: Accuracy on the validation examples by strength; empty without a sweep.
    """

    name: str
    curve: Sequence[Mapping[str, float]]
    norms: Mapping[str, Sequence[float]]
    accuracies: Mapping[float, float]
    stream: Sequence[float] = ()

    @property
    def window(self) -> tuple[float, float] | None:
        """The range of strengths that keeps the accuracy of strength 1; None without a sweep."""
        return find_window(self.accuracies) if self.accuracies else None

    @property
    def norm_shares(self) -> dict[str, list[float]]:
        """Per site, the norm of the shift over that of the residual stream after its layer, [L]."""
        return {
            site: [round(norm / size, 3) for norm, size in zip(values, self.stream, strict=True)]
            for site, values in self.norms.items()
            if self.stream
        }

    def as_json(self) -> dict[str, Any]:
        """Return the whole report as JSON values."""
        return {
            "name": self.name,
            "curve": [dict(point) for point in self.curve],
            "norms": {site: list(values) for site, values in self.norms.items()},
            "stream": list(self.stream),
            "strengths": [{"strength": at, "accuracy": accuracy} for at, accuracy in self.accuracies.items()],
            "strength_window": self.window,
        }


def measure_norms(vector: SteeringVector) -> dict[str, list[float]]:
    """Return, per site, the Euclidean norm of the vector's shift in every layer."""
    return {
        str(site): [round(float(norm), 6) for norm in np.linalg.norm(edit.shift, axis=1)]
        for site, edit in vector.edits.items()
    }


def plot_training(report: TrainingReport, path: Path) -> None:
    """Write the report's curves as an image file, by the suffix of `path`."""
    figure = Figure(figsize=(12.0, 3.6), layout="constrained")
    losses, norms, strengths = figure.subplots(1, 3)
    _plot_losses(losses, report.curve)
    for site, values in report.norms.items():
        norms.plot(range(len(values)), values, marker="o", markersize=3, label=NAMES.get(site, site))
    norms.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(norms, "norm of the shift", "layer", "")
    _plot_strengths(strengths, report)
    figure.suptitle(report.name)
    figure.savefig(path, dpi=150)


def _plot_losses(axes: Axes, curve: Sequence[Mapping[str, float]]) -> None:
    names = dict.fromkeys(name for point in curve for name in point if name != "step")
    for name in names:
        points = [(point["step"], point[name]) for point in curve if name in point]
        look = {"marker": "o", "color": "black"} if name == "validation" else {"linewidth": 0.9}
        axes.plot(*zip(*points, strict=True), label=name, markersize=3, **look)
    _label(axes, "loss", "step", "nats per answer token")


def _plot_strengths(axes: Axes, report: TrainingReport) -> None:
    if report.window is None:
        axes.set_axis_off()
        return
    axes.axvspan(*report.window, alpha=0.15, label=f"window {report.window[0]:g} to {report.window[1]:g}")
    axes.plot(list(report.accuracies), list(report.accuracies.values()), marker="o", markersize=3)
    axes.set_ylim(0.0, 1.02)
    _label(axes, "accuracy on validation examples", "strength", "")


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize="small")
