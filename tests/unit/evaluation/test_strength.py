"""The strength window: the unbroken range around strength 1 that keeps the accuracy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.evaluation.strength import TOLERANCE, find_window


@pytest.mark.parametrize(
    ("accuracies", "window"),
    [
        ({0.0: 0.1, 0.9: 0.9, 1.0: 0.9, 1.1: 0.88, 1.5: 0.3}, (0.9, 1.1)),
        ({0.5: 0.95, 0.9: 0.5, 1.0: 0.9, 1.1: 0.5, 2.0: 0.95}, (1.0, 1.0)),  # a range has no gaps
        ({1.0: 0.2}, (1.0, 1.0)),
        ({-1.0: 0.0, 1.0: 0.9, 2.0: 0.85}, (1.0, 2.0)),
    ],
)
def test_the_window_is_the_range_around_one(accuracies: dict[float, float], window: tuple[float, float]) -> None:
    assert find_window(accuracies) == window


@given(st.dictionaries(st.floats(-1, 2), st.floats(0, 1)), st.floats(0, 1))
def test_every_strength_in_the_window_keeps_the_accuracy(others: dict[float, float], accuracy: float) -> None:
    accuracies = others | {1.0: accuracy}
    low, high = find_window(accuracies)
    assert low <= 1.0 <= high
    inside = [value for at, value in accuracies.items() if low <= at <= high]
    assert min(inside) >= accuracy - TOLERANCE - 1e-6
    below, above = [at for at in accuracies if at < low], [at for at in accuracies if at > high]
    for beyond in ([max(below)] if below else []) + ([min(above)] if above else []):
        assert accuracies[beyond] < accuracy - TOLERANCE + 1e-6
