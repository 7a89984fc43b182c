"""Clients that obey Retry-After finish in little more than the time of the work itself."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.api.http.retry_after import MAX_S, RetryAfter, retry_headers

CLIENTS = 24


def whole_seconds(seconds: float) -> float:
    return int(retry_headers(seconds)["Retry-After"])


def milliseconds(seconds: float) -> float:
    return int(retry_headers(seconds)["Retry-After-Ms"]) / 1000


class Simulation:
    """A service that runs `rows` requests at a time, and lets at most `room` in; on a simulated clock."""

    def __init__(self, *, rows: int, room: int, seconds: float, obey: Callable[[float], float], seed: int = 0) -> None:
        rng = random.Random(seed)
        self._estimator = RetryAfter(rng.random)
        self._rows = [0.0] * rows  # when each is free
        self._room = room
        self._seconds = seconds
        self._obey = obey
        self.refused = 0

    def run(self, arrivals: list[float]) -> float:
        """Return when the last client is answered."""
        order = itertools.count()
        events: list[tuple[float, int, float | None]] = [(at, next(order), None) for at in arrivals]
        heapq.heapify(events)
        inside, now = 0, 0.0
        while events:
            now, _, arrived = heapq.heappop(events)
            if arrived is not None:
                inside -= 1
                self._estimator.leave(now, arrived, answered=True)
            elif inside >= self._room:
                self.refused += 1
                delay = self._obey(self._estimator.estimate(now))
                heapq.heappush(events, (now + delay, next(order), None))
            else:
                inside += 1
                self._estimator.enter(now)
                ends = max(now, heapq.heappop(self._rows)) + self._seconds
                heapq.heappush(self._rows, ends)
                heapq.heappush(events, (ends, next(order), now))
        return now


@pytest.mark.parametrize("obey", [whole_seconds, milliseconds])
@pytest.mark.parametrize(
    ("rows", "room", "seconds"), [(4, 8, 1.0), (1, 4, 0.25), (2, 3, 0.5), (4, 6, 5.0), (8, 12, 3.0)]
)
@pytest.mark.parametrize("seed", range(5))
def test_clients_that_obey_finish_within_one_and_a_half_times_the_work(
    rows: int, room: int, seconds: float, obey: Callable[[float], float], seed: int
) -> None:
    work = CLIENTS * seconds / rows
    assert work >= 6
    simulation = Simulation(rows=rows, room=room, seconds=seconds, obey=obey, seed=seed)
    finished = simulation.run([0.001 * number for number in range(CLIENTS)])
    assert finished <= 1.5 * work
    assert simulation.refused >= CLIENTS - room


def test_each_refused_client_gets_its_own_time() -> None:
    estimator = RetryAfter(lambda: 0.5)
    for _ in range(4):
        estimator.enter(0.0)
        estimator.leave(2.0, 0.0, answered=True)
        estimator.enter(2.0)
    assert [estimator.estimate(2.0) for _ in range(3)] == pytest.approx([0.4, 0.8, 1.2])
    assert estimator.estimate(100.0) == pytest.approx(0.8 * 98 / 4)


def test_refused_requests_do_not_make_the_service_look_fast() -> None:
    estimator = RetryAfter(lambda: 0.5)
    estimator.enter(0.0)
    estimator.leave(10.0, 0.0, answered=True)
    estimator.enter(10.0)
    for _ in range(100):
        estimator.enter(10.0)
        estimator.leave(10.0, 10.0, answered=False)
    assert estimator.estimate(10.0) == pytest.approx(8.0)


@given(st.lists(st.floats(0, 1e4), max_size=20), st.floats(0, 1))
def test_every_estimate_is_between_the_bounds(times: list[float], jitter: float) -> None:
    estimator = RetryAfter(lambda: jitter)
    for at in sorted(times):
        estimator.enter(at)
        seconds = estimator.estimate(at)
        assert 0 < seconds <= MAX_S
        headers = retry_headers(seconds)
        assert int(headers["Retry-After"]) == math.ceil(int(headers["Retry-After-Ms"]) / 1000)
