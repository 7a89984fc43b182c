"""Batches of concurrent calls: what waits while one batch runs is the next batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class _Entry(Generic[T, R]):
    """One call. woken: set when the result is available, or when the call's thread must run the next batch."""

    def __init__(self, item: T) -> None:
        self.item = item
        self.result: Future[R] = Future()
        self.woken = threading.Event()


class CallBatches(Generic[T, R]):
    """Runs a function on batches of items that threads pass one by one; one batch at a time.

    A call that finds no batch running starts one immediately, in its own thread. Calls that arrive during a batch wait
    for its end; then the thread of the first one runs the next batch. batches, items: how many were run so far.
    """

    def __init__(self, run: Callable[[Sequence[T]], Sequence[R]], max_items: int) -> None:
        """run: returns one result per item, in order. max_items: the most items of a batch."""
        self._run = run
        self._max_items = max_items
        self._lock = threading.Lock()
        self._waiting: deque[_Entry[T, R]] = deque()
        self._running = False
        self.batches = self.items = 0

    @property
    def waiting(self) -> int:
        """The number of calls that wait for a batch."""
        return len(self._waiting)

    def call(self, item: T) -> R:
        """Return the result for this item. Raises what `run` raises on this item alone."""
        entry: _Entry[T, R] = _Entry(item)
        with self._lock:
            self._waiting.append(entry)
            waits, self._running = self._running, True
        if waits:
            entry.woken.wait()
        if not entry.result.done():
            self._run_next()
        return entry.result.result()

    def _run_next(self) -> None:
        with self._lock:
            count = min(len(self._waiting), self._max_items)
            batch = [self._waiting.popleft() for _ in range(count)]
        try:
            if not self._resolve(batch):
                for entry in batch:
                    self._resolve([entry])
        finally:
            with self._lock:
                self.batches += 1
                self.items += count
                following = self._waiting[0] if self._waiting else None
                self._running = following is not None
            if following is not None:
                following.woken.set()
            for entry in batch:
                entry.woken.set()

    def _resolve(self, batch: Sequence[_Entry[T, R]]) -> bool:
        """Run the batch and set the results. Return False if several items failed, so that each must run alone."""
        try:
            results = self._run([entry.item for entry in batch])
        except BaseException as error:  # noqa: BLE001  raised in the thread of the call
            if len(batch) == 1:
                batch[0].result.set_exception(error)
            return len(batch) == 1
        for entry, result in zip(batch, results, strict=True):
            entry.result.set_result(result)
        return True
