"""The size of the model and the number of measurements: in full, or just enough to show that the benchmark runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of the text model."""

    hidden: int
    layers: int
    intermediate: int
    heads: int


@dataclass(frozen=True)
class Size:
    """Numbers of measurements.

    rounds, wide_rounds: pairs of batches of 8 and of 64 rows whose steps alternate. tokens, wide_tokens: per answer.
    runs: whole runs compared. requests: per run. arrivals, traces: of the simulated traffic.
    longest: tokens of the longest answer in mixed traffic. demonstrations: in the long prompt.
    singles: requests sent one at a time.
    """

    shape: Shape
    rounds: int
    wide_rounds: int
    tokens: int
    wide_tokens: int
    runs: int
    requests: int
    arrivals: int
    traces: int
    longest: int
    demonstrations: int
    singles: int


FULL = Size(
    shape=Shape(hidden=512, layers=12, intermediate=1408, heads=8),
    rounds=8,
    wide_rounds=4,
    tokens=36,
    wide_tokens=32,
    runs=3,
    requests=16,
    arrivals=96,
    traces=5,
    longest=64,
    demonstrations=16,
    singles=30,
)
QUICK = Size(
    shape=Shape(hidden=64, layers=2, intermediate=96, heads=4),
    rounds=2,
    wide_rounds=1,
    tokens=8,
    wide_tokens=8,
    runs=1,
    requests=4,
    arrivals=10,
    traces=1,
    longest=12,
    demonstrations=2,
    singles=2,
)
