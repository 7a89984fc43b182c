"""What routes declare of their answers in the OpenAPI document: errors, headers, streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlibrary.api.http.errors import MEDIA_TYPE, RETRY_AFTER_S
from vlibrary.api.http.etags import SEQ_HEADER

_MEANING = {
    400: "The body or a header cannot be read",
    404: "There is no such vector, alias or model",
    409: "It does not fit what the library holds now; with Retry-After: the same idempotency key is still at work",
    412: "It was changed since, or is there already: read it again and decide anew",
    413: "The body is larger than the service takes",
    422: "The request cannot be used as it is; detail and cure say why",
    428: "If-Match (or If-None-Match) must say which revision is changed",
    429: "More requests than the service takes; try again after Retry-After seconds",
    500: "A registered vector's bytes are missing or damaged, or an unforeseen error",
    503: "A store or worker cannot answer now; try again after Retry-After seconds",
    504: "The answer was not ready in time",
}

_TEXT, _ADDRESS, _NUMBER = {"type": "string"}, {"type": "string", "format": "uri-reference"}, {"type": "integer"}
_HEADERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Cache-Control": ("Not to be kept by anybody on the way", _TEXT),
    "Content-Disposition": ("The name under which a browser saves it", _TEXT),
    "Content-Location": ("The address that never means another vector", _ADDRESS),
    "ETag": ("What If-Match and If-None-Match take", _TEXT | {"pattern": '^"[!-~]+"$'}),
    "Location": ("Where it is", _ADDRESS),
    "Repr-Digest": ("The sha256 of the bytes (RFC 9530)", _TEXT | {"pattern": "^sha-256=:.{44}:$"}),
    "Retry-After": ("Seconds to wait before the next try", _NUMBER | {"examples": [RETRY_AFTER_S]}),
    "X-Accel-Buffering": ("Tells nginx to hand on what comes as it comes", _TEXT),
    SEQ_HEADER: ("Place in the change log: min_seq of a later search", _NUMBER | {"minimum": 0}),
}
# A 409 has it only while the same idempotency key is at work.
_WAITS = {409: False, 429: True, 503: True}


def carries(*names: str, always: bool = True) -> dict[str, Any]:
    """The part of an OpenAPI response that declares these headers. always: every such answer has them."""
    declared = {
        name: {"description": _HEADERS[name][0], "required": always, "schema": _HEADERS[name][1]} for name in names
    }
    return {"headers": declared}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, all problem+json."""
    reference = {"$ref": "#/components/schemas/ProblemOut"}
    content = {MEDIA_TYPE: {"schema": reference}}
    return {
        status: {"description": _MEANING[status], "content": content}
        | (carries("Retry-After", always=_WAITS[status]) if status in _WAITS else {})
        for status in statuses
    }


def streamed(description: str, events: dict[str, Any], example: str) -> dict[str, Any]:
    """OpenAPI response that comes whole as JSON, or as an event stream when the request says so.

    events: schema of one event, as OpenAPI 3.2 describes streams (FastAPI writes the same into its 3.1 documents).
    """
    content = {"text/event-stream": {"itemSchema": events, "example": example}}
    # Only the stream has them.
    return {"description": description, "content": content} | carries(
        "Cache-Control", "X-Accel-Buffering", always=False
    )


def event(name: str, schema: str) -> dict[str, Any]:
    """Schema of an event of this name, whose data is this schema's JSON."""
    content = {"$ref": f"#/components/schemas/{schema}"}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    return {"type": "object", "required": ["event", "data"], "properties": {"event": {"const": name}, "data": data}}
