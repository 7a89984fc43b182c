"""A plot of the demo's results: accuracy per task, next to the prompt tokens of a request."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

if TYPE_CHECKING:
    from vlibrary.cli.demo.report import DemoReport

SIZE = (8.0, 3.9)  # inches; 1600 pixels wide at DPI
DPI = 200
COLOURS = ("#9aa4b1", "#5b8fd6", "#e3743b")
INK, FAINT = "#1f2328", "#656d76"
BAR = 0.27  # width of a bar, where 1 is the distance between two groups


def plot_results(report: DemoReport, path: Path) -> None:
    """Write the plot as PNG or SVG, by the suffix of `path`.

    The plot has its own light background, so that it is readable on light and dark pages.
    """
    figure = Figure(figsize=SIZE, dpi=DPI)
    figure.patch.set_alpha(0.0)
    figure.add_artist(
        FancyBboxPatch(
            (0.012, 0.022),
            0.976,
            0.956,
            boxstyle="round,pad=0,rounding_size=0.02",
            mutation_aspect=SIZE[0] / SIZE[1],
            transform=figure.transFigure,
            facecolor="white",
            edgecolor="#d0d7de",
            linewidth=1.0,
            zorder=-1,
        )
    )
    _, icl, steered = report.mean_arms
    figure.text(
        0.045,
        0.90,
        f"A retrieved vector: {steered.accuracy:.0%} accuracy with {steered.prompt_tokens:.0f} prompt tokens. "
        f"{report.shots} demonstrations: {icl.accuracy:.0%} with {icl.prompt_tokens:.0f}.",
        fontsize=10.2,
        fontweight="bold",
        color=INK,
    )
    _legend(figure, report)
    accuracy = figure.add_axes((0.045, 0.12, 0.65, 0.60))
    tokens = figure.add_axes((0.745, 0.12, 0.22, 0.60))
    _plot_accuracy(accuracy, report)
    _plot_tokens(tokens, report)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)


def _legend(figure: Figure, report: DemoReport) -> None:
    for at, name, colour in zip((0.045, 0.155, 0.315), report.arm_names, COLOURS, strict=True):
        figure.text(at, 0.835, "■", fontsize=10, color=colour)
        figure.text(at + 0.02, 0.835, name, fontsize=9, color=INK)
    per_task = report.queries // len(report.tasks)
    figure.text(0.965, 0.835, f"{report.model}, {per_task} unseen images per task", fontsize=8, color=FAINT, ha="right")


def _plot_accuracy(axes: Axes, report: DemoReport) -> None:
    groups = [*(task.arms for task in report.tasks), report.mean_arms]
    for number, colour in enumerate(COLOURS):
        centres = [group + (number - 1) * BAR for group in range(len(groups))]
        bars = axes.bar(centres, [100 * arms[number].accuracy for arms in groups], BAR * 0.92, color=colour)
        axes.bar_label(bars, fmt="%.0f", padding=1.5, fontsize=7.5, color=INK)
    names = [*(task.name.replace("-unnamed", "\nunnamed") for task in report.tasks), "mean"]
    axes.axvline(len(groups) - 1.5, color="#d0d7de", linewidth=0.8)
    axes.set_xticks(range(len(groups)), names)
    axes.get_xticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(0, 108)
    axes.margins(x=0.02)
    _style(axes, "accuracy, %")


def _plot_tokens(axes: Axes, report: DemoReport) -> None:
    bars = axes.bar(range(3), [arm.prompt_tokens for arm in report.mean_arms], 0.62, color=COLOURS)
    axes.bar_label(bars, fmt="%.0f", padding=1.5, fontsize=7.5, color=INK)
    axes.set_xticks(range(3), [name.replace(" ", "\n") for name in report.arm_names])
    axes.set_ylim(0, 1.08 * max(arm.prompt_tokens for arm in report.mean_arms))
    _style(axes, "prompt tokens per request")


def _style(axes: Axes, title: str) -> None:
    """Bars carry their values, so the y axis is left out."""
    axes.set_title(title, loc="left", fontsize=9, color=FAINT, pad=6)
    axes.set_facecolor("none")
    axes.set_yticks([])
    axes.spines[["top", "left", "right"]].set_visible(False)
    axes.spines["bottom"].set_color("#d0d7de")
    axes.tick_params(axis="x", length=0, labelsize=8, labelcolor=INK)
