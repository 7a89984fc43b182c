"""Find vectors that match a query."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from vlibrary.api.http.bodies import json_or_form_docs, read_json_or_form
from vlibrary.api.http.deps import NO_PARAMETERS, STRICT_QUERY, LibraryDep, LimitsDep, ScopeDep
from vlibrary.api.http.responses import problems
from vlibrary.domain import query as domain
from vlibrary.domain.filters import Filter
from vlibrary.library.library import Library
from vlibrary.library.retrieve import MAX_K, retrieve
from vlibrary.schemas.fields import MAX_TEXT, NOT_BLANK
from vlibrary.schemas.filters import Conditions, FilterIn, Name, Tags
from vlibrary.schemas.vectors import MIN_SEQ, MODEL, K, RetrieveIn, RetrieveOut

router = APIRouter(prefix="/retrieve", tags=["retrieve"], dependencies=[STRICT_QUERY])


class RetrieveQuery(BaseModel):
    """A text query as query parameters."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(
        max_length=MAX_TEXT, description="The question", examples=["Which hue?"], json_schema_extra=NOT_BLANK
    )
    k: int = Field(default=5, ge=1, le=MAX_K, description=K)
    model: str | None = Field(default=None, max_length=512, description=MODEL)
    name: Name = None
    tag: Tags = Field(default_factory=list)
    metadata: Conditions = Field(default_factory=list)
    min_seq: int = Field(default=0, ge=0, lt=2**53, description=MIN_SEQ)


@router.get(
    "",
    operation_id="retrieve_by_text",
    summary="Find vectors by text",
    responses=problems(404, 409, 422, 429, 503, 504),
)
async def retrieve_by_text(
    scope: ScopeDep, library: LibraryDep, query: Annotated[RetrieveQuery, Query()]
) -> RetrieveOut:
    """Returns the best matches for a question without images, and what `auto` does with it: see POST /retrieve."""
    among = FilterIn(name=query.name, tags=query.tag, metadata=query.metadata).filter()
    text = domain.Query(text=query.query)
    return await scope.run_in_thread(partial(_retrieve, library, text, query.k, query.model, among, query.min_seq))


@router.post(
    "",
    operation_id="retrieve",
    summary="Find vectors by text, images or both",
    dependencies=[NO_PARAMETERS],
    responses=problems(400, 404, 409, 413, 422, 429, 503, 504),
    openapi_extra=json_or_form_docs(RetrieveIn),
)
async def retrieve_by_query(request: Request, scope: ScopeDep, library: LibraryDep, limits: LimitsDep) -> RetrieveOut:
    """Returns the best matches for a query, and what `auto` does with it.

    Send JSON with base64 images, or a form with uploaded ones."""
    async with scope.deadline():
        body = await read_json_or_form(request, RetrieveIn, limits.card_bytes)
    query = domain.Query(text=body.text, images=tuple(body.images))
    among = body.filter.filter()
    return await scope.run_in_thread(partial(_retrieve, library, query, body.k, body.model, among, body.min_seq))


def _retrieve(
    library: Library, query: domain.Query, k: int, model: str | None, among: Filter | None, min_seq: int
) -> RetrieveOut:
    found = retrieve(
        query,
        k=k,
        model_id=model,
        library=library,
        among=among,
        min_seq=min_seq,
    )
    return RetrieveOut.of(found, library.worker.find(model).model.model_id, query.modality)
