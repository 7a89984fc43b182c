"""Problem documents (RFC 9457): the table of problem types, and how errors become problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.responses import JSONResponse

from vlibrary.domain import errors
from vlibrary.http_common import status_of

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
OPENAI_PREFIX = "/v1/"
_OPENAI_TYPES = {429: "rate_limit_error", 404: "not_found_error"}

Problem = dict[str, Any]


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem, documented at /problems/{code}."""

    code: str
    title: str
    status: int

    @property
    def address(self) -> str:
        """The problem's `type`: the path of the page that documents it."""
        return f"/problems/{self.code}"


INVALID_REQUEST = ProblemType(errors.ErrorCode.INVALID_REQUEST, "The request does not match the API", 422)
UNFORESEEN = ProblemType(errors.ErrorCode.UNFORESEEN, "Unexpected error", 500)


def type_of_error(error: errors.VLibraryError) -> ProblemType:
    """Return the problem type of an error."""
    return ProblemType(error.code, error.title, int(status_of(error)))


def type_of_status(status: int) -> ProblemType:
    """Return the problem type for a bare HTTP status. Raises ValueError for an unknown status."""
    return PROBLEM_TYPES[_bare_type(HTTPStatus(status)).code]


def _bare_type(status: HTTPStatus) -> ProblemType:
    return ProblemType(status.phrase.lower().replace(" ", "-").replace("'", ""), status.phrase, int(status))


def _all_types() -> dict[str, ProblemType]:
    bare = [_bare_type(status) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind is not errors.VLibraryError]
    ours = [type_of_error(kind("", "")) for kind in kinds if issubclass(kind, errors.VLibraryError)]
    # Ours override the bare ones: a bare 404 has the title of NotFound.
    return {found.code: found for found in (*bare, INVALID_REQUEST, UNFORESEEN, *ours)}


PROBLEM_TYPES: Mapping[str, ProblemType] = _all_types()


def problem(kind: ProblemType, detail: str, cure: str, **more: Any) -> Problem:
    """Return a problem document. detail: what is wrong; cure: what to do about it."""
    return {"type": kind.address, "title": kind.title, "status": kind.status, "detail": detail, "cure": cure} | more


def problem_of(error: errors.VLibraryError) -> Problem:
    """Return the error as a problem document."""
    return problem(type_of_error(error), error.detail, error.cure)


def report(path: str, error: Exception) -> Problem:
    """Return the error as a problem document, and log it if it is the service's fault."""
    if not isinstance(error, errors.VLibraryError):
        log.error("api.unexpected_error", path=path, exc_info=error)
        return problem(
            UNFORESEEN,
            "Unexpected error; see the service log.",
            "Try again; if the error persists, report it together with the service log.",
        )
    if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("api.request_failed", path=path, problem=error.code, detail=error.detail, cause=repr(error.__cause__))
    return problem_of(error)


def problem_response(found: Problem, path: str) -> JSONResponse:
    """Return the problem as the response to a request for this path."""
    status = found["status"]
    retryable = status in (429, 503) or found["type"] == f"/problems/{errors.InProgress.code}"
    headers = {"Retry-After": str(RETRY_AFTER_S)} if retryable else None
    body = found | {"error": openai_error(found)} if path.startswith(OPENAI_PREFIX) else found
    return JSONResponse(body, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def openai_error(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the problem as OpenAI's `error` object; `param` is the first invalid field."""
    status: int = found["status"]
    default = "server_error" if status >= 500 else "invalid_request_error"
    invalid: list[dict[str, str]] = found.get("errors") or [{"pointer": ""}]
    return {
        "message": f"{found['detail']} {found['cure']}",
        "type": _OPENAI_TYPES.get(status, default),
        "code": found["type"].rpartition("/")[2].replace("-", "_"),
        "param": invalid[0]["pointer"].removeprefix("/body").strip("/").replace("/", ".") or None,
    }
