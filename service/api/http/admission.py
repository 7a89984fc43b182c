"""How many requests for answers are inside at a time, how long they may take, and that they end with the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from fastapi import Request

from vlibrary.domain.errors import Overloaded, TimedOut, Unavailable, VLibraryError
from vlibrary.http_common import while_there

T = TypeVar("T")

# Stores and embedders are asked in threads, since their calls block.
ASKERS = 32


class Gate:
    """Lets at most `most` requests in at a time and refuses the others at once.

    Behind it everything is bounded: bodies held, requests that wait for a thread, and threads.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._stopping = False
        self._limits: set[asyncio.Timeout] = set()
        self._askers = ThreadPoolExecutor(ASKERS, thread_name_prefix="ask")
        self._idle = asyncio.Semaphore(ASKERS)

    @contextmanager
    def entered(self, request: Request) -> Iterator[Place]:
        """A place for this request. Raises Overloaded when all are taken."""
        if self._inside >= self._most:
            raise Overloaded(f"{self._inside} requests are inside already.", "Try again later.")
        self._inside += 1
        try:
            yield Place(self, request)
        finally:
            self._inside -= 1

    def stop(self) -> None:
        """End everything inside, and whatever still comes, with Unavailable."""
        self._stopping = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def limited(self, until: float | None) -> AsyncGenerator[None]:
        """Cancels what is inside the `with`, and raises TimedOut at this time of the loop, Unavailable at the stop."""
        limit = asyncio.timeout_at(asyncio.get_running_loop().time() if self._stopping else until)
        try:
            async with limit:
                self._limits.add(limit)
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise self._reason() from None
        finally:
            self._limits.discard(limit)

    async def in_thread(self, ask: Callable[[], T]) -> T:
        """What `ask` returns.

        A thread whose caller has given up stays busy until `ask` ends, and counts until then.
        """
        await self._idle.acquire()
        loop = asyncio.get_running_loop()

        def release(_asked: Future[T]) -> None:
            loop.call_soon_threadsafe(self._idle.release)

        asked = self._askers.submit(ask)
        asked.add_done_callback(release)
        return await asyncio.wrap_future(asked)

    def _reason(self) -> VLibraryError:
        return Unavailable("The service is stopping.", "Ask again in a moment.") if self._stopping else _too_late()


class Place:
    """One request inside the gate; its time runs from its arrival."""

    def __init__(self, gate: Gate, request: Request) -> None:
        self._gate = gate
        self.request = request
        self._began = asyncio.get_running_loop().time()

    def left(self, seconds: float) -> float:
        """What is left of this time. Raises TimedOut when nothing is."""
        left = self._began + seconds - asyncio.get_running_loop().time()
        if left <= 0:
            raise _too_late()
        return left

    async def asked(self, ask: Callable[[], T], seconds: float) -> T:
        """What `ask` returns, called in a thread; given up when the client leaves or this time after the arrival.

        The body must be read already. Raises TimedOut, ClientDisconnect, Unavailable when the service stops.
        """

        async def work() -> T:
            async with self.within(seconds):
                return await self._gate.in_thread(ask)

        return await while_there(self.request.receive, work())

    async def finished(self, work: Coroutine[Any, Any, T]) -> T:
        """The work's result; cancelled when the client leaves (ClientDisconnect) or the service stops (Unavailable)."""

        async def limited() -> T:
            async with self.within(None):
                return await work

        return await while_there(self.request.receive, limited())

    @asynccontextmanager
    async def within(self, seconds: float | None) -> AsyncGenerator[None]:
        """Cancels what is inside the `with`; raises TimedOut so long after the arrival, Unavailable at the stop."""
        async with self._gate.limited(None if seconds is None else self._began + seconds):
            yield


def _too_late() -> TimedOut:
    return TimedOut("The answer was not ready by the deadline.", "Allow more time, or try again later.")
