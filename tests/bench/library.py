"""`python -m tests.bench.library`: measures retrieval beside FAISS alone and other stores, and restarts."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.adapters.index_kinds import Kinds
from tests.bench.library_restart import keep, restart
from tests.bench.library_rivals import RIVALS
from tests.bench.library_search import Figures, against, latency, recall
from tests.bench.library_subject import build

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
}


def main(
    keys: Annotated[int, typer.Option(help="Keys for searching")] = 100_000,
    restart_keys: Annotated[int, typer.Option(help="Keys for restarting; 0 leaves it out")] = 1_000_000,
    queries: Annotated[int, typer.Option(help="A third each of image and text, image, text")] = 600,
    quick: Annotated[bool, typer.Option("--quick", help="Few keys: shows that it runs")] = False,
) -> None:
    """Print a table of figures and goals; the last line is one JSON object with the figures that have goals."""
    kinds = Kinds()
    if quick:
        keys, restart_keys, queries, kinds = 4_000, 20_000, 120, Kinds(exact=1_000, merged=500)
    figures = measured(keys, restart_keys, queries, kinds)
    title = f"The library, {keys:,} keys × 512, restart with {restart_keys:,}"
    table = Table("figure", "goal", "measured", title=title)
    for key, value in figures.items():
        table.add_row(key, GOALS.get(key, ""), _said(value))
    Console(width=120).print(table)
    print(json.dumps({key: _rounded(figures[key]) for key in GOALS if key in figures}))


def measured(keys: int, restart_keys: int, queries: int, kinds: Kinds) -> Figures:
    """All figures, one after the other; what is measured elsewhere may be added to them."""
    console = Console(stderr=True)
    figures: dict[str, float | list[float] | str] = {}
    with TemporaryDirectory() as folder, console.status("registering") as status:
        scratch = Path(folder)
        subject = build(keys, queries, kinds, scratch)
        status.update("searching")
        figures |= latency(subject)
        figures |= recall(subject)
        for name in RIVALS:
            status.update(f"searching beside {name}")
            figures |= against(subject, name, scratch)
        del subject
        if restart_keys:
            status.update("keeping a snapshot")
            keep(restart_keys, kinds, scratch / "snapshots")
            status.update("restarting")
            figures |= restart(scratch / "snapshots")
    return figures


def _said(value: float | list[float] | str) -> str:
    return ", ".join(f"{one:.3f}" for one in value) if isinstance(value, list) else str(_rounded(value))


def _rounded(value: float | list[float] | str) -> float | list[float] | str:
    if isinstance(value, list):
        return [round(one, 4) for one in value]
    return value if isinstance(value, str) else round(value, 4)


if __name__ == "__main__":
    typer.run(main)
