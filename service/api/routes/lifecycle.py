"""Amend, delete, restore and purge vectors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from vlibrary.api.http.bodies import json_docs, json_reader
from vlibrary.api.http.deps import ADMITTED, NO_PARAMETERS, STRICT_QUERY, ActorDep, FixedReference, LibraryDep
from vlibrary.api.http.etags import REVISION_PATTERN, IfMatch, parse_revision, require_revision, revision_etag
from vlibrary.api.http.responses import SEQ_HEADER, headers, problems
from vlibrary.domain.card import VectorRecord
from vlibrary.library.vectors import amend, delete_vector, purge_vector, restore_vector
from vlibrary.schemas.registry import AmendIn
from vlibrary.schemas.vectors import VectorOut

router = APIRouter(prefix="/vectors", tags=["vectors"], dependencies=[STRICT_QUERY])


class DeleteQuery(BaseModel):
    """Query parameters of a deletion."""

    model_config = ConfigDict(extra="forbid")

    purge: bool = Field(default=False, description="Remove a deleted vector permanently")


@router.patch(
    "/{vector_id}",
    operation_id="amend_vector",
    summary="Update a vector's description, tags and metadata",
    dependencies=[ADMITTED, NO_PARAMETERS],
    responses={**problems(400, 404, 412, 413, 422, 428, 429, 503, 504), 200: headers("ETag", SEQ_HEADER)},
    openapi_extra=json_docs(AmendIn),
)
def amend_vector(
    vector_id: FixedReference,
    body: Annotated[AmendIn, Depends(json_reader(AmendIn))],
    response: Response,
    library: LibraryDep,
    actor: ActorDep,
    if_match: Annotated[
        str | None,
        Header(
            description="ETag of the revision to change",
            examples=['"v1"'],
            json_schema_extra=REVISION_PATTERN,
        ),
    ] = None,
) -> VectorOut:
    """Updates the fields in the body, if the vector is still at the revision in `If-Match`. Omitted fields are kept.

    Searches use the new description immediately. The artifact never changes.
    """
    revision = require_revision(if_match)
    record, seq = amend(vector_id, body.changes(), library, expected_revision=revision, actor=actor)
    return _respond(record, seq, response)


@router.delete(
    "/{vector_id}",
    operation_id="delete_vector",
    summary="Delete a vector, or purge a deleted one",
    status_code=204,
    responses={**problems(404, 409, 412, 422, 503), 204: headers(SEQ_HEADER)},
)
def remove_vector(
    vector_id: FixedReference,
    response: Response,
    library: LibraryDep,
    actor: ActorDep,
    query: Annotated[DeleteQuery, Query()],
    if_match: IfMatch = None,
) -> None:
    """Deletes the vector: searches and answers no longer use it. `POST /vectors/{vector_id}/restore` undoes this.

    With `purge=true`, removes a deleted vector permanently. A vector that an alias points to cannot be deleted.
    """
    remove = purge_vector if query.purge else delete_vector
    seq = remove(vector_id, library.catalogue, expected_revision=parse_revision(if_match), actor=actor)
    response.headers[SEQ_HEADER] = str(seq)


@router.post(
    "/{vector_id}/restore",
    operation_id="restore_vector",
    summary="Restore a deleted vector",
    dependencies=[NO_PARAMETERS],
    responses={**problems(404, 409, 412, 422, 503), 200: headers("ETag", SEQ_HEADER)},
)
def undelete_vector(
    vector_id: FixedReference, response: Response, library: LibraryDep, actor: ActorDep, if_match: IfMatch = None
) -> VectorOut:
    """Restores a deleted vector under its id and version; searches and answers use it again."""
    revision = parse_revision(if_match)
    record, seq = restore_vector(vector_id, library.catalogue, expected_revision=revision, actor=actor)
    return _respond(record, seq, response)


def _respond(record: VectorRecord, seq: int, response: Response) -> VectorOut:
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers[SEQ_HEADER] = str(seq)
    return VectorOut.of(record)
