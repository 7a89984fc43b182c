"""Exact match: which answers count as equal."""

from __future__ import annotations

import pytest

from vlibrary.evaluation.accuracy import is_correct


@pytest.mark.parametrize(("prediction", "answer"), [("Wug", "wug"), ("  a  red\nbox ", "A red box"), ("GRÜN", "grün")])
def test_case_and_white_space_are_ignored(prediction: str, answer: str) -> None:
    assert is_correct(prediction, answer)


@pytest.mark.parametrize(
    ("prediction", "answer"), [("wug dax", "wug"), ("", "wug"), ("redbox", "red box"), ("wug.", "wug")]
)
def test_all_other_differences_count(prediction: str, answer: str) -> None:
    assert not is_correct(prediction, answer)
