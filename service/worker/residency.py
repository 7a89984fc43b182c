"""Vectors on their way from the object store to the model: fetched and checked once, however many want them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from functools import reduce
from operator import add
from typing import Generic, TypeVar

import numpy as np

from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Applied
from vlibrary.formats.artifact import decode

V = TypeVar("V")


class SingleFlight(Generic[V]):
    """Values by key, each made once even if many threads ask at a time; the least recently used are forgotten.

    A failure is told to everybody who waited for it, and not remembered.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[str, Future[V]] = OrderedDict()
        self._lock = threading.Lock()
        self.hits = self.misses = self.evictions = 0

    def __len__(self) -> int:
        return len(self._made)

    def get(self, key: str, make: Callable[[], V]) -> V:
        """The value of this key, made here or awaited. Raises what `make` raises."""
        with self._lock:
            future = self._made.get(key)
            mine = future is None
            if future is None:
                future = self._made[key] = Future()
                self.misses += 1
            else:
                self.hits += 1
            self._made.move_to_end(key)
            self._forget_oldest()
        if mine:
            self._make(key, future, make)
        return future.result()

    def _make(self, key: str, future: Future[V], make: Callable[[], V]) -> None:
        try:
            future.set_result(make())
        except BaseException as error:  # noqa: BLE001  raised again for everybody who waits, this caller included
            with self._lock:
                if self._made.get(key) is future:
                    del self._made[key]
            future.set_exception(error)

    def _forget_oldest(self) -> None:
        """Requests that hold a forgotten value keep it; only the next one makes it again."""
        while len(self._made) > self._most:
            self._made.popitem(last=False)
            self.evictions += 1


class Residency:
    """Vectors in host memory, ready for a slot: single ones by digest, and weighted sums by digests and strengths.

    Safe for many threads. An artifact is immutable and its digest is checked on the way in, so what is here stays true
    whatever happens to the store; whether a vector may still be used is the catalogue's affair.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        check: Callable[[SteeringVector], None],
        most: int,
        took: Callable[[float], None],
    ) -> None:
        """check: raises WrongModel or UnsupportedEdit for what the model cannot apply.

        most: vectors kept. took: told how many seconds each load took.
        """
        self._artifacts = artifacts
        self._check = check
        self.single = SingleFlight[SteeringVector](most)
        self.combined = SingleFlight[SteeringVector](most)
        self._took = took

    def get(self, applied: tuple[Applied, ...]) -> tuple[SteeringVector | None, str | None]:
        """All vectors at their strengths as one, and the identity of that content; None for none.

        Raises ArtifactLost, ArtifactsUnavailable, InvalidArtifact, WrongModel, UnsupportedEdit.
        """
        if not applied:
            return None, None
        key = " ".join(f"{one.sha256}*{one.strength!r}" for one in applied)
        return self.combined.get(key, lambda: self._combine(applied)), key

    def _combine(self, applied: tuple[Applied, ...]) -> SteeringVector:
        with np.errstate(over="ignore", invalid="ignore"):  # an overflow is refused by the check, with a reason
            vector = reduce(add, [self._one(one) * one.strength for one in applied])
        self._check(vector)
        return vector

    def _one(self, applied: Applied) -> SteeringVector:
        return self.single.get(f"{applied.object_key} {applied.sha256}", lambda: self._load(applied))

    def _load(self, applied: Applied) -> SteeringVector:
        start = time.perf_counter()
        vector = decode(self._artifacts.get(applied.object_key, applied.sha256))
        self._check(vector)
        self._took(time.perf_counter() - start)
        return vector
