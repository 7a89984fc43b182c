"""Server-sent events: answers sent while they are generated. Each endpoint only formats its events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.types import Receive, Scope, Send

from vlibrary.api.http.admission import RequestScope
from vlibrary.api.http.problems import Problem, report
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.wire import TextPiece
from vlibrary.http_common import run_until_disconnect
from vlibrary.library.answers import Part, stream_all
from vlibrary.library.steer import Answer, Plan

# Errors usually occur at once, and then still get an HTTP status. After this time the client gets its response headers.
FIRST_PART_WAIT_S = 5.0
# Proxies close idle connections, commonly after 60 seconds.
KEEP_ALIVE_S = 15.0


class EventFormat(Protocol):
    """Formats the events of one or more answers as bytes of an event stream.

    index: which answer. answer_end: called when one answer is complete; ending: when all are.
    """

    def opening(self) -> bytes: ...
    def piece(self, piece: TextPiece, index: int, /) -> bytes: ...
    def answer_end(self, answer: Answer, index: int, /) -> bytes: ...
    def ending(self, answers: Sequence[Answer], /) -> bytes: ...
    def failure(self, problem: Problem) -> bytes: ...


class PartBuffer:
    """Reads the parts of answers in a task, so that a slow client holds up nothing but its own events.

    The buffer holds at most as many parts as the answers have tokens. When the service stops, Unavailable is the last
    one. Must be closed.
    """

    def __init__(self, scope: RequestScope, parts: AsyncGenerator[Part]) -> None:
        self._scope = scope
        self._queue: asyncio.Queue[Part | Exception] = asyncio.Queue()
        self._task = asyncio.create_task(self._read(parts))

    async def next(self, timeout_s: float) -> Part | None:
        """Return the next part, or None if none arrives within the timeout. Raises what the answers raise."""
        try:
            async with asyncio.timeout(timeout_s):
                part = await self._queue.get()
        except TimeoutError:
            return None
        if isinstance(part, Exception):
            raise part
        return part

    async def aclose(self) -> None:
        """Cancel the task, and wait until the answers are cancelled."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, parts: AsyncGenerator[Part]) -> None:
        try:
            async with self._scope.until_stopped(), aclosing(parts):
                async for part in parts:
                    self._queue.put_nowait(part)
        except Exception as error:  # noqa: BLE001  raised again by `next`
            self._queue.put_nowait(error)


class AnswerStream(EventSourceResponse):
    """The streamed answer. When the client disconnects, Starlette cancels it, which cancels the generation."""

    def __init__(self, frames: AsyncGenerator[bytes], buffer: PartBuffer) -> None:
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


async def stream_answers(
    scope: RequestScope, plans: Sequence[Plan], worker: Inference, form: EventFormat
) -> AnswerStream:
    """Return the answers to the plans as a stream that starts with the first part, or after FIRST_PART_WAIT_S.

    Raises what `stream_all` raises until then, and ClientDisconnect. A later error becomes the stream's last event.
    """
    buffer = PartBuffer(scope, stream_all(plans, worker, scope.time_left))
    try:
        first = await run_until_disconnect(scope.request.receive, buffer.next(FIRST_PART_WAIT_S))
    except BaseException:
        await buffer.aclose()
        raise
    return AnswerStream(_frames(buffer, first, len(plans), form, scope.request.url.path), buffer)


async def _frames(
    buffer: PartBuffer, first: Part | None, count: int, form: EventFormat, path: str
) -> AsyncGenerator[bytes]:
    """Yield the formatted parts of `count` answers; the last event is always that of the end or of an error."""
    yield form.opening()
    try:
        part, answers = first, dict[int, Answer]()
        while True:
            if part is None:
                yield KEEPALIVE_COMMENT
            elif isinstance(part.event, TextPiece):
                yield form.piece(part.event, part.index)
            else:
                yield form.answer_end(part.event, part.index)
                answers[part.index] = part.event
                if len(answers) == count:
                    break
            part = await buffer.next(KEEP_ALIVE_S)
        yield form.ending([answers[index] for index in range(count)])
    except Exception as error:  # noqa: BLE001  the status was sent; only an event can still report the error
        yield form.failure(report(path, error))
