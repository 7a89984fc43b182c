"""Render the figures and their goals as a table and as JSON."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from tests.bench.spread import Spread

Measured = Spread | bool
_COMPARE = {"≥": operator.ge, "≤": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Goal:
    """A limit. sign: ≥, ≤ or <."""

    sign: str
    limit: float

    def met(self, value: float) -> bool:
        return bool(_COMPARE[self.sign](value, self.limit))

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


@dataclass(frozen=True)
class Row:
    """A line of the table. goal: None for a figure that explains the row above it."""

    key: str
    title: str
    goal: Goal | None = None


IDENTICAL = "unsteered_bit_identical"
ROWS = (
    Row("steered_ratio", "steered ÷ unsteered tokens/s, batch 8", Goal("≥", 0.98)),
    Row("steered_runs", "  whole runs, not only decode steps"),
    Row("distinct64_ratio", "64 vectors ÷ 1 vector tokens/s, batch 64", Goal("≥", 0.98)),
    Row("unsteered_ratio", "hooks ÷ no hooks tokens/s, unsteered", Goal("≥", 0.99)),
    Row("steps_ratio", "in-flight ÷ static decode steps", Goal("≤", 0.5)),
    Row("steps_uniform", "  long answers as frequent as short ones"),
    Row("steps_sparse", "  half as many arrivals"),
    Row("vs_sequential", "engine ÷ one generate() at a time, tokens/s", Goal("≥", 3)),
    Row("vs_icl_rps", "vector ÷ demonstrations, requests/s", Goal("≥", 8)),
    Row("vs_icl_ttft", "vector ÷ demonstrations, first token, alone", Goal("≤", 0.2)),
    Row("vs_icl_ttft_rush", "  all requests at once"),
    Row("cold_ms", "ms, 1 MB vector from the store to its slot", Goal("≤", 100)),
    Row("cold_worker_ms", "  on the first token, this model's size"),
    Row("warm_ms", "ms, the same when it is in its slot", Goal("<", 1)),
    Row("warm_worker_ms", "  on the first token, this model's size"),
    Row("overhead", "worker ÷ bare generate() - 1, one request", Goal("≤", 0.05)),
)


@dataclass(frozen=True)
class Report:
    """The figures measured on one model, by row key and IDENTICAL."""

    figures: Mapping[str, Measured]

    def as_json(self) -> dict[str, float | bool]:
        """Return the medians of all figures that have a goal, and whether unsteered logits were identical."""
        medians: dict[str, float | bool] = {row.key: round(self.spread(row.key).median, 5) for row in ROWS if row.goal}
        return medians | {IDENTICAL: self.identical}

    def spread(self, key: str) -> Spread:
        found = self.figures[key]
        assert isinstance(found, Spread)
        return found

    @property
    def identical(self) -> bool:
        found = self.figures[IDENTICAL]
        assert isinstance(found, bool)
        return found


def table(reports: Mapping[str, Report], title: str) -> Table:
    """Return the table: measure, goal, and per model the median, the quartiles and whether the goal is met."""
    made = Table(title=title, caption="median (quartiles); rows without a goal explain the row above them")
    made.add_column("measure", no_wrap=True)
    made.add_column("goal", no_wrap=True)
    for name in reports:
        made.add_column(f"measured: {name}", no_wrap=True)
        made.add_column("met", no_wrap=True)
    for row in ROWS:
        cells = [cell for report in reports.values() for cell in _cells(row.goal, report.spread(row.key))]
        made.add_row(row.title, str(row.goal or ""), *cells, style=None if row.goal else "dim")
    identical = [cell for report in reports.values() for cell in _truth(report.identical)]
    made.add_row("unsteered logits with and without hooks", "equal", *identical)
    return made


def _cells(goal: Goal | None, spread: Spread) -> tuple[str, Text | str]:
    figure = f"{_short(spread.median)} ({_short(spread.low)} to {_short(spread.high)})"
    return figure, "" if goal is None else _mark(goal.met(spread.median))


def _short(figure: float) -> str:
    return f"{figure:.3f}" if abs(figure) < 10 else f"{figure:.1f}"


def _truth(equal: bool) -> tuple[str, Text]:
    return "equal" if equal else "differ", _mark(equal)


def _mark(met: bool) -> Text:
    return Text("yes", style="green") if met else Text("missed", style="bold red")
