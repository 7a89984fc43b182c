"""Going through everything, several things at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from vlibrary.library.paging import PARALLEL, map_in_parallel


def test_results_keep_the_order_of_the_items() -> None:
    def slow_at_first(number: int) -> int:
        time.sleep(0.02 if number < 3 else 0)
        return number * number

    assert list(map_in_parallel(slow_at_first, range(50))) == [(number, number * number) for number in range(50)]
    assert list(map_in_parallel(slow_at_first, [])) == []


def test_several_items_are_processed_at_a_time() -> None:
    together = threading.Barrier(PARALLEL, timeout=10)
    assert len(list(map_in_parallel(lambda _: together.wait(), range(2 * PARALLEL)))) == 2 * PARALLEL


def test_an_error_ends_the_iteration_and_few_items_are_drawn_ahead() -> None:
    drawn: list[int] = []
    done: list[int] = []

    def things() -> Iterator[int]:
        for number in range(1_000):
            drawn.append(number)
            yield number

    def act(number: int) -> None:
        if number == 3:
            raise ValueError
        done.append(number)

    walk = map_in_parallel(act, things())
    with pytest.raises(ValueError):
        list(walk)
    assert {0, 1, 2} <= set(done)
    assert len(drawn) <= 3 + 2 * PARALLEL


def test_closing_early_waits_only_for_running_calls() -> None:
    done: list[int] = []

    def act(number: int) -> None:
        time.sleep(0.01)
        done.append(number)

    walk = map_in_parallel(act, range(1_000))
    next(walk)
    walk.close()
    assert len(done) <= 3 * PARALLEL
