"""Export and import vectors as archives."""

from __future__ import annotations

import io
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vlibrary.api.http.bodies import media_type
from vlibrary.api.http.deps import ADMITTED, STRICT_QUERY, ActorDep, LibraryDep, Limits, LimitsDep, ScopeDep
from vlibrary.api.http.problems import problem_of
from vlibrary.api.http.responses import SEQ_HEADER, headers, problems
from vlibrary.domain.errors import InvalidInput
from vlibrary.formats.archive import MEDIA_TYPE, open_archive
from vlibrary.library.library import Library
from vlibrary.library.model_names import by_fingerprint
from vlibrary.library.transfer import Loaded, Loader, export
from vlibrary.schemas.filters import FilterQuery
from vlibrary.schemas.problems import ProblemOut
from vlibrary.schemas.registry import ImportedOut, ImportOut

router = APIRouter(tags=["archive"], dependencies=[STRICT_QUERY])

MAX_ITEMS = 1_000
_BINARY = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_TYPES = (MEDIA_TYPE, "application/octet-stream", "")


class ImportQuery(BaseModel):
    """Query parameters of an import."""

    model_config = ConfigDict(extra="forbid")

    update: bool = Field(
        default=False, description="Replace description, tags and metadata of vectors that the library already has"
    )


@router.get(
    "/export",
    operation_id="export_vectors",
    summary="Export vectors as an archive",
    response_class=StreamingResponse,
    dependencies=[ADMITTED],
    responses={
        **problems(422, 429, 500, 503),
        200: {"description": "A tar archive of artifacts and cards, with the manifest last", **_BINARY}
        | headers("Content-Disposition"),
    },
)
def export_vectors(library: LibraryDep, query: Annotated[FilterQuery, Query()]) -> StreamingResponse:
    """Streams all vectors that match the filters. A truncated archive has no manifest and cannot be imported.

    With curl: `curl -fo vectors.tar 'http://127.0.0.1:8000/export?tag=checked'`
    """
    pieces = export(by_fingerprint(query.filter(), library), library)
    # Produce the first piece here, while an error can still become a problem response.
    return StreamingResponse(
        chain([next(pieces)], pieces),
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": 'attachment; filename="vectors.tar"'},
    )


@router.post(
    "/import",
    operation_id="import_vectors",
    summary="Import an archive",
    responses={**problems(400, 413, 422, 429, 503, 504), 200: headers(SEQ_HEADER)},
    openapi_extra={"requestBody": {"required": True, **_BINARY}},
)
async def import_vectors(
    request: Request,
    response: Response,
    scope: ScopeDep,
    library: LibraryDep,
    limits: LimitsDep,
    actor: ActorDep,
    query: Annotated[ImportQuery, Query()],
) -> ImportOut:
    """Registers the vectors of an archive and returns one result per vector.

    Vectors keep their ids and get the next version of their name in this library. Imports are idempotent. Send at most
    1,000 vectors per request; `vlibrary import` splits large archives.
    """
    kind = media_type(request)
    if kind not in _TYPES:
        raise InvalidInput(f"Unsupported Content-Type {kind!r}.", f"Send the archive as {MEDIA_TYPE}.")
    async with scope.deadline():
        data = await request.body()
    loaded = await run_in_threadpool(_load, library, limits, data, actor, query.update)
    response.headers[SEQ_HEADER] = str(max((one.seq for one in loaded), default=0))
    return ImportOut(
        items=[
            ImportedOut.of(one, ProblemOut.model_validate(problem_of(one.error)) if one.error else None)
            for one in loaded
        ]
    )


def _load(library: Library, limits: Limits, data: bytes, actor: str, update: bool) -> list[Loaded]:
    archive = open_archive(io.BytesIO(data), MAX_ITEMS)
    loader = Loader(
        library=library,
        artifact_bytes=limits.artifact_bytes,
        card_bytes=limits.card_bytes,
        update=update,
    )
    return list(loader.load(archive, actor=actor))
