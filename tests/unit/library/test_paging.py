"""Going through everything, several things at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from vlibrary.library.paging import PARALLEL, map_in_parallel


def test_results_keep_the_order_of_the_items() -> None:
    later = threading.Event()

    def square(number: int) -> int:
        if number == 0:
            assert later.wait(10)
        if number == PARALLEL - 1:
            later.set()
        return number * number

    assert list(map_in_parallel(square, range(50))) == [(number, number * number) for number in range(50)]
    assert list(map_in_parallel(square, [])) == []


def test_several_items_are_processed_at_a_time() -> None:
    together = threading.Barrier(PARALLEL, timeout=10)
    assert len(list(map_in_parallel(lambda _: together.wait(), range(2 * PARALLEL)))) == 2 * PARALLEL


def test_an_error_ends_the_iteration_and_few_items_are_drawn_ahead() -> None:
    drawn: list[int] = []
    done: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            drawn.append(number)
            yield number

    def act(number: int) -> None:
        if number == 3:
            raise ValueError
        done.append(number)

    results = map_in_parallel(act, items())
    with pytest.raises(ValueError):
        list(results)
    assert {0, 1, 2} <= set(done)
    assert len(drawn) <= 3 + 2 * PARALLEL


def test_closing_early_cancels_calls_that_have_not_started() -> None:
    done: list[int] = []
    results = map_in_parallel(done.append, range(1_000))
    next(results)
    results.close()
    assert len(done) <= 2 * PARALLEL
