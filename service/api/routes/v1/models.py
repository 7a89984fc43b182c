"""The models that OpenAI clients can name: base models, their steering modes, and vectors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from vlibrary.api.http.deps import LibraryDep
from vlibrary.api.http.responses import problems
from vlibrary.api.openai.models import ChatModelOut, ChatModelsOut
from vlibrary.library.model_names import find_embedder, find_model, list_models
from vlibrary.schemas.generate import MAX_MODEL_NAME

router = APIRouter(prefix="/v1/models", tags=["OpenAI"])

_MAX_PAGE = 1_000


class ModelsQuery(BaseModel):
    """Query parameters of the list."""

    limit: int = Field(default=_MAX_PAGE, ge=1, le=_MAX_PAGE, description="Models per page")
    after: str | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="Return the models after this one: `last_id` of a page"
    )


@router.get("", operation_id="list_chat_models", summary="List models in OpenAI's format", responses=problems(400, 503))
def get_models(library: LibraryDep, query: Annotated[ModelsQuery, Query()]) -> ChatModelsOut:
    """Returns each served base model with `base:auto` and `base:off`, the vectors that have an alias, and the embedder.

    Each `id` can be the `model` of a request, that of the embedder one of `POST /v1/embeddings`; and so can any other
    reference to a vector. `GET /models` has more about the base models.
    """
    embedder = find_embedder(library)
    if query.after == embedder.name:
        return ChatModelsOut.of([], has_more=False)
    found, more = list_models(library, after=query.after, limit=query.limit)
    if len(found) < query.limit:
        found = [*found, embedder]
    else:
        more = True
    return ChatModelsOut.of(list(map(ChatModelOut.of, found)), has_more=more)


@router.get(
    "/{model_id:path}",
    operation_id="get_chat_model",
    summary="Get a model in OpenAI's format",
    responses=problems(400, 404, 503),
)
def get_model(
    model_id: Annotated[
        str,
        Path(
            max_length=MAX_MODEL_NAME,
            description="A base model, `base:auto` or `base:off`, a reference to a vector, or the query embedder; may "
            "contain slashes",
        ),
    ],
    library: LibraryDep,
) -> ChatModelOut:
    """Returns what the name stands for, or 404."""
    embedder = find_embedder(library)
    return ChatModelOut.of(embedder if model_id == embedder.name else find_model(model_id, library))
