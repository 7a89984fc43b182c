"""Exact match: what counts as the same answer."""

from __future__ import annotations

import pytest

from vlibrary.evaluation.accuracy import is_right


@pytest.mark.parametrize(("said", "answer"), [("Wug", "wug"), ("  a  red\nbox ", "A red box"), ("GRÜN", "grün")])
def test_case_and_space_do_not_matter(said: str, answer: str) -> None:
    assert is_right(said, answer)


@pytest.mark.parametrize(("said", "answer"), [("wug dax", "wug"), ("", "wug"), ("redbox", "red box"), ("wug.", "wug")])
def test_everything_else_does(said: str, answer: str) -> None:
    assert not is_right(said, answer)
