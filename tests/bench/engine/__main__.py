"""`python -m tests.bench.engine`: measure the engine on a random model and on the bundled model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from transformers.utils import logging as transformers_logging

from tests.bench.engine.context import against_demonstrations
from tests.bench.engine.decoding import cost_of_distinct_vectors, cost_of_hooks, cost_of_steering
from tests.bench.engine.report import Measured, Report, table
from tests.bench.engine.serving import cost_of_serving
from tests.bench.engine.size import FULL, QUICK, Size
from tests.bench.engine.subject import Subject, build, load
from tests.bench.engine.traffic import steps_against_static, throughput_against_sequential
from tests.bench.engine.vectors import cost_of_fetching
from vlibrary.bundled import LVLM_FOLDER
from vlibrary.models.lvlm import flush_denormals

MEASURES: Mapping[str, Callable[[Subject], Mapping[str, Measured]]] = {
    "steered against unsteered": cost_of_steering,
    "64 vectors against one": cost_of_distinct_vectors,
    "hooks against none": cost_of_hooks,
    "in-flight against static batches": steps_against_static,
    "together against one at a time": throughput_against_sequential,
    "a vector against demonstrations": against_demonstrations,
    "fetching vectors": cost_of_fetching,
    "the worker against the bare model": cost_of_serving,
}


_WIDTH = 140  # of the table, where the terminal is narrower


def measure(subject: Subject, name: str, progress: Progress) -> Report:
    """Run all measures, with one progress line each."""
    figures: dict[str, Measured] = {}
    for title, one in MEASURES.items():
        line = progress.add_task(f"{name}: {title}", total=1)
        figures |= one(subject)
        progress.update(line, completed=1)
    return Report(figures)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    quick: Annotated[bool, typer.Option("--quick", help="A tiny model and few repeats: shows that it runs")] = False,
) -> None:
    """Print a table of figures and goals; the last line is one JSON object with the random model's figures."""
    torch.set_num_threads(1)
    flush_denormals()
    transformers_logging.disable_progress_bar()
    size = QUICK if quick else FULL
    reports = {name: _report(name, size, device, dtype) for name in ("random", "bundled")}
    Console(width=max(Console().width, _WIDTH)).print(table(reports, f"The engine, {device}, {dtype}"))
    print(json.dumps({"bundled": reports["bundled"].as_json()}))
    print(json.dumps(reports["random"].as_json()))


def _report(name: str, size: Size, device: str, dtype: str) -> Report:
    columns = SpinnerColumn(finished_text="[green]✓[/]"), TextColumn("{task.description}"), TimeElapsedColumn()
    with TemporaryDirectory() as scratch, Progress(*columns, console=Console(stderr=True)) as progress:
        folder = LVLM_FOLDER if name == "bundled" else build(size.shape, Path(scratch) / "model")
        subject = load(folder, size, Path(scratch), device=device, dtype=dtype)
        return measure(subject, name, progress)


if __name__ == "__main__":
    typer.run(main)
