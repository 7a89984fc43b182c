"""The error answers that routes declare in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.api.errors import MEDIA_TYPE

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


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, all problem+json."""
    reference = {"$ref": "#/components/schemas/ProblemOut"}
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": reference}}} for status in statuses
    }


def streamed(description: str, events: dict[str, Any], example: str) -> dict[str, Any]:
    """OpenAPI response that comes whole as JSON, or as an event stream when the request says so.

    events: schema of one event, as OpenAPI 3.2 describes streams (FastAPI writes the same into its 3.1 documents).
    """
    return {"description": description, "content": {"text/event-stream": {"itemSchema": events, "example": example}}}


def event(name: str, schema: str) -> dict[str, Any]:
    """Schema of an event of this name, whose data is this schema's JSON."""
    content = {"$ref": f"#/components/schemas/{schema}"}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": content}
    return {"type": "object", "required": ["event", "data"], "properties": {"event": {"const": name}, "data": data}}
