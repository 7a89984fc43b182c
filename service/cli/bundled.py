"""Commands for the bundled models: measure them, retrain them, write examples of their tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from vlibrary.bootstrap import read_settings
from vlibrary.domain.errors import InvalidInput


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(bundled)
    app.command()(examples)
    app.command()(models)


def bundled(
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as one JSON object on the last line")
    ] = False,
    per_task: Annotated[int, typer.Option(min=1, help="Unseen images per task and shot count")] = 100,
    plot: Annotated[Path | None, typer.Option(help="Also draw every task's curve into this PNG")] = None,
) -> None:
    """Measure both bundled models afresh, through their folders, on unseen images."""
    from vlibrary.evaluation.bundled_models import measure
    from vlibrary.evaluation.plot import plot_curves
    from vlibrary.training.progress import Bar, progress_bars
    from vlibrary.worker.bootstrap import open_embedder, open_lvlm

    console = Console(stderr=as_json)
    settings = read_settings(lvlm="bundled", embedder="bundled")
    with progress_bars(console) as progress:
        bar = Bar(progress, "measure the bundled models")
        report = measure(open_lvlm(settings), open_embedder(settings), per_task, report=bar)
        bar.finish()
    console.print(report.as_table())
    if plot is not None:
        plot_curves(report, plot)
    if as_json:
        print(json.dumps(report.as_json()))  # noqa: T201  plain, so that it can be piped


def examples(
    task: Annotated[str, typer.Argument(help="Name of a bundled task, such as colour-code")],
    folder: Annotated[Path, typer.Argument(help="Folder to write examples.jsonl and images/ to")],
    split: Annotated[Literal["train", "test"], typer.Option(help="Split to draw from; they share no image")] = "train",
    count: Annotated[int, typer.Option(min=1, max=100_000, help="Number of examples")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random images and questions")] = 0,
) -> None:
    """Write labelled examples of a bundled task, as `vlibrary train` reads them."""
    from vlibrary.bundled import tasks
    from vlibrary.training.examples import write_examples

    names = [known.name for known in tasks.TASKS]
    if task not in names:
        raise InvalidInput(f"Unknown task {task!r:.80}.", f"Use one of: {', '.join(names)}.")
    path = write_examples(tasks.examples(tasks.task(task), split, count, seed), folder)
    Console().print(f"Wrote {count} examples to {path}.", soft_wrap=True)


def models(
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the package's own weights if left out")] = None,
    seed: int = 0,
) -> None:
    """Train both bundled models from a seed: up to 2 hours on 2 cores; writes weights and curves (PNG, JSON)."""
    from vlibrary.bundled import LVLM_FOLDER
    from vlibrary.bundled.making.build import build

    build(out or LVLM_FOLDER.parent, seed)
