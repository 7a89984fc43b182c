"""Register, list and read vectors."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from vlibrary.api.http.bodies import read_form
from vlibrary.api.http.deps import TAKES_PLACE, Limits, UseLibrary, UseLimits, UsePlace
from vlibrary.api.http.etags import (
    SEQ_HEADER,
    Reference,
    UseActor,
    content_etag,
    is_known,
    revision_etag,
)
from vlibrary.api.http.query_filter import UseFilter
from vlibrary.api.http.responses import carries, problems
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import InvalidInput, TooLarge
from vlibrary.domain.ports import Linking
from vlibrary.formats.card import parse_card
from vlibrary.library.lineage import lineage
from vlibrary.library.publish import Submission, publish
from vlibrary.library.references import resolve
from vlibrary.schemas.registry import LineageOut
from vlibrary.schemas.vectors import VectorOut, VectorPage

router = APIRouter(prefix="/vectors", tags=["vectors"])

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
                    "properties": {
                        "artifact": {
                            "type": "string",
                            "format": "binary",
                            "description": "The safetensors file that `vlibrary train` wrote",
                        },
                        "card": {
                            "type": "string",
                            "description": "The card's JSON, as a field or as a file",
                            "examples": [_CARD_EXAMPLE],
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "",
    operation_id="register_vector",
    summary="Register a vector",
    status_code=201,
    response_model=VectorOut,
    responses={
        **problems(400, 409, 413, 422, 429, 503, 504),
        201: {"description": "Registered; Location is its address"} | carries("Location", "ETag", SEQ_HEADER),
    },
    openapi_extra=_UPLOAD,
)
async def register(
    request: Request,
    response: Response,
    place: UsePlace,
    library: UseLibrary,
    limits: UseLimits,
    actor: UseActor,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="Repeat the same request safely under one key")
    ] = None,
) -> VectorOut:
    """Takes the artifact and its card, checks both, and makes the vector retrievable at once.

    With curl: `curl -F artifact=@colour-codes.safetensors -F card=@colour-codes.card.json http://127.0.0.1:8000/vectors`
    """
    async with place.within(limits.timeout_s):
        artifact, card = await _parts(request, limits)
    submission = Submission(artifact, parse_card(card), idempotency_key, actor)
    record = await run_in_threadpool(publish, submission, library)
    response.headers["Location"] = f"/vectors/{record.id}"
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers[SEQ_HEADER] = str(record.seq)
    return VectorOut.of(record)


@router.get(
    "",
    operation_id="list_vectors",
    summary="List vectors, newest first",
    responses=problems(422, 503),
)
def page(
    library: UseLibrary,
    which: UseFilter,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=512, description="The previous page's next")] = None,
) -> VectorPage:
    """All filters hold together. Pages stay stable while vectors come and go; keep the filters from page to page."""
    found = library.catalogue.page(which, limit=limit, cursor=cursor)
    return VectorPage(items=[VectorOut.of(record) for record in found.records], next=found.next)


@router.get(
    "/{vector_id}",
    operation_id="get_vector",
    summary="Read a vector's record",
    responses={**problems(404, 422, 503), 200: carries("ETag", "Content-Location")},
)
def read(vector_id: Reference, response: Response, library: UseLibrary) -> VectorOut:
    """Everything that the library knows of the vector; its tensors are at /vectors/{vector_id}/content.

    `ETag` is what PATCH and DELETE take as If-Match. `Content-Location` is the address that never means another vector.
    """
    record = resolve(vector_id, library.catalogue)
    response.headers["ETag"] = revision_etag(record.revision)
    response.headers["Content-Location"] = f"/vectors/{record.id}"
    return VectorOut.of(record)


@router.get(
    "/{vector_id}/lineage",
    operation_id="get_vector_lineage",
    summary="What a vector was made from, and what from it",
    responses=problems(404, 422, 503),
)
def read_lineage(vector_id: Reference, library: UseLibrary) -> LineageOut:
    """Parents and children, one generation each way; `derived_from` of a card names the parents."""
    return LineageOut.of(lineage(resolve(vector_id, library.catalogue), library.catalogue))


@router.get(
    "/{vector_id}/content",
    operation_id="get_vector_content",
    summary="Download a vector's artifact",
    response_class=Response,
    dependencies=[TAKES_PLACE],
    responses={
        **problems(404, 422, 429, 500, 503),
        200: {
            "description": "The safetensors file, checked against its sha256",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
        | carries("ETag", "Content-Location", "Repr-Digest", "Content-Disposition"),
        304: {"description": "The client has these bytes already"} | carries("ETag", "Content-Location"),
        307: {"description": "Location serves the bytes, unchecked, to anybody for five minutes"}
        | carries("Location", "Cache-Control"),
    },
)
def content(
    vector_id: Reference,
    library: UseLibrary,
    if_none_match: Annotated[str | None, Header(max_length=4_096, description="ETags of bytes that you have")] = None,
    redirect: Annotated[bool, Query(description="Be sent to the store itself, if it can serve others")] = False,
) -> Response:
    """The bytes exactly as they were registered. `ETag` and `Repr-Digest` (RFC 9530) carry their sha256."""
    record = resolve(vector_id, library.catalogue)
    headers = {"ETag": content_etag(record.sha256), "Content-Location": f"/vectors/{record.id}/content"}
    if is_known(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    filename = f"{record.name}-{record.version}.safetensors"
    if redirect and isinstance(library.artifacts, Linking):
        address = library.artifacts.link(record.object_key, LINK_SECONDS, filename=filename)
        return Response(status_code=307, headers={"Location": address, "Cache-Control": "no-store"})
    data = library.artifacts.get(record.object_key, record.sha256)
    headers |= {"Repr-Digest": _digest(record), "Content-Disposition": f'attachment; filename="{filename}"'}
    return Response(data, media_type="application/octet-stream", headers=headers)


def _digest(record: VectorRecord) -> str:
    return f"sha-256=:{base64.b64encode(bytes.fromhex(record.sha256)).decode()}:"


async def _parts(request: Request, limits: Limits) -> tuple[bytes, bytes]:
    """Artifact and card. Raises InvalidInput, TooLarge."""
    form = await _form(request, limits.card_bytes)
    try:
        artifact = await _part(form, "artifact", limits.artifact_bytes)
        return artifact, await _part(form, "card", limits.card_bytes)
    finally:
        await form.close()


async def _form(request: Request, most_field_bytes: int) -> FormData:
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise InvalidInput(
            f"The body's type is {kind!r}.", "Send multipart/form-data with the parts artifact and card."
        )
    return await read_form(request, most_field_bytes)


async def _part(form: FormData, name: str, most: int) -> bytes:
    entry = form.get(name)
    if entry is None:
        raise InvalidInput(f"The form has no part {name!r}.", "Send the two parts artifact (file) and card (JSON).")
    data = await entry.read(most + 1) if isinstance(entry, UploadFile) else entry.encode()
    if len(data) > most:
        raise TooLarge(f"The part {name!r} is larger than {most:,} bytes.", f"Send at most {most:,} bytes.")
    return data
