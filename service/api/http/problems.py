"""Problem documents (RFC 9457): the table of problem types, and how errors become problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi.responses import JSONResponse

from vlibrary.api.http.invalid_fields import field_name
from vlibrary.api.http.middleware.request_id import current_request_id
from vlibrary.domain import errors
from vlibrary.http_common import status_of

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
OPENAI_PREFIX = "/v1/"
# OpenAI's codes of pydantic's errors; the last two are raised by the schemas of /v1.
_OPENAI_FIELD_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "unsupported_value": "unsupported_value",
    "unsupported_parameter": "unsupported_parameter",
}
_OPENAI_CODES = {
    errors.PromptTooLong.code: "context_length_exceeded",
    errors.ErrorCode.INVALID_REQUEST: "invalid_value",
    errors.InvalidInput.code: "invalid_value",
}
# The field that an error is about if it names none: the prompt of each endpoint.
_OPENAI_PROMPTS = {"/v1/chat/completions": "messages", "/v1/completions": "prompt"}
_OPENAI_FIELDS = {errors.ModelNotFound.code: "model"}
# Where each endpoint has the options that errors name; under /v1, the others are fields of the body.
_SCHEMAS = {"/v1/chat/completions": "response_format", "/v1/responses": "text/format"}
_ABOUT_PROMPT = {errors.PromptTooLong.code, errors.InvalidImage.code, errors.InvalidQuery.code}

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
    """Return the error as a problem document of this request, and log it if it is the service's fault."""
    if not isinstance(error, errors.VLibraryError):
        log.error("api.unexpected_error", path=path, exc_info=error)
        cure = "Try again; if the error persists, report it together with the service log."
        return problem(UNFORESEEN, "Unexpected error; see the service log.", cure, **_request_id())
    if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        log.error("api.request_failed", path=path, problem=error.code, detail=error.detail, cause=repr(error.__cause__))
    return problem_of(error) | _named_field(error, path) | _request_id()


def _named_field(error: errors.VLibraryError, path: str) -> Problem:
    """Return the member `errors` for an error that names an option of the request."""
    if error.field is None:
        return {}
    place = (_SCHEMAS if error.field == "json_schema" else {}).get(path, error.field)
    inside = "" if path.startswith(OPENAI_PREFIX) else "/decoding"
    return {"errors": [{"pointer": f"/body{inside}/{place}", "detail": error.detail}]}


def is_retryable(found: Problem) -> bool:
    """Return whether the same request may succeed later."""
    return found["status"] in (429, 503) or found["type"] == f"/problems/{errors.InProgress.code}"


def problem_response(found: Problem, path: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the problem as the response to a request for this path."""
    status = found["status"]
    found = found | _request_id()
    if path.startswith(OPENAI_PREFIX):
        status = 400 if status == HTTPStatus.UNPROCESSABLE_ENTITY else status
        found = found | {"status": status, "error": openai_error(found, path)}
    return JSONResponse(found, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _request_id() -> dict[str, str]:
    found = current_request_id()
    return {"request_id": found} if found else {}


def openai_field_code(kind: str) -> str:
    """Return OpenAI's code of an invalid field. kind: pydantic's error type."""
    return _OPENAI_FIELD_CODES.get(kind) or ("invalid_type" if kind.endswith("_type") else "invalid_value")


def openai_error(found: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the problem as OpenAI's `error` object; `param` is the invalid field of the body, as in `messages.0.role`.

    path: of the request.
    """
    status: int = found["status"]
    code = found["type"].rpartition("/")[2]
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        kind = "rate_limit_error"
    else:
        kind = "server_error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "invalid_request_error"
    first: dict[str, str] = next(iter(found.get("errors") or ()), {"pointer": ""})
    prompt = _OPENAI_PROMPTS.get(path, "input") if code in _ABOUT_PROMPT else None
    param = field_name(first["pointer"]) or _OPENAI_FIELDS.get(code) or prompt
    return {
        "message": f"{found['detail']} {found['cure']}",
        "type": kind,
        "param": param,
        "code": first.get("code") or _OPENAI_CODES.get(code) or code.replace("-", "_"),
    }
