"""Exception handlers: every error leaves the API as a problem document."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from vlibrary.api.http.invalid_fields import MAX_ERRORS, MAX_FIELDS, invalid_fields
from vlibrary.api.http.middleware.size_limits import too_large
from vlibrary.api.http.problems import (
    INVALID_REQUEST,
    OPENAI_PREFIX,
    Problem,
    is_retryable,
    openai_field_code,
    problem,
    problem_of,
    problem_response,
    report,
    type_of_status,
)
from vlibrary.api.http.retry_after import RetryAfter, retry_headers
from vlibrary.domain.errors import VLibraryError

# nginx's status for a client that closed the connection; it shows in the metrics only.
CLIENT_CLOSED_REQUEST = 499
# Invalid fields named in `detail`; `errors` lists up to MAX_FIELDS.
MAX_SHOWN = 5


def install_handlers(app: FastAPI) -> None:
    """Add the exception handlers to the app."""
    app.add_exception_handler(VLibraryError, _handle_error)
    app.add_exception_handler(Exception, _handle_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid_request)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(ClientDisconnect, _handle_disconnect)


async def _handle_error(request: Request, error: Exception) -> JSONResponse:
    found = report(request.url.path, error)
    return problem_response(found, request.url.path, _retry_headers(request, found))


def _retry_headers(request: Request, found: Problem) -> dict[str, str]:
    if not is_retryable(found):
        return {}
    estimator: RetryAfter = request.app.state.admission.retry_after
    is_full = found["status"] == HTTPStatus.TOO_MANY_REQUESTS
    return retry_headers(estimator.estimate(asyncio.get_running_loop().time()) if is_full else estimator.default())


async def _handle_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _handle_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = invalid_fields(error.errors(), error.body)
    shown = [f"{field.pointer}: {field.detail}" for field in found[:MAX_SHOWN]]
    more = len(found) - MAX_SHOWN
    at_least = "at least " if len(error.errors()) > MAX_ERRORS else ""
    detail = "; ".join(shown) + (f"; and {at_least}{more} more." if more > 0 else ".")
    cure = "Fix the fields listed in `errors`; see /docs for examples."
    entries = [{"pointer": field.pointer, "detail": field.detail} for field in found[:MAX_FIELDS]]
    if request.url.path.startswith(OPENAI_PREFIX):
        entries = [
            entry | {"code": openai_field_code(field.kind)} for entry, field in zip(entries, found, strict=False)
        ]
    return problem_response(problem(INVALID_REQUEST, detail, cure, errors=entries), request.url.path)


async def _handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allowed = {}
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = {"Allow": ", ".join(sorted(_allowed_methods(request)))}
        if request.method == "OPTIONS":
            return Response(status_code=HTTPStatus.NO_CONTENT, headers=allowed)
    if error.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return problem_response(problem_of(too_large()), request.url.path)
    detail = f"{request.method} {request.url.path}: {error.detail}."
    cure = "See /docs for the available paths, methods and bodies."
    if allowed:
        cure = f"Use one of the methods {allowed['Allow']}."
    response = problem_response(problem(type_of_status(error.status_code), detail, cure), request.url.path)
    response.headers.update(dict(error.headers or {}) | allowed)
    return response


def _allowed_methods(request: Request) -> set[str]:
    """Return all methods of the path; Starlette's own Allow header names those of a single route only."""
    methods = {
        method
        for context in iter_route_contexts(request.app.routes)
        if isinstance(route := context.original_route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    } or {"GET"}  # of static files, which are not routes
    return methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
