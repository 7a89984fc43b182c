"""Amend, delete, restore and purge vectors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import UseLibrary, UseLimits, UsePlace
from vlibrary.api.http.etags import (
    SEQ_HEADER,
    FixedReference,
    IfMatch,
    UseActor,
    asked_revision,
    required_revision,
    revision_etag,
)
from vlibrary.api.http.responses import carries, problems
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.library.amend import Changes, amend
from vlibrary.library.library import Library
from vlibrary.library.references import resolve_fixed
from vlibrary.schemas.registry import AmendIn
from vlibrary.schemas.vectors import VectorOut

router = APIRouter(prefix="/vectors", tags=["vectors"])


@router.patch(
    "/{vector_id}",
    operation_id="amend_vector",
    summary="Change a vector's description, tags and metadata",
    response_model=VectorOut,
    responses={**problems(400, 404, 412, 413, 422, 428, 429, 503, 504), 200: carries("ETag", SEQ_HEADER)},
    openapi_extra=json_docs(AmendIn, name="AmendIn"),
)
async def change(
    vector_id: FixedReference,
    request: Request,
    response: Response,
    place: UsePlace,
    library: UseLibrary,
    limits: UseLimits,
    actor: UseActor,
    if_match: Annotated[
        str | None, Header(max_length=64, description="The ETag that you read", examples=['"v1"'])
    ] = None,
) -> VectorOut:
    """Only what the body names is changed, and only at the revision that `If-Match` names.

    Queries find the vector by its new description at once. The artifact never changes.
    """
    revision = required_revision(if_match)
    async with place.within(limits.timeout_s):
        body = await read_json(request, AmendIn)
    record, seq = await run_in_threadpool(_amend, library, vector_id, body.changes(), revision, actor)
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers[SEQ_HEADER] = str(seq)
    return VectorOut.of(record)


@router.delete(
    "/{vector_id}",
    operation_id="delete_vector",
    summary="Delete a vector, or purge a deleted one",
    status_code=204,
    responses={**problems(404, 409, 412, 422, 503), 204: carries(SEQ_HEADER)},
)
def delete(
    vector_id: FixedReference,
    response: Response,
    library: UseLibrary,
    actor: UseActor,
    if_match: IfMatch = None,
    forever: Annotated[bool, Query(alias="purge", description="Forget a vector that is deleted already")] = False,
) -> None:
    """From now on no query finds it and no answer uses it; POST /vectors/{vector_id}/restore brings it back.

    With `purge=true`, a deleted vector is forgotten for good. A vector that an alias points to is not deleted.
    """
    # Its bytes stay for now: a running answer may still need them, and a mistake can be undone.
    remove = library.catalogue.purge if forever else library.catalogue.delete
    record = resolve_fixed(vector_id, library.catalogue, status=None if forever else Status.ACTIVE)
    seq = remove(record.id, expected_revision=asked_revision(if_match), actor=actor)
    response.headers[SEQ_HEADER] = str(seq)


@router.post(
    "/{vector_id}/restore",
    operation_id="restore_vector",
    summary="Undo a deletion",
    responses={**problems(404, 409, 412, 422, 503), 200: carries("ETag", SEQ_HEADER)},
)
def bring_back(
    vector_id: FixedReference, response: Response, library: UseLibrary, actor: UseActor, if_match: IfMatch = None
) -> VectorOut:
    """The vector is found and applied again, with the id and version that it had."""
    revision = asked_revision(if_match)
    found = resolve_fixed(vector_id, library.catalogue, status=None)
    seq = library.catalogue.restore(found.id, expected_revision=revision, actor=actor)
    record = library.catalogue.get(found.id)
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers[SEQ_HEADER] = str(seq)
    return VectorOut.of(record)


def _amend(library: Library, reference: str, changes: Changes, revision: int, actor: str) -> tuple[VectorRecord, int]:
    return amend(
        resolve_fixed(reference, library.catalogue),
        changes,
        expected_revision=revision,
        library=library,
        actor=actor,
    )
