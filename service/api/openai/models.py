"""OpenAI's response bodies for models: base models, their steering modes, and vectors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from vlibrary.library.model_names import NamedModel
from vlibrary.schemas.examples import NAMED_EXAMPLE, examples
from vlibrary.schemas.vectors import NamedOut, identify

_BASE: dict[str, Any] = {
    "id": "vlibrary/bundled-llava",
    "object": "model",
    "created": 0,
    "owned_by": "vlibrary",
    "root": "vlibrary/bundled-llava",
    "parent": None,
    "max_model_len": 1024,
    "vector": None,
}
_VECTOR = _BASE | {
    "id": "colour-code@production",
    "created": 1_795_000_000,
    "parent": "vlibrary/bundled-llava",
    "vector": NAMED_EXAMPLE,
}


class ChatModelOut(BaseModel):
    """A model that requests can name. `root`, `parent` and `max_model_len` are those of vLLM."""

    model_config = examples(_BASE, _VECTOR)

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of the vector's registration; 0 for a base model")
    owned_by: Literal["vlibrary"] = "vlibrary"
    root: str = Field(description="Id of the base model, or of the query embedder")
    parent: str | None = Field(description="Id of the base model, for a vector")
    max_model_len: int | None = Field(
        description="The most tokens of a prompt and its answer; null for the query embedder"
    )
    vector: NamedOut | None = Field(description="The vector that the name refers to")

    @classmethod
    def of(cls, model: NamedModel) -> ChatModelOut:
        vector, base = model.vector, model.base.model.model_id
        return cls(
            id=model.name,
            created=0 if vector is None else int(vector.created_at.timestamp()),
            root=model.name if model.embeds else base,
            parent=None if vector is None else base,
            max_model_len=None if model.embeds else model.base.context_length,
            vector=None if vector is None else NamedOut(**identify(vector)),
        )


class ChatModelsOut(BaseModel):
    """A page of the models that requests can name."""

    model_config = examples(
        {
            "object": "list",
            "data": [_BASE, _VECTOR],
            "first_id": "vlibrary/bundled-llava",
            "last_id": "colour-code@production",
            "has_more": False,
        }
    )

    object: Literal["list"] = "list"
    data: list[ChatModelOut]
    first_id: str | None
    last_id: str | None = Field(description="Send it as `after` to get the next page")
    has_more: bool

    @classmethod
    def of(cls, models: list[ChatModelOut], *, has_more: bool) -> ChatModelsOut:
        ids = [model.id for model in models]
        return cls(data=models, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)
