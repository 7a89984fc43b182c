"""The common base of both engines: a bounded queue, the thread that owns the model, and error isolation."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Self

import structlog
import torch

from vlibrary.domain.errors import OutOfMemory, Overloaded, TimedOut, Unavailable, VLibraryError, WorkerUnavailable
from vlibrary.domain.wire import Decoding
from vlibrary.engine.grammar import Grammars
from vlibrary.engine.request import Load, Request

log = structlog.get_logger(__name__)


class QueuedEngine(ABC):
    """Implements vlibrary.engine.request.Engine except for `step`."""

    def __init__(self, max_waiting: int, grammars: Grammars) -> None:
        self._max_waiting = max_waiting
        self._grammars = grammars
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)

    def start(self) -> Self:
        """Start the thread that calls `step`; without it, the caller does."""
        self._thread.start()
        return self

    @property
    @abstractmethod
    def running(self) -> tuple[Request, ...]:
        """The requests in the batch, in row order."""

    @abstractmethod
    def step(self) -> None:
        """Run one iteration of the loop."""

    @property
    def is_open(self) -> bool:
        return not self._closed

    def prepare(self, decoding: Decoding) -> None:
        if decoding.json_schema is not None:
            self._grammars.compile(decoding.json_schema)

    def submit(self, request: Request) -> None:
        with self._changed:
            if self._closed:
                raise WorkerUnavailable("The worker is stopping.", "Try again.")
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} requests are already waiting.", "Try again later.")
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
        self._grammars.close()

    def _drop_waiting(self) -> None:
        """Remove cancelled requests from the queue, and overdue ones with TimedOut."""
        now = time.monotonic()
        with self._changed:
            dropped = [request for request in self._waiting if request.cancelled or request.is_overdue(now)]
            for request in dropped:
                self._waiting.remove(request)
        for request in dropped:
            emit_timeout(request)

    def _loop(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed or self._waiting or self.running)
                    if self._closed:
                        return
                self.step()
        except BaseException:
            log.critical("engine.thread_ended", exc_info=True)
            raise
        finally:
            self._stop()

    def _stop(self) -> None:
        """End all requests, so that no caller waits for a thread that has ended."""
        with self._changed:
            self._closed = True
            unfinished = [*self._waiting, *self.running]
            self._waiting.clear()
        for request in unfinished:
            if not request.cancelled:
                request.emit(WorkerUnavailable("The worker is stopping.", "Try again."))


def emit_timeout(request: Request) -> None:
    """End an overdue request with TimedOut, unless its caller has cancelled it."""
    if not request.cancelled:
        request.emit(TimedOut("The answer was not ready by the deadline.", "Allow more time, or try again later."))


def catch(action: Callable[[], None]) -> Exception | None:
    """Run the action and return the exception that it raised, if any.

    A failing request must not end the thread that serves all others.
    """
    try:
        action()
    except Exception as error:  # noqa: BLE001
        return error
    return None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether the device or the host ran out of memory."""
    on_host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return on_host or isinstance(error, (torch.OutOfMemoryError, MemoryError))


def to_library_error(error: Exception) -> VLibraryError:
    """Return the error for the client; log the details of an unexpected one."""
    if isinstance(error, VLibraryError):
        return error
    log.error("engine.failed", exc_info=error)
    if is_out_of_memory(error):
        return OutOfMemory(
            "The model's device is out of memory for this request.",
            "Send a shorter prompt or fewer images, or try again later.",
        )
    return Unavailable(f"The model failed on this request ({type(error).__name__}).", "See the worker's log.")
