"""Server-sent events: an answer sent while it is generated. Each API dialect only formats its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.types import Receive, Scope, Send

from vlibrary.api.http.admission import RequestScope
from vlibrary.api.http.problems import Problem, report
from vlibrary.domain.wire import TextPiece
from vlibrary.http_common import run_until_disconnect
from vlibrary.library.steer import Answer

Event = TextPiece | Answer
# Errors usually occur at once, and then still get an HTTP status. After this time the client gets its response headers.
FIRST_EVENT_WAIT_S = 5.0
# Proxies close idle connections, commonly after 60 seconds.
KEEP_ALIVE_S = 15.0


class EventFormat(Protocol):
    """Formats the events of one answer as bytes of an event stream."""

    def opening(self) -> bytes: ...
    def piece(self, piece: TextPiece) -> bytes: ...
    def ending(self, answer: Answer) -> bytes: ...
    def failure(self, problem: Problem) -> bytes: ...


class EventBuffer:
    """Reads an answer's events in a task, so that a slow client holds up nothing but its own events.

    The buffer holds at most as many events as the answer has tokens. When the service stops, Unavailable is the last
    one. Must be closed.
    """

    def __init__(self, scope: RequestScope, events: AsyncGenerator[Event]) -> None:
        self._scope = scope
        self._queue: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._task = asyncio.create_task(self._read(events))

    async def next(self, timeout_s: float) -> Event | None:
        """Return the next event, or None if none arrives within the timeout. Raises what the events raise."""
        try:
            async with asyncio.timeout(timeout_s):
                event = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    async def aclose(self) -> None:
        """Cancel the task, and wait until the events are closed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, events: AsyncGenerator[Event]) -> None:
        try:
            async with self._scope.until_stopped(), aclosing(events):
                async for event in events:
                    self._queue.put_nowait(event)
        except Exception as error:  # noqa: BLE001  raised again by `next`
            self._queue.put_nowait(error)


class AnswerStream(EventSourceResponse):
    """The streamed answer. When the client disconnects, Starlette cancels it, which cancels the generation."""

    def __init__(self, frames: AsyncGenerator[bytes], buffer: EventBuffer) -> None:
        # X-Accel-Buffering: nginx must not buffer the events.
        super().__init__(frames, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._frames = frames
        self._buffer = buffer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()
            await self._buffer.aclose()


async def stream_answer(scope: RequestScope, events: AsyncGenerator[Event], form: EventFormat) -> AnswerStream:
    """Return the events as a stream that starts with the first event, or after FIRST_EVENT_WAIT_S.

    Raises what the events raise until then, and ClientDisconnect. A later error becomes the stream's last event.
    """
    buffer = EventBuffer(scope, events)
    try:
        first = await run_until_disconnect(scope.request.receive, buffer.next(FIRST_EVENT_WAIT_S))
    except BaseException:
        await buffer.aclose()
        raise
    return AnswerStream(_frames(buffer, first, form, scope.request.url.path), buffer)


async def _frames(buffer: EventBuffer, first: Event | None, form: EventFormat, path: str) -> AsyncGenerator[bytes]:
    """Yield the formatted events; the last one is always the whole answer or an error."""
    yield form.opening()
    try:
        event = first
        while not isinstance(event, Answer):
            yield KEEPALIVE_COMMENT if event is None else form.piece(event)
            event = await buffer.next(KEEP_ALIVE_S)
        yield form.ending(event)
    except Exception as error:  # noqa: BLE001  the status was sent; only an event can still report the error
        yield form.failure(report(path, error))
