"""Take vectors from library to library."""

from __future__ import annotations

import io
from itertools import chain
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from vlibrary.api.http.deps import TAKES_PLACE, Limits, UseLibrary, UseLimits, UsePlace
from vlibrary.api.http.errors import problem_of
from vlibrary.api.http.etags import SEQ_HEADER, UseActor
from vlibrary.api.http.query_filter import UseFilter
from vlibrary.api.http.responses import carries, problems
from vlibrary.domain.errors import InvalidArchive, InvalidInput
from vlibrary.formats.archive import MEDIA_TYPE, open_archive
from vlibrary.library.library import Library
from vlibrary.library.transfer import Loaded, Loader, export
from vlibrary.schemas.registry import ImportedOut, ImportOut
from vlibrary.schemas.vectors import ProblemOut

router = APIRouter(tags=["archive"])

MOST_ITEMS = 1_000
_BINARY = {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
_TYPES = (MEDIA_TYPE, "application/octet-stream", "")


@router.get(
    "/export",
    operation_id="export_vectors",
    summary="Download vectors as one archive",
    response_class=StreamingResponse,
    dependencies=[TAKES_PLACE],
    responses={
        **problems(422, 429, 500, 503),
        200: {"description": "A tar: artifacts and cards, and last their manifest", **_BINARY}
        | carries("Content-Disposition"),
    },
)
def download(library: UseLibrary, which: UseFilter) -> StreamingResponse:
    """All vectors that pass the filters, streamed. An archive that was cut off has no manifest, and cannot be loaded.

    With curl: `curl -fo vectors.tar 'http://127.0.0.1:8000/export?tag=checked'`
    """
    pieces = export(which, library)
    # The first piece is asked for here, while a failure can still be told as a problem.
    return StreamingResponse(
        chain([next(pieces)], pieces),
        media_type=MEDIA_TYPE,
        headers={"Content-Disposition": 'attachment; filename="vectors.tar"'},
    )


@router.post(
    "/import",
    operation_id="import_vectors",
    summary="Register the vectors of an archive",
    response_model=ImportOut,
    responses={**problems(400, 413, 422, 429, 503, 504), 200: carries(SEQ_HEADER)},
    openapi_extra={"requestBody": {"required": True, **_BINARY}},
)
async def upload(
    request: Request,
    response: Response,
    place: UsePlace,
    library: UseLibrary,
    limits: UseLimits,
    actor: UseActor,
    update: Annotated[
        bool, Query(description="Give vectors that are here already the archive's description, tags and metadata")
    ] = False,
) -> ImportOut:
    """Tells for each vector whether it was imported, was here already (and differs, perhaps), or why it was refused.

    Vectors keep their ids and get the next versions of their names here. Sending the same archive again changes
    nothing. `vlibrary import` sends a large archive in parts; by hand, send at most 1,000 vectors at a time.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise InvalidInput(f"The body's type is {kind!r}.", f"Send the archive itself, as {MEDIA_TYPE}.")
    async with place.within(limits.timeout_s):
        data = await request.body()
    loaded = await run_in_threadpool(_load, library, limits, data, actor, update)
    response.headers[SEQ_HEADER] = str(max((one.seq for one in loaded), default=0))
    return ImportOut(items=[ImportedOut.of(one, _problem(one)) for one in loaded])


def _load(library: Library, limits: Limits, data: bytes, actor: str, update: bool) -> list[Loaded]:
    archive = open_archive(io.BytesIO(data))
    if len(archive.entries) > MOST_ITEMS:
        raise InvalidArchive(
            f"The archive has {len(archive.entries):,} vectors.",
            f"Send at most {MOST_ITEMS:,} at a time; `vlibrary import` does so.",
        )
    loader = Loader(
        library=library,
        artifact_bytes=limits.artifact_bytes,
        card_bytes=limits.card_bytes,
        update=update,
    )
    return list(loader.load(archive, actor=actor))


def _problem(loaded: Loaded) -> ProblemOut | None:
    return None if loaded.error is None else ProblemOut.model_validate(problem_of(loaded.error))
