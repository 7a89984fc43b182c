"""Rejects URLs, headers and bodies that are too long."""

from __future__ import annotations

from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from vlibrary.api.http.problems import Problem, problem, problem_of, problem_response, type_of_status
from vlibrary.domain.errors import TooLarge

MAX_URL_BYTES = 32_768
MAX_HEADER_BYTES = 65_536


def url_too_long() -> Problem:
    """Return the problem of a URL above the limit."""
    return problem(
        type_of_status(HTTPStatus.REQUEST_URI_TOO_LONG),
        f"The URL is longer than {MAX_URL_BYTES:,} bytes.",
        "Send long texts in the body of a POST request, such as POST /retrieve.",
    )


def headers_too_long() -> Problem:
    """Return the problem of headers above the limit."""
    return problem(
        type_of_status(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE),
        f"The headers are longer than {MAX_HEADER_BYTES:,} bytes in total.",
        "Send shorter headers.",
    )


def too_large() -> TooLarge:
    """Return the error of a body above the limit. Without Content-Length, Starlette finds it while the body is read."""
    return TooLarge("The request body is too large.", "Send less, or raise VLIBRARY_MAX_REQUEST_BYTES on the service.")


class UrlLimit:
    """Answers 414 or 431 to a request whose URL or headers are above the limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
        else:
            await problem_response(found, scope["path"])(scope, receive, send)


def _find(scope: Scope) -> Problem | None:
    url = scope.get("raw_path") or scope["path"].encode()
    if len(url) + len(scope["query_string"]) > MAX_URL_BYTES:
        return url_too_long()
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        return headers_too_long()
    return None


class BodyLimit(RequestBodyLimitMiddleware):
    """Starlette's limit, which answers a Content-Length above it with a problem instead of plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and int(Headers(scope=scope).get("content-length", "0")) > self.max_body_size:
            await problem_response(problem_of(too_large()), scope["path"])(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
