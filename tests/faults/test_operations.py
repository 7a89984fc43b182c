"""The model-based test, short."""

from __future__ import annotations

from tests.faults.operations import run


def test_random_operations_answer_as_the_oracle_does() -> None:
    assert run(600) > 300
