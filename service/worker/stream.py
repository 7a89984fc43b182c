"""One answer as a stream of JSON lines, given up as soon as its reader leaves."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from vlibrary.domain.errors import VLibraryError, WorkerLost
from vlibrary.domain.wire import Generation, TextPiece
from vlibrary.formats.messages import dump_event
from vlibrary.http_common import while_there

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/x-ndjson"


class AnswerStream:
    """An ASGI response. An error before the first event is raised, so that it gets a status of its own.

    Starlette's own streaming response sees a reader leave only once something was sent, and cancels again and again,
    which would break into a generator's clean-up.
    """

    def __init__(self, events: AsyncGenerator[TextPiece | Generation]) -> None:
        self._events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):  # nobody is left to tell
            await while_there(receive, self._answer(send))

    async def _answer(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            await send(_start())
            await send(_body(dump_event(first) + b"\n"))
            async for line in _rest(events):
                await send(_body(line + b"\n"))
            await send(_body(b"", more=False))


async def _rest(events: AsyncGenerator[TextPiece | Generation]) -> AsyncGenerator[bytes]:
    """The remaining lines; after the status was sent, an error can only be one of them."""
    try:
        async for event in events:
            yield dump_event(event)
    except VLibraryError as error:
        yield dump_event(error)
    except Exception as error:  # the process's border: the reader must hear that the answer is not whole
        log.exception("worker.unforeseen", exc_info=error)
        yield dump_event(unforeseen())


def unforeseen() -> WorkerLost:
    """What the other side hears of an error that nobody foresaw."""
    return WorkerLost(
        "The worker met an error that nobody foresaw; its log has it.", "If it stays, report it with the worker's log."
    )


def _start() -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", MEDIA_TYPE.encode())]}


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
