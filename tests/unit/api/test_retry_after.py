"""Clients that obey Retry-After finish in little more than the time of the work itself."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.api.http.admission import PATIENCE_S
from vlibrary.api.http.retry_after import MAX_S, RetryAfter, retry_headers

CLIENTS = 24


def whole_seconds(seconds: float) -> float:
    return int(retry_headers(seconds)["Retry-After"])


def milliseconds(seconds: float) -> float:
    return int(retry_headers(seconds)["Retry-After-Ms"]) / 1000


class Simulation:
    """A service that runs `rows` requests at a time, lets at most `room` in, and others wait if they get in soon.

    On a simulated clock.
    """

    def __init__(self, *, rows: int, room: int, seconds: float, obey: Callable[[float], float], seed: int = 0) -> None:
        rng = random.Random(seed)
        self._estimator = RetryAfter(rng.random)
        self._rows = [0.0] * rows  # when each is free
        self._room = room
        self._seconds = seconds
        self._obey = obey
        self._order = itertools.count()
        self._events: list[tuple[float, int, float | None]] = []  # time, order, and when it was let in: then it leaves
        self._inside = 0
        self._waiting = deque[float]()
        self.refused = 0

    def run(self, arrivals: list[float]) -> float:
        """Return when the last client is answered."""
        now = 0.0
        for at in arrivals:
            self._push(at)
        while self._events:
            now, _, entered = heapq.heappop(self._events)
            while self._waiting and now - self._waiting[0] > PATIENCE_S:
                self._waiting.popleft()
                self._refuse(now)
            if entered is None:
                self._arrive(now)
            else:
                self._leave(now, entered)
            self._estimator.waiting = len(self._waiting)
        return now

    def _push(self, at: float, entered: float | None = None) -> None:
        heapq.heappush(self._events, (at, next(self._order), entered))

    def _arrive(self, now: float) -> None:
        if self._inside < self._room and not self._waiting:
            self._enter(now)
        elif self._estimator.expect(now) <= PATIENCE_S:
            self._waiting.append(now)
        else:
            self._refuse(now)

    def _enter(self, now: float) -> None:
        self._inside += 1
        self._estimator.enter(now)
        ends = max(now, heapq.heappop(self._rows)) + self._seconds
        heapq.heappush(self._rows, ends)
        self._push(ends, now)

    def _leave(self, now: float, entered: float) -> None:
        self._inside -= 1
        self._estimator.leave(now, entered, answered=True)
        if self._waiting:
            self._waiting.popleft()
            self._enter(now)

    def _refuse(self, now: float) -> None:
        self.refused += 1
        self._push(now + self._obey(self._estimator.estimate(now)))


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


@pytest.mark.parametrize("obey", [whole_seconds, milliseconds])
@pytest.mark.parametrize(("rows", "seconds"), [(4, 0.04), (4, 0.13), (1, 0.04), (2, 0.3)])
@pytest.mark.parametrize("seed", range(3))
def test_clients_with_short_requests_wait_inside_instead_of_pausing_for_a_second(
    rows: int, seconds: float, obey: Callable[[float], float], seed: int
) -> None:
    simulation = Simulation(rows=rows, room=4, seconds=seconds, obey=obey, seed=seed)
    first = simulation.run([0.0])  # so that the time of a request is known
    finished = simulation.run([first + 0.001 * number for number in range(CLIENTS)]) - first
    assert finished <= max(1.5 * CLIENTS * seconds / rows, PATIENCE_S + 2 * seconds)


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
