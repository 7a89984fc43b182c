"""Exact match: which answers count as equal."""

from __future__ import annotations

import pytest

from vlibrary.evaluation.accuracy import is_correct, wilson_interval


@pytest.mark.parametrize(("prediction", "answer"), [("Wug", "wug"), ("  a  red\nbox ", "A red box"), ("GRÜN", "grün")])
def test_case_and_white_space_are_ignored(prediction: str, answer: str) -> None:
    assert is_correct(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"), [("wug dax", "wug"), ("", "wug"), ("redbox", "red box"), ("wug.", "wug")]
)
def test_all_other_differences_count(prediction: str, answer: str) -> None:
    assert not is_correct(prediction, answer)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [(1.0, 10, 0.7225, 1.0), (0.0, 10, 0.0, 0.2775), (0.5, 10, 0.2366, 0.7634), (0.9, 200, 0.8506, 0.9343)],
)
def test_the_interval_of_a_share_is_wilsons(share: float, count: int, low: float, high: float) -> None:
    assert wilson_interval(share, count) == pytest.approx((low, high), abs=1e-4)
