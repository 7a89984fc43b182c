"""What a card's results say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from vlibrary.domain.card import has_lift


@pytest.mark.parametrize(
    ("results", "lift"),
    [
        ({"zero_shot": 0.1, "steered": 0.9}, True),
        ({"zero_shot": 0, "steered": 1}, True),
        ({"zero_shot": 0.9, "steered": 0.9}, False),
        ({"zero_shot": 0.9, "steered": 0.1}, False),
        ({}, None),
        ({"steered": 0.9}, None),
        ({"zero_shot": None, "steered": 0.9}, None),
        ({"zero_shot": "0.1", "steered": 0.9}, None),
        ({"zero_shot": True, "steered": False}, None),
        ({"zero_shot": float("nan"), "steered": 0.9}, None),
    ],
)
def test_lift_is_unknown_without_both_results(results: Mapping[str, Any], lift: bool | None) -> None:
    assert has_lift(results) is lift
