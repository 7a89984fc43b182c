"""The host cache of vectors between the artifact store and the slot table: each is fetched and checked once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial, reduce
from operator import add
from typing import Generic, TypeVar

import numpy as np
from cachetools import LRUCache

from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import ArtifactAtStrength
from vlibrary.formats.artifact import decode

V = TypeVar("V")


class SingleFlight(Generic[V]):
    """An LRU cache that computes each value once, even if many threads request it at the same time.

    A failure is raised in all threads that wait for it and is not cached. A value that is evicted while it is computed
    still reaches its waiting threads.
    """

    def __init__(self, size: int) -> None:
        self._futures: LRUCache[str, Future[V]] = LRUCache(size)
        self._lock = threading.Lock()
        self.hits = self.misses = self.evictions = 0

    def __len__(self) -> int:
        return len(self._futures)

    def get(self, key: str, compute: Callable[[], V]) -> V:
        """Return the cached value of this key, or compute it. Raises what `compute` raises."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                self.hits += 1
            else:
                self.misses += 1
                self.evictions += len(self._futures) == self._futures.maxsize
                mine = self._futures[key] = Future()
        if future is not None:
            return future.result()
        try:
            mine.set_result(compute())
        except BaseException as error:  # noqa: BLE001  raised in every waiting thread, including this one
            with self._lock:
                if self._futures.get(key) is mine:
                    del self._futures[key]
            mine.set_exception(error)
        return mine.result()


class Residency:
    """Vectors in host memory: single vectors by digest, and weighted sums by digests and strengths.

    Safe for many threads. Artifacts are immutable and their digests are checked when they are loaded, so cached vectors
    stay valid whatever happens to the store. The catalogue decides whether a vector may still be used.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        check: Callable[[SteeringVector], None],
        size: int,
        observe_load: Callable[[float], None],
    ) -> None:
        """check: raises WrongModel or UnsupportedEdit for a vector that the model cannot apply.

        size: the number of cached vectors and sums. observe_load: called with the seconds of each load.
        """
        self._artifacts = artifacts
        self._check = check
        self.single = SingleFlight[SteeringVector](size)
        self.combined = SingleFlight[SteeringVector](size)
        self._observe_load = observe_load

    def get(self, applied: tuple[ArtifactAtStrength, ...]) -> tuple[SteeringVector | None, str | None]:
        """Return the sum of the vectors at their strengths and a key of that content; (None, None) without vectors.

        Raises ArtifactLost, ArtifactsUnavailable, InvalidArtifact, WrongModel, UnsupportedEdit.
        """
        if not applied:
            return None, None
        key = " ".join(f"{one.sha256}*{one.strength!r}" for one in applied)
        return self.combined.get(key, lambda: self._combine(applied)), key

    def _combine(self, applied: tuple[ArtifactAtStrength, ...]) -> SteeringVector:
        with np.errstate(over="ignore", invalid="ignore"):  # the check refuses an overflow, with a reason
            loaded = (self.single.get(f"{one.object_key} {one.sha256}", partial(self._load, one)) for one in applied)
            vector = reduce(add, [single * one.strength for single, one in zip(loaded, applied, strict=True)])
        self._check(vector)
        return vector

    def _load(self, applied: ArtifactAtStrength) -> SteeringVector:
        start = time.perf_counter()
        vector = decode(self._artifacts.get(applied.object_key, applied.sha256))
        self._check(vector)
        self._observe_load(time.perf_counter() - start)
        return vector
