"""An answer as a stream of JSON lines, cancelled when the client disconnects."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from vlibrary.domain.errors import VLibraryError, WorkerLost
from vlibrary.domain.wire import Generation, TextPiece
from vlibrary.formats.messages import dump_event
from vlibrary.http_common import run_until_disconnect

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/x-ndjson"


class AnswerStream:
    """An ASGI response of JSON lines. An error before the first event is raised, so that it gets an HTTP status.

    Starlette's StreamingResponse notices a disconnect only after it has sent something, and cancels repeatedly, which
    would interrupt the generator's clean-up.
    """

    def __init__(self, events: AsyncGenerator[TextPiece | Generation]) -> None:
        self._events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await run_until_disconnect(receive, self._answer(send))

    async def _answer(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            headers = [(b"content-type", MEDIA_TYPE.encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send(_body(dump_event(first) + b"\n"))
            async for line in _remaining_lines(events):
                await send(_body(line + b"\n"))
            await send(_body(b"", more=False))


async def _remaining_lines(events: AsyncGenerator[TextPiece | Generation]) -> AsyncGenerator[bytes]:
    """Yield the remaining lines. The status is already sent, so an error becomes the last line."""
    try:
        async for event in events:
            yield dump_event(event)
    except VLibraryError as error:
        yield dump_event(error)
    except Exception as error:  # the client must learn that the answer is incomplete
        log.exception("worker.unexpected_error", exc_info=error)
        yield dump_event(unexpected_error())


def unexpected_error() -> WorkerLost:
    """Return the error that the API receives for an unexpected exception."""
    return WorkerLost("Unexpected error in the worker; see its log.", "Retry; if it persists, report it with the log.")


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
