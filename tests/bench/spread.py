"""Time alternatives side by side and summarise repeated measurements."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Pair = tuple[float, float]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of `count` measurements."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high, len(values))


def seconds(action: Callable[[], object]) -> float:
    """Return the duration of the action, which must end with a value on the host when it runs on a GPU."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(one: Callable[[], object], other: Callable[[], object], pairs: int) -> list[Pair]:
    """Return the seconds of both actions, run one after the other; the order is reversed in every second pair."""
    return [_pair(one, other, swapped=bool(number % 2)) for number in range(pairs)]


def all_in_turn(actions: Sequence[Callable[[], object]], first: int) -> list[float]:
    """Return the seconds of each action, starting with action `first`, because the first one finds colder caches."""
    places = [(first + number) % len(actions) for number in range(len(actions))]
    times = {place: seconds(actions[place]) for place in places}
    return [times[place] for place in range(len(actions))]


def _pair(one: Callable[[], object], other: Callable[[], object], *, swapped: bool) -> Pair:
    if swapped:
        late, early = seconds(other), seconds(one)
        return early, late
    return seconds(one), seconds(other)


def balanced(pairs: Sequence[Pair]) -> list[Pair]:
    """Merge every two pairs into one (A B B A), so that each side runs second, with warmer caches, once."""
    return [(early[0] + late[0], early[1] + late[1]) for early, late in zip(pairs[::2], pairs[1::2], strict=False)]


def speedup(pairs: Sequence[Pair]) -> Spread:
    """Return how many times as fast as the second action the first one is, pair by pair."""
    return Spread.of([other / one for one, other in pairs])
