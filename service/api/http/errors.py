"""Every error leaves the api as problem+json (RFC 9457), with the status that service/http_common.py gives it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Route

from vlibrary.api.http.openai_error import PREFIX, error_object
from vlibrary.api.http.problem_types import INVALID_REQUEST, UNFORESEEN, ProblemType, of_error, of_status
from vlibrary.domain import errors
from vlibrary.http_common import status_of

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
# Nobody reads this answer; the number is nginx's, and shows in the metrics.
CLIENT_GONE = 499

Problem = dict[str, Any]


def problem(kind: ProblemType, detail: str, cure: str, **more: Any) -> Problem:
    """A problem document; `type` is the path of a page that explains it, `cure` says what to do."""
    return {"type": kind.address, "title": kind.title, "status": kind.status, "detail": detail, "cure": cure} | more


def problem_of(error: errors.VLibraryError) -> Problem:
    """One of our errors as a problem document."""
    return problem(of_error(error), error.detail, error.cure)


def unforeseen(path: str, error: Exception) -> Problem:
    """What is told of an error that nobody foresaw; the log gets the rest."""
    log.error("api.unforeseen", path=path, exc_info=error)
    return problem(
        UNFORESEEN,
        "The request met an error that nobody foresaw; the log has it.",
        "Try again; if it stays, report it with the service's log.",
    )


def foreseen(path: str, error: errors.VLibraryError) -> Problem:
    """`problem_of`, and a line in the log when the fault is the service's."""
    if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("api.failed", path=path, problem=error.code, detail=error.detail, cause=repr(error.__cause__))
    return problem_of(error)


def problem_response(found: Problem, path: str) -> JSONResponse:
    """The problem as an answer to a request for this path."""
    status = found["status"]
    passing = status in (429, 503) or found["type"] == f"/problems/{errors.InProgress.code}"
    headers = {"Retry-After": str(RETRY_AFTER_S)} if passing else None
    body = found | {"error": error_object(found)} if path.startswith(PREFIX) else found
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def install(app: FastAPI) -> None:
    """Give the app its handlers: ours, FastAPI's validation, plain HTTP errors, and the unforeseen."""
    app.add_exception_handler(errors.VLibraryError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _unforeseen)


async def _ours(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.VLibraryError)
    return problem_response(foreseen(request.url.path, error), request.url.path)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = [{"pointer": "/".join(map(str, ("", *entry["loc"]))), "detail": entry["msg"]} for entry in error.errors()]
    detail = "; ".join(f"{entry['pointer']}: {entry['detail']}" for entry in found[:5]) + "."
    cure = "Mend the fields named in errors; /docs shows every request with an example."
    return problem_response(problem(INVALID_REQUEST, detail, cure, errors=found), request.url.path)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    cure = "See /docs for the paths, methods and bodies that this service knows."
    detail = f"{request.method} {request.url.path}: {error.detail}"
    told = problem_response(problem(of_status(error.status_code), detail, cure), request.url.path)
    told.headers.update(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told.headers["Allow"] = ", ".join(sorted(_methods(request)))
    return told


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
    return problem_response(unforeseen(request.url.path, error), request.url.path)
