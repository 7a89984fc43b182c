"""OpenAPI descriptions of responses: errors, headers and event streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlibrary.api.http.middleware.answer_headers import REASON_HEADER, VECTORS_HEADER
from vlibrary.api.http.problems import MEDIA_TYPE

SEQ_HEADER = "X-Catalogue-Seq"

_MEANING = {
    400: "The body or a header is malformed",
    404: "The vector, alias or model does not exist",
    408: "The body arrives too slowly",
    409: "The request conflicts with the library's current state. With `Retry-After`: a request with the same "
    "idempotency key is still in progress",
    412: "The resource has changed or already exists. Read it again before you retry",
    413: "The body is too large",
    414: "The URL is too long",
    415: "The body has an encoding other than gzip or deflate",
    422: "The request is invalid; `detail` says what is wrong and `cure` what to do",
    428: "`If-Match` (or `If-None-Match`) is required",
    429: "Too many requests in progress; retry after `Retry-After` seconds",
    500: "A vector's artifact is missing or corrupt, or an unexpected error occurred",
    503: "A store or worker is unavailable; retry after `Retry-After` seconds",
    504: "The request did not finish by its deadline",
}

_TEXT, _ADDRESS, _NUMBER = {"type": "string"}, {"type": "string", "format": "uri-reference"}, {"type": "integer"}
_HEADERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "Cache-Control": ("Caching directive for proxies and clients", _TEXT),
    "Content-Disposition": ("File name for downloads", _TEXT),
    "Content-Location": ("Permanent URL of the vector that the reference resolved to", _ADDRESS),
    "ETag": ("Entity tag for `If-Match` and `If-None-Match`", _TEXT | {"pattern": '^"[!-~]+"$'}),
    "Location": ("URL of the resource", _ADDRESS),
    "Repr-Digest": ("SHA-256 digest of the content (RFC 9530)", _TEXT | {"pattern": "^sha-256=:.{44}:$"}),
    "Retry-After": ("Seconds to wait before retrying, estimated from the requests in progress", _NUMBER),
    "Retry-After-Ms": ("The same in milliseconds, without rounding", _NUMBER),
    "X-Accel-Buffering": ("Disables response buffering in nginx", _TEXT),
    VECTORS_HEADER: (
        'Vectors applied to the answer, as a structured field: `"name:version";id="…";sha256="…";score="…";'
        'strength="…"`, separated by commas; no score if the request named the vector',
        _TEXT,
    ),
    REASON_HEADER: ("Reason code if no vector was applied; several codes for several prompts", _TEXT),
    SEQ_HEADER: (
        "Change-log sequence number of the write; pass it as `min_seq` to later searches",
        _NUMBER | {"minimum": 0},
    ),
}
# Whether the status always comes with Retry-After; a 409 does only while the same idempotency key is in progress.
_RETRY_AFTER = {409: False, 429: True, 503: True}


def headers(*names: str, always: bool = True) -> dict[str, Any]:
    """Return the part of an OpenAPI response that declares these headers. always: every such response has them."""
    declared = {
        name: {"description": _HEADERS[name][0], "required": always, "schema": _HEADERS[name][1]} for name in names
    }
    return {"headers": declared}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI responses for these statuses, all problem+json."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemOut"}}}
    return {
        status: {"description": _MEANING[status], "content": content}
        | (headers("Retry-After", "Retry-After-Ms", always=_RETRY_AFTER[status]) if status in _RETRY_AFTER else {})
        for status in statuses
    }


def json_or_stream(description: str, events: dict[str, Any], example: str) -> dict[str, Any]:
    """Return the OpenAPI response of an answer that is JSON, or an event stream on request.

    events: schema of one event, as OpenAPI 3.2 describes streams (FastAPI writes the same into its 3.1 documents).
    """
    content = {"text/event-stream": {"itemSchema": events, "example": example}}
    # Only the stream has the first two, and an answer has at least one of the other two.
    names = ("Cache-Control", "X-Accel-Buffering", VECTORS_HEADER, REASON_HEADER)
    return {"description": description, "content": content} | headers(*names, always=False)


def event(name: str, schema: str) -> dict[str, Any]:
    """Return the schema of an event with this name, whose data is JSON of this schema."""
    content = {"$ref": f"#/components/schemas/{schema}"}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    return {"type": "object", "required": ["event", "data"], "properties": {"event": {"const": name}, "data": data}}
