"""Batches of concurrent calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlibrary.models.call_batches import CallBatches

TIMEOUT_S = 20


class Squares:
    """Squares numbers, refuses negative ones, and blocks while `open` is cleared."""

    def __init__(self, max_items: int = 4) -> None:
        self.calls = CallBatches(self.run, max_items)
        self.seen: list[list[int]] = []
        self.threads: list[int] = []
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Event()

    def run(self, numbers: Sequence[int]) -> list[int]:
        self.seen.append(list(numbers))
        self.threads.append(threading.get_ident())
        self.started.set()
        assert self.open.wait(TIMEOUT_S)
        if min(numbers) < 0:
            raise ValueError(f"negative: {min(numbers)}")
        return [number * number for number in numbers]

    def call_during_a_batch(self, pool: ThreadPoolExecutor, numbers: Sequence[int]) -> list[Future[int]]:
        """Call with 0, and with the numbers while that batch runs."""
        self.open.clear()
        futures = [pool.submit(self.calls.call, 0)]
        assert self.started.wait(TIMEOUT_S)
        for number in numbers:
            futures.append(pool.submit(self.calls.call, number))
            while self.calls.waiting < len(futures) - 1:
                os.sched_yield()
        self.open.set()
        return futures[1:]


def test_a_lone_call_runs_immediately_in_its_own_thread() -> None:
    squares = Squares()
    assert [squares.calls.call(number) for number in (2, 3)] == [4, 9]
    assert squares.seen == [[2], [3]]
    assert set(squares.threads) == {threading.get_ident()}


def test_calls_during_a_batch_form_the_next_batches_in_their_order() -> None:
    squares = Squares(max_items=4)
    with ThreadPoolExecutor(8) as pool:
        futures = squares.call_during_a_batch(pool, range(1, 7))
        assert [future.result(TIMEOUT_S) for future in futures] == [1, 4, 9, 16, 25, 36]
    assert squares.seen == [[0], [1, 2, 3, 4], [5, 6]]
    assert (squares.calls.batches, squares.calls.items) == (3, 7)


def test_a_faulty_item_fails_alone() -> None:
    squares = Squares()
    with ThreadPoolExecutor(8) as pool:
        good, bad, other = squares.call_during_a_batch(pool, [1, -2, 3])
        assert (good.result(TIMEOUT_S), other.result(TIMEOUT_S)) == (1, 9)
        with pytest.raises(ValueError, match="negative: -2"):
            bad.result(TIMEOUT_S)
    assert squares.calls.call(5) == 25


@given(st.lists(st.integers(-3, 50), max_size=40), st.integers(1, 5), st.integers(1, 8))
@settings(max_examples=40)
def test_every_call_gets_its_own_result(numbers: list[int], max_items: int, threads: int) -> None:
    squares = Squares(max_items)
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(squares.calls.call, number) for number in numbers]
    for number, future in zip(numbers, futures, strict=True):
        if number < 0:
            assert isinstance(future.exception(), ValueError)
        else:
            assert future.result() == number * number
    assert max(map(len, squares.seen), default=0) <= max_items
    assert squares.calls.items == len(numbers)
