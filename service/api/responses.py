"""The error answers that routes declare in the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.api.errors import MEDIA_TYPE

_MEANING = {
    400: "The body or a header cannot be read",
    404: "There is no such vector or model",
    409: "The same idempotency key is still at work",
    413: "The body is larger than the service takes",
    422: "The request cannot be used as it is; detail and cure say why",
    500: "A registered vector's bytes are missing or damaged, or an unforeseen error",
    503: "A store or worker cannot answer now; try again after Retry-After seconds",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses for these statuses, all problem+json."""
    reference = {"$ref": "#/components/schemas/ProblemOut"}
    return {
        status: {"description": _MEANING[status], "content": {MEDIA_TYPE: {"schema": reference}}} for status in statuses
    }
