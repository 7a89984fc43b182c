"""The only place that knows which HTTP status an error of ours has; every error leaves as problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from service.domain import errors

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5

# The nearest ancestor in this table decides; a new error class without one fails a test.
STATUS: Mapping[type[errors.VLibraryError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.InProgress: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TimedOut: HTTPStatus.GATEWAY_TIMEOUT,
    errors.ArtifactLost: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UnsupportedModel: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: errors.VLibraryError) -> HTTPStatus:
    """The status of the error's nearest ancestor in STATUS."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(status: int, slug: str, title: str, detail: str, cure: str, **more: Any) -> JSONResponse:
    """A problem document; `type` is a path that /docs describes, `cure` says what to do."""
    body = {"type": f"/problems/{slug}", "title": title, "status": int(status), "detail": detail, "cure": cure} | more
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status in (409, 429, 503) else None
    return JSONResponse(body, status_code=int(status), media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Give the app its handlers: ours, FastAPI's validation, plain HTTP errors, and the unforeseen."""
    app.add_exception_handler(errors.VLibraryError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unforeseen)


def from_error(error: errors.VLibraryError) -> JSONResponse:
    """One of our errors as a problem document."""
    return problem(status_of(error), error.slug, error.title, error.detail, error.cure)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.VLibraryError)
    if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error(
            "api.failed", path=request.url.path, problem=error.slug, detail=error.detail, cause=repr(error.__cause__)
        )
    return from_error(error)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [{"pointer": "/".join(map(str, ("", *entry["loc"]))), "detail": entry["msg"]} for entry in error.errors()]
    detail = "; ".join(f"{entry['pointer']}: {entry['detail']}" for entry in found[:5])
    cure = "Mend the fields named in errors; /docs shows every request with an example."
    return problem(422, "invalid-request", "The request does not fit the API", detail, cure, errors=found)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    phrase = HTTPStatus(error.status_code).phrase
    cure = "See /docs for the paths, methods and bodies that this service knows."
    answer = problem(
        error.status_code,
        phrase.lower().replace(" ", "-"),
        phrase,
        f"{request.method} {request.url.path}: {error.detail}",
        cure,
    )
    answer.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        answer.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return answer


def _methods(request: Request) -> set[str]:
    """All methods of the path; Starlette's own Allow names those of one route only."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    return {
        method
        for route in routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }


async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    log.error("api.unforeseen", path=request.url.path, exc_info=error)
    return problem(
        500,
        "unforeseen",
        "The service failed in an unforeseen way",
        "The request met an error that nobody foresaw; the log has it.",
        "Try again; if it stays, report it with the service's log.",
    )
