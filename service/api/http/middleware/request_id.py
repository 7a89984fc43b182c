"""The id of a request: the same in its response, its error body and its log lines."""

from __future__ import annotations

import re

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

REQUEST_ID = "X-Request-Id"
# What logs and headers can hold without escaping.
_SANE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+=@~-]{0,127}")
_NAME = "request_id"


def current_request_id() -> str | None:
    """Return the id of the request that this task works for."""
    found: str | None = structlog.contextvars.get_contextvars().get(_NAME)
    return found


def new_request_id() -> str:
    """Return an id that no other request has."""
    return str(ULID())


class RequestIds:
    """Gives every request an id: that of its X-Request-Id header if it is sane, else a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).getlist(REQUEST_ID)
        request_id = given[0] if len(given) == 1 and _SANE.fullmatch(given[0]) else new_request_id()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with structlog.contextvars.bound_contextvars(**{_NAME: request_id}):
            await self._app(scope, receive, send_with_id)
