"""When a refused client should come back: as soon as the requests inside make room, and not all clients at once."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

# For errors that say nothing about when they end, such as a store that is down.
DEFAULT_S = 5.0
MAX_S = 60.0
_MIN_S = 0.1
# Without a finished request, nothing is known about how long one takes.
_FIRST_GUESS_S = 1.0
# Requests over which the time inside is averaged.
_WINDOW = 16
_JITTER = 0.1
# Below 1, clients come a little early: a second refusal costs less than a free place.
_EARLY = 0.8


class RetryAfter:
    """Estimates when there is room, and gives each refused client its own time.

    By Little's law, n requests inside that take w seconds on average leave every w / n seconds. Each refused client
    gets the next of these times that no other has. Times are seconds of one clock. jitter: returns 0 to 1.
    """

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._jitter = jitter
        self._inside = 0
        self._arrivals = 0.0  # sum over the requests inside
        self._finished = 0
        self._mean_s = 0.0
        self._given = -math.inf
        self.waiting = 0  # requests that wait for a place inside

    def expect(self, now: float) -> float:
        """Return the seconds after which one more request gets a place, infinity if nothing is known."""
        if not (self._inside and self._finished):
            return math.inf
        return self._mean(now) * (self.waiting + 1) / self._inside

    def enter(self, now: float) -> None:
        """Count a request that was admitted."""
        self._inside += 1
        self._arrivals += now

    def leave(self, now: float, arrived: float, *, answered: bool) -> None:
        """Count a request as gone. answered: it was not refused after all, so that its time counts."""
        self._inside -= 1
        self._arrivals -= arrived
        if answered:
            self._finished += 1
            self._mean_s += (now - arrived - self._mean_s) / min(self._finished, _WINDOW)

    def estimate(self, now: float) -> float:
        """Return the seconds after which a client that is refused now should come back."""
        if not self._inside:
            return self._spread(DEFAULT_S)
        each_s = self._mean(now) / self._inside
        self._given = min(max(now + self.waiting * each_s, self._given) + _EARLY * each_s, now + MAX_S)
        return self._spread(self._given - now)

    def default(self) -> float:
        """Return the seconds to wait after an error that says nothing about when it ends."""
        return self._spread(DEFAULT_S)

    def _mean(self, now: float) -> float:
        """Return the seconds that a request takes. There must be one inside."""
        # Requests that have been inside for longer than usual show that the usual time is out of date.
        age_s = now - self._arrivals / self._inside
        return max(self._mean_s if self._finished else _FIRST_GUESS_S, age_s)

    def _spread(self, seconds: float) -> float:
        return min(max(seconds * (1 + _JITTER * (2 * self._jitter() - 1)), _MIN_S), MAX_S)


def retry_headers(seconds: float) -> dict[str, str]:
    """Return the headers: whole seconds, rounded up, and milliseconds for the clients that read them."""
    return {"Retry-After": str(math.ceil(seconds)), "Retry-After-Ms": str(math.ceil(seconds * 1000))}
