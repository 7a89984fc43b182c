"""Register, list, read and retire vectors."""

from __future__ import annotations

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from service.api.bodies import read_form
from service.api.deps import UseLimits, UsePorts
from service.api.responses import problems
from service.api.schemas import VectorOut, VectorPage
from service.domain.card import NAME_PATTERN
from service.domain.cardfile import parse_card
from service.domain.errors import InvalidInput, TooLarge
from service.library.publish import Submission, publish
from service.library.retire import retire

router = APIRouter(prefix="/vectors", tags=["vectors"])

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
    responses={**problems(400, 409, 413, 422, 503), 201: {"description": "Registered; Location is its address"}},
    openapi_extra=_UPLOAD,
)
async def register(
    request: Request,
    response: Response,
    ports: UsePorts,
    limits: UseLimits,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=255, description="Repeat the same request safely under one key")
    ] = None,
) -> VectorOut:
    """Takes the artifact and its card, checks both, and makes the vector retrievable at once.

    With curl: `curl -F artifact=@colour-codes.safetensors -F card=@colour-codes.card.json http://127.0.0.1:8000/vectors`
    """
    form = await _form(request, limits.card_bytes)
    try:
        artifact = await _part(form, "artifact", limits.artifact_bytes)
        card = await _part(form, "card", limits.card_bytes)
    finally:
        await form.close()
    submission = Submission(artifact, parse_card(card), idempotency_key)
    record = await run_in_threadpool(
        publish,
        submission,
        catalogue=ports.catalogue,
        artifacts=ports.artifacts,
        index=ports.index,
        worker=ports.worker,
        clock=ports.clock,
    )
    response.headers["Location"] = f"/vectors/{record.id}"
    return VectorOut.of(record)


@router.get(
    "",
    operation_id="list_vectors",
    summary="List vectors, newest first",
    responses=problems(422, 503),
)
def page(
    ports: UsePorts,
    name: Annotated[str | None, Query(pattern=NAME_PATTERN, description="Only versions of this name")] = None,
    model: Annotated[str | None, Query(max_length=512, description="Only vectors for this base model")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=512, description="The previous page's next")] = None,
) -> VectorPage:
    """Pages stay stable while vectors come and go."""
    found = ports.catalogue.page(name=name, model_id=model, limit=limit, cursor=cursor)
    return VectorPage(items=[VectorOut.of(record) for record in found.records], next=found.next)


@router.get(
    "/{vector_id}",
    operation_id="get_vector",
    summary="Read a vector's record",
    responses=problems(404, 422, 503),
)
def read(vector_id: str, ports: UsePorts) -> VectorOut:
    """Everything that the library knows of the vector; its tensors are at /vectors/{vector_id}/content."""
    return VectorOut.of(ports.catalogue.get(vector_id))


@router.get(
    "/{vector_id}/content",
    operation_id="get_vector_content",
    summary="Download a vector's artifact",
    response_class=Response,
    responses={
        **problems(404, 422, 500, 503),
        200: {
            "description": "The safetensors file, checked against its sha256",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
def content(vector_id: str, ports: UsePorts) -> Response:
    """The bytes exactly as they were registered. `ETag` and `Repr-Digest` (RFC 9530) carry their sha256."""
    record = ports.catalogue.get(vector_id)
    data = ports.artifacts.get(record.object_key, record.sha256)
    digest = base64.b64encode(bytes.fromhex(record.sha256)).decode()
    headers = {
        "ETag": f'"sha256:{record.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Content-Disposition": f'attachment; filename="{record.name}-{record.version}.safetensors"',
    }
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.delete(
    "/{vector_id}",
    operation_id="delete_vector",
    summary="Retire a vector",
    status_code=204,
    responses=problems(404, 422, 503),
)
def delete(vector_id: str, ports: UsePorts) -> None:
    """From now on no query finds it and no answer uses it."""
    retire(vector_id, catalogue=ports.catalogue, index=ports.index)


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
