"""Admission control: how many requests run at a time, how long they may take, and how they end with the service."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import Request

from vlibrary.api.http.retry_after import RetryAfter
from vlibrary.domain.errors import Overloaded, TimedOut, Unavailable
from vlibrary.http_common import run_until_disconnect

T = TypeVar("T")

# Calls to stores and embedders block, so they run in threads.
THREADS = 32
# Retry-After counts whole seconds, so a request that gets a place within one waits for it.
PATIENCE_S = 1.0
MAX_WAITING = 256
# Of one request: enough for a batch of the embedder, and few of the threads.
_AT_ONCE = 8


class AdmissionControl:
    """Admits at most `max_requests` at a time. Further ones wait if they can be admitted soon; others are refused.

    This bounds the requests that wait for a thread or a worker. timeout_s: default limit of a request.
    retry_after: when refused clients should come back. leaving: the service will stop soon, and is no longer ready.
    """

    def __init__(self, max_requests: int, timeout_s: float, *, threads: int = THREADS) -> None:
        self.timeout_s = timeout_s
        self.retry_after = RetryAfter()
        self.leaving = False
        self._max_requests = max_requests
        self._places = asyncio.Semaphore(max_requests)
        self._stopping = False
        self._timeouts: set[asyncio.Timeout] = set()
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self._idle_threads = asyncio.Semaphore(threads)
        self._parsing = asyncio.Lock()

    def check_room(self) -> None:
        """Raise Overloaded if one more request would be admitted neither now nor soon."""
        if self._places.locked() and (
            self.retry_after.waiting >= MAX_WAITING
            or self.retry_after.expect(asyncio.get_running_loop().time()) > PATIENCE_S
        ):
            raise self._full()

    @asynccontextmanager
    async def admit(self, request: Request) -> AsyncGenerator[RequestScope]:
        """Admit the request until the `with` ends. Its body must have been read. Raises Overloaded."""
        now = asyncio.get_running_loop().time
        scope = RequestScope(self, request)
        await self._take_place()
        entered, answered = now(), False
        self.retry_after.enter(entered)
        try:
            yield scope
            answered = True
        finally:
            self._places.release()
            self.retry_after.leave(now(), entered, answered=answered)

    async def _take_place(self) -> None:
        self.check_room()
        self.retry_after.waiting += 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._places.acquire()
        except TimeoutError:
            raise self._full() from None
        finally:
            self.retry_after.waiting -= 1

    def _full(self) -> Overloaded:
        return Overloaded(f"The service is already processing {self._max_requests} requests.", "Try again later.")

    def stop(self) -> None:
        """Cancel all running and future requests; they raise Unavailable."""
        self._stopping = True
        for timeout in self._timeouts:
            if not timeout.expired():
                timeout.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def cancel_at(self, when: float | None) -> AsyncGenerator[None]:
        """Cancel the body of the `with` at this loop time (TimedOut) or when the service stops (Unavailable)."""
        timeout = asyncio.timeout_at(asyncio.get_running_loop().time() if self._stopping else when)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                yield
        except TimeoutError:
            if not timeout.expired():
                raise
            if self._stopping:
                raise Unavailable("The service is shutting down.", "Retry in a moment.") from None
            raise _timed_out() from None
        finally:
            self._timeouts.discard(timeout)

    async def run_in_thread(self, call: Callable[[], T]) -> T:
        """Return the result of a blocking call.

        If the caller is cancelled, the thread keeps running and counts as busy until the call returns. (AnyIO's
        limiter would free its slot at once.)
        """
        await self._idle_threads.acquire()
        loop = asyncio.get_running_loop()

        def release(_future: Future[T]) -> None:
            loop.call_soon_threadsafe(self._idle_threads.release)

        # With its context, so that its log lines have the request's id.
        future = self._executor.submit(contextvars.copy_context().run, call)
        future.add_done_callback(release)
        return await asyncio.wrap_future(future)

    async def parse(self, call: Callable[[], T]) -> T:
        """Return the result of parsing a large body, in a thread.

        One at a time: parsing takes a multiple of the body's memory, and steps that hold the interpreter add up.
        """
        async with self._parsing:
            return await self.run_in_thread(call)


class RequestScope:
    """One admitted request: its deadline, counted from its arrival, and its cancellation.

    Work is cancelled when the client disconnects (ClientDisconnect) or the service stops (Unavailable).
    """

    def __init__(self, control: AdmissionControl, request: Request) -> None:
        self.request = request
        self._control = control
        self._arrived = asyncio.get_running_loop().time()
        self._deadline = self._arrived + control.timeout_s

    def set_timeout(self, seconds: float | None) -> None:
        """Replace the default time limit; None keeps it."""
        if seconds is not None:
            self._deadline = self._arrived + seconds

    def time_left(self) -> float:
        """Return the seconds until the deadline. Raises TimedOut when it has passed."""
        left = self._deadline - asyncio.get_running_loop().time()
        if left <= 0:
            raise _timed_out()
        return left

    @asynccontextmanager
    async def deadline(self) -> AsyncGenerator[None]:
        """Cancel the body of the `with` at the deadline (TimedOut) or when the service stops (Unavailable)."""
        async with self._control.cancel_at(self._deadline):
            yield

    @asynccontextmanager
    async def until_stopped(self) -> AsyncGenerator[None]:
        """Cancel the body of the `with` when the service stops (Unavailable)."""
        async with self._control.cancel_at(None):
            yield

    async def run_in_thread(self, call: Callable[[], T]) -> T:
        """Return the result of a blocking call, which must arrive by the deadline.

        The request's body must have been read. Raises TimedOut, ClientDisconnect, Unavailable.
        """

        async def work() -> T:
            async with self.deadline():
                return await self._control.run_in_thread(call)

        return await run_until_disconnect(self.request.receive, work())

    async def run_in_threads(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results of blocking calls, few of which run at a time; otherwise like `run_in_thread`."""

        async def work() -> list[T]:
            found: list[T] = []
            async with self.deadline():
                for start in range(0, len(calls), _AT_ONCE):
                    some = calls[start : start + _AT_ONCE]
                    found += await asyncio.gather(*map(self._control.run_in_thread, some))
            return found

        return await run_until_disconnect(self.request.receive, work())

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of a coroutine that keeps the deadline itself. Raises ClientDisconnect, Unavailable."""

        async def stoppable() -> T:
            async with self.until_stopped():
                return await work

        return await run_until_disconnect(self.request.receive, stoppable())


def _timed_out() -> TimedOut:
    return TimedOut("The request did not finish by its deadline.", "Allow more time, or try again later.")
