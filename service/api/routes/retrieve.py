"""Find the vectors that fit a query."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request

from vlibrary.api.http.bodies import body_docs, read_body
from vlibrary.api.http.deps import UseLibrary, UseLimits, UsePlace
from vlibrary.api.http.responses import problems
from vlibrary.domain import query as domain
from vlibrary.domain.ports import Filter
from vlibrary.library.library import Library
from vlibrary.library.retrieve import retrieve
from vlibrary.schemas.fields import MAX_TEXT
from vlibrary.schemas.filters import Conditions, FilterIn, Name, Tags
from vlibrary.schemas.vectors import MIN_SEQ, MatchOut, RetrieveIn, RetrieveOut

router = APIRouter(prefix="/retrieve", tags=["retrieve"])


@router.get(
    "",
    operation_id="retrieve_by_text",
    summary="Find vectors by text",
    responses=problems(404, 409, 422, 429, 503, 504),
)
async def by_text(
    place: UsePlace,
    library: UseLibrary,
    limits: UseLimits,
    query: Annotated[str, Query(max_length=MAX_TEXT, description="The question", examples=["Which hue?"])],
    k: Annotated[int, Query(description="How many vectors, 1 to 100")] = 5,
    model: Annotated[str | None, Query(max_length=512, description="Id of the base model")] = None,
    name: Annotated[Name, Query()] = None,
    tag: Annotated[Tags, Query()] = [],  # noqa: B006  FastAPI copies defaults
    metadata: Annotated[Conditions, Query()] = [],  # noqa: B006  FastAPI copies defaults
    min_seq: Annotated[int, Query(ge=0, lt=2**53, description=MIN_SEQ)] = 0,
) -> RetrieveOut:
    """The best vectors for a question without an image. `accepted` tells which are near enough to be applied."""
    among = FilterIn(name=name, tags=tag, metadata=metadata).filter()
    find = partial(_find, library, domain.Query(text=query), k, model, among, min_seq)
    return await place.asked(find, limits.timeout_s)


@router.post(
    "",
    operation_id="retrieve",
    summary="Find vectors by text, image or both",
    responses=problems(400, 404, 409, 413, 422, 429, 503, 504),
    openapi_extra=body_docs(RetrieveIn, name="RetrieveIn"),
)
async def by_query(request: Request, place: UsePlace, library: UseLibrary, limits: UseLimits) -> RetrieveOut:
    """As JSON with base64 images, or as a form with uploaded ones."""
    async with place.within(limits.timeout_s):
        body = await read_body(request, RetrieveIn, limits)
    query = domain.Query(text=body.text, images=tuple(body.images))
    find = partial(_find, library, query, body.k, body.model, body.filter.filter(), body.min_seq)
    return await place.asked(find, limits.timeout_s)


def _find(
    library: Library, query: domain.Query, k: int, model: str | None, among: Filter | None, min_seq: int
) -> RetrieveOut:
    matches = retrieve(
        query,
        k=k,
        model_id=model,
        library=library,
        among=among,
        min_seq=min_seq,
    )
    return RetrieveOut(
        model=library.worker.find(model).model.model_id,
        modality=query.modality,
        matches=[MatchOut.of(match) for match in matches],
    )
