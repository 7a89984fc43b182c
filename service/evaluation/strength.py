"""Accuracy of a vector over its strength, and the range of strengths at which it works.

The sweep shows what a single number cannot: whether the vector tolerates other strengths, and what half of it or its
opposite does. Vectors of some tasks work in a narrow range only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import steered_accuracy
from vlibrary.training.progress import Progress, Report, ignore

STRENGTHS = (-1.0, -0.5, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0)
TOLERANCE = 0.05


def sweep_strength(
    engine: StaticGenerator,
    queries: Sequence[Example],
    vector: SteeringVector,
    strengths: Sequence[float] = STRENGTHS,
    report: Report = ignore,
) -> dict[float, float]:
    """Return the accuracy on the queries, in [0, 1], by strength. Strength 0 measures the model without a vector.

    Raises InvalidExamples without queries.
    """
    accuracies = {}
    for number, strength in enumerate(strengths, start=1):
        accuracies[strength] = steered_accuracy(engine, queries, vector * strength)
        report(Progress("strengths", number, len(strengths)))
    return accuracies


def find_window(accuracies: Mapping[float, float]) -> tuple[float, float]:
    """Return the lowest and the highest strength of the unbroken range around 1 that keeps the accuracy.

    Each strength of the range loses at most TOLERANCE against strength 1, which must be among the measured ones.
    """
    strengths = sorted(accuracies)
    low = high = strengths.index(1.0)
    least = accuracies[1.0] - TOLERANCE - 1e-9
    while low > 0 and accuracies[strengths[low - 1]] >= least:
        low -= 1
    while high < len(strengths) - 1 and accuracies[strengths[high + 1]] >= least:
        high += 1
    return strengths[low], strengths[high]
