"""Rejects oversized request bodies."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import Receive, Scope, Send

from vlibrary.api.http.problems import problem_of, problem_response
from vlibrary.domain.errors import TooLarge


def too_large() -> TooLarge:
    """Return the error of a body above the limit. Without Content-Length, Starlette finds it while the body is read."""
    return TooLarge("The request body is too large.", "Send less, or raise VLIBRARY_MAX_REQUEST_BYTES on the service.")


class BodyLimit(RequestBodyLimitMiddleware):
    """Starlette's limit, which answers a Content-Length above it with a problem instead of plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and int(Headers(scope=scope).get("content-length", "0")) > self.max_body_size:
            await problem_response(problem_of(too_large()), scope["path"])(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
