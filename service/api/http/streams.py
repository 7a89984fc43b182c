"""An answer sent while it is made, as server-sent events; each dialect only says how its events are written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse
from starlette.types import Receive, Scope, Send

from vlibrary.api.http.admission import Place
from vlibrary.api.http.errors import Problem, foreseen, unforeseen
from vlibrary.domain.errors import VLibraryError
from vlibrary.domain.wire import TextPiece
from vlibrary.http_common import while_there
from vlibrary.library.steer import Answer

Event = TextPiece | Answer
# What fails does so at once as a rule, and then has a status of its own; later the client wants to hear something.
PATIENCE_S = 5.0
# Proxies close connections on which nothing moves, commonly after 60 seconds.
KEEP_ALIVE_S = 15.0


class Script(Protocol):
    """How a dialect writes the events of one answer, as bytes of an event stream."""

    def opening(self) -> bytes: ...
    def piece(self, piece: TextPiece) -> bytes: ...
    def ending(self, answer: Answer) -> bytes: ...
    def failure(self, problem: Problem) -> bytes: ...


class Relay:
    """Takes an answer's events in a task of its own, however slowly they are read.

    So a client that reads slowly keeps its own events here, at most as many as the answer has tokens, and nothing of
    the worker's. When the service stops, that is the last event. Must be closed.
    """

    def __init__(self, place: Place, events: AsyncGenerator[Event]) -> None:
        self._place = place
        self._arrived: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._task = asyncio.create_task(self._take(events))

    async def next(self, within_s: float) -> Event | None:
        """The next event, or None when none came within this time. Raises what the events raised."""
        try:
            async with asyncio.timeout(within_s):
                event = await self._arrived.get()
        except TimeoutError:
            return None
        if isinstance(event, Exception):
            raise event
        return event

    async def aclose(self) -> None:
        """Cancels what is not finished, and returns when the events are closed."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _take(self, events: AsyncGenerator[Event]) -> None:
        try:
            async with self._place.within(None), aclosing(events):
                async for event in events:
                    self._arrived.put_nowait(event)
        except Exception as error:  # noqa: BLE001  carried to the task that reads, and raised there
            self._arrived.put_nowait(error)


class AnswerStream(EventSourceResponse):
    """Sends an answer's events; Starlette cancels it when the client leaves, and then the answer is cancelled too."""

    def __init__(self, frames: AsyncGenerator[bytes], relay: Relay) -> None:
        # The second header keeps nginx from collecting the events.
        super().__init__(frames, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._frames = frames
        self._relay = relay

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()
            await self._relay.aclose()


async def respond(place: Place, events: AsyncGenerator[Event], script: Script) -> AnswerStream:
    """The events as a stream, begun once the first is there or PATIENCE_S have passed.

    Raises what the events raise until then, and ClientDisconnect. A failure after that is the stream's last event.
    """
    relay = Relay(place, events)
    try:
        first = await while_there(place.request.receive, relay.next(PATIENCE_S))
    except BaseException:
        await relay.aclose()
        raise
    return AnswerStream(_frames(relay, first, script, place.request.url.path), relay)


async def _frames(relay: Relay, first: Event | None, script: Script, path: str) -> AsyncGenerator[bytes]:
    """Every stream ends with the answer or with a failure, never silently."""
    yield script.opening()
    try:
        event = first
        while not isinstance(event, Answer):
            yield KEEPALIVE_COMMENT if event is None else script.piece(event)
            event = await relay.next(KEEP_ALIVE_S)
        yield script.ending(event)
    except VLibraryError as error:
        yield script.failure(foreseen(path, error))
    except Exception as error:  # noqa: BLE001  the status is sent: only an event can still tell the client
        yield script.failure(unforeseen(path, error))
