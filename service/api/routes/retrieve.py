"""Find the vectors that fit a query."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool

from service.api.bodies import body_docs, read_body
from service.api.deps import Ports, UseLimits, UsePorts
from service.api.fields import MAX_TEXT
from service.api.responses import problems
from service.api.schemas import MatchOut, RetrieveIn, RetrieveOut
from service.domain import query as domain
from service.library.retrieve import retrieve

router = APIRouter(prefix="/retrieve", tags=["retrieve"])


@router.get(
    "",
    operation_id="retrieve_by_text",
    summary="Find vectors by text",
    responses=problems(404, 422, 429, 503),
)
def by_text(
    ports: UsePorts,
    query: Annotated[str, Query(max_length=MAX_TEXT, description="The question", examples=["Which hue?"])],
    k: Annotated[int, Query(description="How many vectors, 1 to 100")] = 5,
    model: Annotated[str | None, Query(max_length=512, description="Id of the base model")] = None,
) -> RetrieveOut:
    """The best vectors for a question without an image. `accepted` tells which are near enough to be applied."""
    return _find(ports, domain.Query(text=query), k, model)


@router.post(
    "",
    operation_id="retrieve",
    summary="Find vectors by text, image or both",
    responses=problems(400, 404, 413, 422, 429, 503),
    openapi_extra=body_docs(RetrieveIn, name="RetrieveIn"),
)
async def by_query(request: Request, ports: UsePorts, limits: UseLimits) -> RetrieveOut:
    """As JSON with base64 images, or as a form with uploaded ones."""
    body = await read_body(request, RetrieveIn, limits)
    query = domain.Query(text=body.text, images=tuple(body.images))
    return await run_in_threadpool(_find, ports, query, body.k, body.model)


def _find(ports: Ports, query: domain.Query, k: int, model: str | None) -> RetrieveOut:
    matches = retrieve(query, k=k, model_id=model, catalogue=ports.catalogue, index=ports.index, worker=ports.worker)
    return RetrieveOut(
        model=ports.worker.find(model).model.model_id,
        modality=query.modality,
        matches=[MatchOut.of(match) for match in matches],
    )
