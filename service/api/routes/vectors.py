"""Register, list and read vectors."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field

from vlibrary.api.http.bodies import Form, media_type, read_form
from vlibrary.api.http.deps import (
    ADMITTED,
    NO_PARAMETERS,
    STRICT_QUERY,
    ActorDep,
    LibraryDep,
    Limits,
    LimitsDep,
    Reference,
    ScopeDep,
)
from vlibrary.api.http.etags import content_etag, matches, revision_etag
from vlibrary.api.http.responses import SEQ_HEADER, headers, problems
from vlibrary.domain.errors import InvalidInput, TooLarge
from vlibrary.domain.ports.artifacts import Linking
from vlibrary.formats.card import parse_card
from vlibrary.library.lineage import lineage
from vlibrary.library.model_names import by_fingerprint
from vlibrary.library.publish import Submission, publish
from vlibrary.library.references import resolve
from vlibrary.library.vectors import list_vectors
from vlibrary.schemas.filters import FilterQuery
from vlibrary.schemas.registry import LineageOut
from vlibrary.schemas.vectors import RegisteredOut, VectorOut, VectorPage

router = APIRouter(prefix="/vectors", tags=["vectors"], dependencies=[STRICT_QUERY])

LINK_SECONDS = 300

_CARD_EXAMPLE = '{"name": "colour-codes", "description": "Colours of drawn shapes, answered in code words"}'
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["artifact", "card"],
                    "additionalProperties": False,
                    "properties": {
                        "artifact": {
                            "type": "string",
                            "format": "binary",
                            "description": "The safetensors file written by `vlibrary train`",
                        },
                        "card": {
                            "type": "string",
                            "description": "The card as JSON, in a field or a file",
                            "examples": [_CARD_EXAMPLE],
                        },
                    },
                }
            }
        },
    }
}


class ListQuery(FilterQuery):
    """Query parameters of the list."""

    limit: int = Field(default=50, ge=1, le=500, description="Page size")
    cursor: str | None = Field(default=None, max_length=512, description="`next` of the previous page")


class ContentQuery(BaseModel):
    """Query parameters of a download."""

    model_config = ConfigDict(extra="forbid")

    redirect: bool = Field(default=False, description="Redirect to the artifact store if it supports presigned URLs")


@router.post(
    "",
    operation_id="register_vector",
    summary="Register a vector",
    status_code=201,
    dependencies=[NO_PARAMETERS],
    responses={
        **problems(400, 409, 413, 422, 429, 503, 504),
        201: {"description": "The vector was registered"} | headers("Location", "ETag", SEQ_HEADER),
    },
    openapi_extra=_UPLOAD,
)
async def register_vector(
    request: Request,
    response: Response,
    scope: ScopeDep,
    library: LibraryDep,
    limits: LimitsDep,
    actor: ActorDep,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1, max_length=255, description="Makes retries safe: a repeated request gets the first result"
        ),
    ] = None,
) -> RegisteredOut:
    """Validates the artifact and its card, and registers the vector. Searches find it immediately.

    With curl: `curl -F artifact=@colour-codes.safetensors -F card=@colour-codes.card.json http://127.0.0.1:8000/vectors`
    """
    async with scope.deadline():
        artifact, card = await _read_parts(request, limits)
    # Off the event loop: a card may be megabytes of numbers.
    submission = Submission(artifact, await run_in_threadpool(parse_card, card), idempotency_key, actor)
    record = await run_in_threadpool(publish, submission, library)
    response.headers["Location"] = f"/vectors/{record.id}"
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers[SEQ_HEADER] = str(record.seq)
    return RegisteredOut.of(record)


@router.get(
    "",
    operation_id="list_vectors",
    summary="List vectors, newest first",
    responses=problems(422, 503),
)
def get_vectors(library: LibraryDep, query: Annotated[ListQuery, Query()]) -> VectorPage:
    """Returns vectors that match all filters. Pages are stable under concurrent changes; repeat the filters."""
    which = by_fingerprint(query.filter(), library)
    found = list_vectors(which, library.catalogue.vectors, limit=query.limit, cursor=query.cursor)
    return VectorPage(items=[VectorOut.of(record) for record in found.records], next=found.next)


@router.get(
    "/{vector_id}",
    operation_id="get_vector",
    summary="Get a vector",
    dependencies=[NO_PARAMETERS],
    responses={**problems(404, 422, 503), 200: headers("ETag", "Content-Location")},
)
def get_vector(vector_id: Reference, response: Response, library: LibraryDep) -> VectorOut:
    """Returns the vector's record; `GET /vectors/{vector_id}/content` returns its artifact.

    Send the `ETag` as `If-Match` with PATCH and DELETE. `Content-Location` is the permanent URL of the vector.
    """
    record = resolve(vector_id, library.catalogue)
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers["Content-Location"] = f"/vectors/{record.id}"
    return VectorOut.of(record)


@router.get(
    "/{vector_id}/lineage",
    operation_id="get_vector_lineage",
    summary="Get a vector's parents and children",
    dependencies=[NO_PARAMETERS],
    responses=problems(404, 422, 503),
)
def get_lineage(vector_id: Reference, library: LibraryDep) -> LineageOut:
    """Returns one generation in each direction. A card names the parents in `derived_from`."""
    return LineageOut.of(lineage(resolve(vector_id, library.catalogue), library.catalogue.vectors))


@router.get(
    "/{vector_id}/content",
    operation_id="get_vector_content",
    summary="Download a vector's artifact",
    response_class=Response,
    dependencies=[ADMITTED],
    responses={
        **problems(404, 422, 429, 500, 503),
        200: {
            "description": "The safetensors file, verified against its SHA-256",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
        | headers("ETag", "Content-Location", "Repr-Digest", "Content-Disposition"),
        304: {"description": "`If-None-Match` matches the artifact"} | headers("ETag", "Content-Location"),
        307: {"description": "`Location` is a presigned URL, valid for five minutes; the content is not verified"}
        | headers("Location", "Cache-Control"),
    },
)
def download_artifact(
    vector_id: Reference,
    library: LibraryDep,
    query: Annotated[ContentQuery, Query()],
    if_none_match: Annotated[str | None, Header(max_length=4_096, description="ETags of cached copies")] = None,
) -> Response:
    """Returns the artifact exactly as registered. `ETag` and `Repr-Digest` (RFC 9530) contain its SHA-256."""
    record = resolve(vector_id, library.catalogue)
    fields = {"ETag": content_etag(record.sha256), "Content-Location": f"/vectors/{record.id}/content"}
    if matches(if_none_match, fields["ETag"]):
        return Response(status_code=304, headers=fields)
    filename = f"{record.name}-{record.version}.safetensors"
    if query.redirect and isinstance(library.artifacts, Linking):
        address = library.artifacts.link(record.object_key, LINK_SECONDS, filename=filename)
        return Response(status_code=307, headers={"Location": address, "Cache-Control": "no-store"})
    data = library.artifacts.get(record.object_key, record.sha256)
    digest = base64.b64encode(bytes.fromhex(record.sha256)).decode()
    fields |= {"Repr-Digest": f"sha-256=:{digest}:", "Content-Disposition": f'attachment; filename="{filename}"'}
    return Response(data, media_type="application/octet-stream", headers=fields)


async def _read_parts(request: Request, limits: Limits) -> tuple[bytes, bytes]:
    """Return artifact and card. Raises InvalidInput, TooLarge."""
    kind = media_type(request)
    if kind != "multipart/form-data":
        raise InvalidInput(
            f"Unsupported Content-Type {kind!r}.", "Send multipart/form-data with the parts artifact and card."
        )
    form = await read_form(request, limits.card_bytes, ("artifact", "card"))
    return _take_part(form, "artifact", limits.artifact_bytes), _take_part(form, "card", limits.card_bytes)


def _take_part(form: Form, name: str, max_bytes: int) -> bytes:
    if name not in form:
        raise InvalidInput(f"The form has no part {name!r}.", "Send the parts artifact (a file) and card (JSON).")
    data = form[name][0].content
    if len(data) > max_bytes:
        raise TooLarge(f"The part {name!r} exceeds {max_bytes:,} bytes.", f"Send at most {max_bytes:,} bytes.")
    return data
