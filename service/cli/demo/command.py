"""The `vlibrary demo` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from vlibrary.cli.output import print_json_line

PLOT_SUFFIXES = (".png", ".svg")


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as one JSON object on the last line")
    ] = False,
    model: Annotated[
        Literal["bundled", "smol-llava"], typer.Option(help="Model to show; smol-llava is assembled first (93 MB)")
    ] = "bundled",
    queries: Annotated[int, typer.Option(min=1, help="Unseen images per task")] = 60,
    seed: int = 0,
    plot: Annotated[Path | None, typer.Option(help="Also plot the results to this .png or .svg file")] = None,
) -> None:
    """Train vectors, register them, and measure what they change on unseen images.

    On smol-llava, all vectors but one were trained in advance.
    """
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        raise typer.BadParameter(f"{plot.name} must end with .png or .svg.", param_hint="--plot")
    # Imports torch, which takes seconds; `vlibrary --help` must not wait for it.
    from vlibrary.cli.demo.plot import plot_results
    from vlibrary.cli.demo.report import show
    from vlibrary.cli.demo.run import run_demo
    from vlibrary.cli.demo.subject import SUBJECTS

    console = Console(stderr=as_json)
    report = run_demo(console, SUBJECTS[model](), queries=queries, seed=seed)
    show(report, console)
    if plot is not None:
        plot_results(report, plot)
    if as_json:
        print_json_line(report.as_json())
