"""Problem documents, the bodies of all errors."""

from __future__ import annotations

from pydantic import BaseModel, Field

from vlibrary.schemas.examples import examples


class ProblemOut(BaseModel):
    """An error as a problem document (RFC 9457)."""

    model_config = examples(
        {
            "type": "/problems/vector-not-found",
            "title": "There is no such vector",
            "status": 404,
            "detail": "There is no vector 'x'.",
            "cure": "GET /vectors lists the ids.",
        }
    )

    type: str = Field(description="Path of the page that documents this kind of problem")
    title: str
    status: int = Field(description="HTTP status")
    detail: str = Field(description="What is wrong with this request; its wording may change")
    cure: str = Field(description="How to fix the request or the service")
    request_id: str | None = Field(default=None, description="The request's `X-Request-Id`, also in the service's log")
    errors: list[dict[str, str]] | None = Field(
        default=None, description="Invalid fields, each with pointer and detail"
    )
    error: dict[str, str | None] | None = Field(
        default=None, description="Under /v1 only: the error in OpenAI's format"
    )


class ProblemTypeOut(BaseModel):
    """A kind of problem."""

    model_config = examples(
        {
            "type": "/problems/vector-not-found",
            "title": "There is no such vector",
            "status": 404,
            "description": "There is no such vector.",
        }
    )

    type: str
    title: str
    status: int
    description: str
