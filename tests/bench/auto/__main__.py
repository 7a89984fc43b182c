"""`make bench-auto`: steering off, explicit and auto under load, measured in turn on one running service."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.bench.auto.queries import STEERINGS, bodies, distinct, register_vectors, repeated
from tests.bench.auto.traffic import Burst, send
from tests.bench.spread import Spread
from tests.support.worker_process import Running
from vlibrary.client import Client
from vlibrary.domain.example import Example

CLIENTS = (1, 8, 32)
GOAL = 0.85
Bursts = Mapping[str, list[Burst]]  # by steering
Place = tuple[str, int]  # kind of traffic, number of clients


def main(
    rounds: Annotated[int, typer.Option(help="How often each steering is measured; medians are reported")] = 7,
    requests: Annotated[int, typer.Option(help="Requests of each client in one round")] = 12,
    quick: Annotated[bool, typer.Option("--quick", help="One round of few requests: shows that it runs")] = False,
) -> None:
    """Print a table; the last line is one JSON object with the medians and the ratios of auto to explicit.

    distinct: no two requests have a text or a picture in common. repeated: 8 requests, again and again.
    """
    if quick:
        rounds, requests = 1, 2
    with TemporaryDirectory() as folder:
        service = Running("serve", Path(folder), {})
        try:
            service.start()
            service.wait_ready()
            with Client(service.url) as client:
                register_vectors(client)
            measured = _measure(service.url, psutil.Process(service.pid), rounds, requests)
        finally:
            service.kill()
    report = {f"{traffic}_{clients}": _summarize(bursts) for (traffic, clients), bursts in measured.items()}
    Console(width=120).print(_table(report))
    print(json.dumps({"goal": GOAL, **report}))


def _measure(url: str, service: psutil.Process, rounds: int, requests: int) -> Mapping[Place, Bursts]:
    """Measure the steerings one directly after the other, each first in every third round."""
    measured: dict[Place, dict[str, list[Burst]]] = defaultdict(lambda: {name: [] for name in STEERINGS})
    new = distinct()
    sources: dict[str, Iterator[Example]] = {"distinct": new, "repeated": repeated(new)}
    places = [(traffic, clients) for traffic in sources for clients in CLIENTS]
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("measuring", total=(rounds + 1) * len(places))
        for turn in range(rounds + 1):
            for traffic, clients in places:
                for steering in _rotate(list(STEERINGS), turn):
                    load = bodies(sources[traffic], clients * requests, steering)
                    burst = send(url, service, load, clients, steered=steering != "off")
                    if turn:  # the first round warms up
                        measured[traffic, clients][steering].append(burst)
                progress.advance(task)
    return measured


def _rotate(names: Sequence[str], turn: int) -> Sequence[str]:
    return [*names[turn % len(names) :], *names[: turn % len(names)]]


def _summarize(bursts: Bursts) -> dict[str, float]:
    """Return medians, and the ratio of auto to explicit, round by round."""
    rates = {name: round(Spread.of([one.rate for one in found]).median, 1) for name, found in bursts.items()}
    times = {
        f"{name}_cpu_ms": round(1000 * Spread.of([one.cpu_s for one in found]).median, 2)
        for name, found in bursts.items()
    }
    ratio = Spread.of(
        [auto.rate / explicit.rate for auto, explicit in zip(bursts["auto"], bursts["explicit"], strict=True)]
    )
    return {
        **rates,
        **times,
        "ratio": round(ratio.median, 3),
        "ratio_low": round(ratio.low, 3),
        "ratio_high": round(ratio.high, 3),
    }


def _table(report: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(
        "traffic, clients",
        *STEERINGS,
        "auto ÷ explicit (quartiles)",
        title="Requests per second (CPU ms of the service per request)",
    )
    for place, row in report.items():
        cells = [f"{row[name]:.1f} ({row[f'{name}_cpu_ms']:.1f})" for name in STEERINGS]
        table.add_row(place, *cells, f"{row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})")
    return table


if __name__ == "__main__":
    typer.run(main)
