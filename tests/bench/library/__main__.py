"""`python -m tests.bench.library`: measure retrieval, restart and registration, each against its bare foundation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.bench.library.lag import lag
from tests.bench.library.register import registrations
from tests.bench.library.restart import restart, save_index
from tests.bench.library.rivals import RIVALS
from tests.bench.library.search import Figures, against, latency, recall
from tests.bench.library.subject import build
from tests.faults.processes.servers import NoServers, running_servers
from vlibrary.adapters.index.build import IndexLimits

GOALS = {
    "p50_ms": "≤ 2",
    "p99_ms": "≤ 10",
    "over_faiss_ms": "≤ 1.5",
    "recall": "≥ 0.99",
    "recall_filtered": "≥ 0.99",
    "vs_pgvector": "> 1, both",
    "vs_chroma": "> 1, both",
    "vs_lancedb": "> 1, both",
    "restart_ratio": "≤ 1.5",
    "memory_ratio": "≤ 1.3",
    "register_ratio": "≥ 0.5",
    "lag_p99_s": "< 1",
    "lag_misses": "0",
}


def main(
    keys: Annotated[int, typer.Option(help="Keys for searching")] = 100_000,
    restart_keys: Annotated[int, typer.Option(help="Keys for restarting; 0 leaves it out")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="A third each of image and text, image, text")] = 600,
    quick: Annotated[bool, typer.Option("--quick", help="Few keys: shows that it runs")] = False,
) -> None:
    """Print a table of figures and goals; the last line is one JSON object with the figures that have goals."""
    limits, seconds = IndexLimits(), 20.0
    if quick:
        keys, restart_keys, queries, limits, seconds = 4_000, 20_000, 120, IndexLimits(exact=1_000, merged=500), 3.0
    figures = measure(keys, restart_keys, queries, limits, seconds=seconds)
    title = f"The library, {keys:,} keys × 512, restart with {restart_keys:,}"
    table = Table("figure", "goal", "measured", title=title)
    for key, value in figures.items():
        table.add_row(key, GOALS.get(key, ""), _format(value))
    Console(width=120).print(table)
    print(json.dumps({key: _round(figures[key]) for key in GOALS if key in figures}))


def measure(keys: int, restart_keys: int, queries: int, limits: IndexLimits, *, seconds: float) -> Figures:
    """Measure all figures, one after the other. seconds: duration of the registrations whose lag is measured."""
    with TemporaryDirectory() as folder, Progress(console=Console(stderr=True), transient=True) as progress:
        scratch = Path(folder)
        return {
            **_measure_search(keys, queries, limits, scratch, progress),
            **_measure_restart(restart_keys, limits, scratch, progress),
            **_measure_registration(scratch, seconds, progress),
        }


def _measure_search(keys: int, queries: int, limits: IndexLimits, scratch: Path, progress: Progress) -> Figures:
    with _step(progress, f"registering vectors with {keys:,} keys", keys) as registered:
        subject = build(keys, queries, limits, scratch, registered)
    with _step(progress, "searching"):
        figures = {**latency(subject), **recall(subject)}
    for name in RIVALS:
        with _step(progress, f"comparing with {name}"):
            figures |= against(subject, name, scratch)
    return figures


def _measure_restart(keys: int, limits: IndexLimits, scratch: Path, progress: Progress) -> Figures:
    if not keys:
        return {}
    with _step(progress, f"saving a snapshot of {keys:,} keys"):
        save_index(keys, limits, scratch / "snapshots")
    with _step(progress, "restarting"):
        return restart(scratch / "snapshots")


def _measure_registration(scratch: Path, seconds: float, progress: Progress) -> Figures:
    replicas = scratch / "replicas"
    replicas.mkdir()
    try:
        with running_servers() as servers:
            with _step(progress, "registering on PostgreSQL and S3"):
                figures = registrations(servers, scratch)
            with _step(progress, "registering here, searching there"):
                return figures | lag(servers, replicas, seconds)
    except NoServers as reason:
        return dict.fromkeys(("register_ratio", "lag_p99_s", "lag_misses"), f"skipped: {reason}")


@contextmanager
def _step(progress: Progress, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show a progress line during the block; yield a function that advances it by the given amount."""
    step = progress.add_task(what, total=total)
    yield partial(progress.advance, step)
    progress.remove_task(step)


def _format(value: float | list[float] | str) -> str:
    return ", ".join(f"{one:.3f}" for one in value) if isinstance(value, list) else str(_round(value))


def _round(value: float | list[float] | str) -> float | list[float] | str:
    if isinstance(value, list):
        return [round(one, 4) for one in value]
    return value if isinstance(value, str) else round(value, 4)


if __name__ == "__main__":
    typer.run(main)
