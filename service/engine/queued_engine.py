"""What both engines do alike: a bounded queue before a thread that owns the model."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from typing import Self

import structlog

from vlibrary.domain.errors import Overloaded, TimedOut, WorkerUnavailable
from vlibrary.engine.request import Load, Request

log = structlog.get_logger(__name__)


class QueuedEngine(ABC):
    """Implements vlibrary.engine.request.Engine but for what a step does."""

    def __init__(self, max_waiting: int) -> None:
        self._max_waiting = max_waiting
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def start(self) -> Self:
        """Run the loop on a thread of its own; without it the caller calls `step`."""
        self._thread.start()
        return self

    @property
    @abstractmethod
    def running(self) -> tuple[Request, ...]:
        """The requests that are being answered, in the order of their rows."""

    @abstractmethod
    def step(self) -> None:
        """One turn of the loop."""

    @property
    def is_open(self) -> bool:
        return not self._closed

    def submit(self, request: Request) -> None:
        with self._changed:
            if self._closed:
                raise WorkerUnavailable("The worker is stopping.", "Try again.")
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} requests are waiting already.", "Try again later.")
            self._waiting.append(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        with self._changed:
            request.cancelled = True
            self._changed.notify()

    def load(self) -> Load:
        with self._changed:
            waiting, closed = len(self._waiting), self._closed
        return Load(len(self.running), waiting, 0 if closed else self._max_waiting - waiting)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _drop_waiting(self) -> None:
        """Forget cancelled requests, and tell is_overdue ones."""
        now = time.monotonic()
        with self._changed:
            gone = [request for request in self._waiting if request.cancelled or request.is_overdue(now)]
            for request in gone:
                self._waiting.remove(request)
        for request in gone:
            emit_timeout(request)

    def _loop(self) -> None:
        try:
            while self._wait_for_work():
                self.step()
        except BaseException:
            log.critical("engine.thread_ended", exc_info=True)
            raise
        finally:
            self._stop()

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting or self.running)
            return not self._closed

    def _stop(self) -> None:
        """End everything under way: nobody shall wait for a thread that is gone."""
        with self._changed:
            self._closed = True
            left = [*self._waiting, *self.running]
            self._waiting.clear()
        for request in left:
            if not request.cancelled:
                request.emit(WorkerUnavailable("The worker is stopping.", "Try again."))


def emit_timeout(request: Request) -> None:
    """End a request whose time is over, unless its caller has gone."""
    if not request.cancelled:
        request.emit(TimedOut("The answer was not ready by the deadline.", "Allow more time, or try again later."))
