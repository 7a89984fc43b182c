"""`vlibrary demo`: the main job, end to end, with its figures."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(demo)


def demo(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object on the last line")
    ] = False,
    queries: Annotated[int, typer.Option(min=1, help="Unseen images per task")] = 60,
    seed: int = 0,
) -> None:
    """Train vectors on the bundled model, register them, and show what they change on unseen images."""
    from vlibrary.cli.demo.report import show
    from vlibrary.cli.demo.run import run_demo

    console = Console(stderr=as_json)
    report = run_demo(console, queries=queries, seed=seed)
    show(report, console)
    if as_json:
        print(json.dumps(report.as_json()))  # noqa: T201  plain, so that it can be piped
