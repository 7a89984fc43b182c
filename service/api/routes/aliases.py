"""Aliases: names that move from vector to vector."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from vlibrary.api.http.bodies import json_docs, read_json
from vlibrary.api.http.deps import UseLibrary
from vlibrary.api.http.etags import (
    IfMatch,
    UseActor,
    expected_alias,
    required_revision,
    revision_etag,
)
from vlibrary.api.http.responses import carries, problems
from vlibrary.domain.card import NAME_PATTERN
from vlibrary.domain.ports import Alias
from vlibrary.library.alias import drop, find_alias, point
from vlibrary.library.library import Library
from vlibrary.schemas.registry import AliasesOut, AliasIn, AliasOut

router = APIRouter(prefix="/aliases", tags=["aliases"])

Name = Annotated[str, Path(pattern=NAME_PATTERN, examples=["colour"])]
AliasName = Annotated[str, Path(max_length=64, examples=["production"])]


@router.get("", operation_id="list_aliases", summary="List aliases", responses=problems(422, 503))
def every(
    library: UseLibrary,
    name: Annotated[str | None, Query(pattern=NAME_PATTERN, description="Only those of this name")] = None,
) -> AliasesOut:
    """By name and alias. Wherever a vector is named, name@alias stands for the vector that it points to."""
    return AliasesOut(items=list(map(AliasOut.of, library.catalogue.aliases(name))))


@router.get(
    "/{name}/{alias}",
    operation_id="get_alias",
    summary="Read an alias",
    responses={**problems(404, 422, 503), 200: carries("ETag")},
)
def read(name: Name, alias: AliasName, response: Response, library: UseLibrary) -> AliasOut:
    """`ETag` is what PUT and DELETE take as If-Match."""
    return _told(find_alias(name, alias, catalogue=library.catalogue), response)


@router.put(
    "/{name}/{alias}",
    operation_id="set_alias",
    summary="Make an alias, or move it",
    response_model=AliasOut,
    responses={**problems(400, 404, 412, 413, 422, 428, 503), 200: carries("ETag")},
    openapi_extra=json_docs(AliasIn, name="AliasIn"),
)
async def put(
    name: Name,
    alias: AliasName,
    request: Request,
    response: Response,
    library: UseLibrary,
    actor: UseActor,
    if_match: IfMatch = None,
    if_none_match: Annotated[
        str | None, Header(max_length=64, description="* to make an alias that must not be there yet", examples=["*"])
    ] = None,
) -> AliasOut:
    """With `If-None-Match: *` it is made; with `If-Match` it is moved, if nobody has moved it since it was read.

    Of several who try at the same time, exactly one succeeds; the others get 412.
    """
    expected = expected_alias(if_match, if_none_match)
    body = await read_json(request, AliasIn)
    return _told(await run_in_threadpool(_point, library, name, alias, body.vector, expected, actor), response)


@router.delete(
    "/{name}/{alias}",
    operation_id="drop_alias",
    summary="Forget an alias",
    status_code=204,
    responses=problems(404, 412, 422, 428, 503),
)
def delete(name: Name, alias: AliasName, library: UseLibrary, actor: UseActor, if_match: IfMatch = None) -> None:
    """Its vector stays, and can then be deleted."""
    drop(name, alias, expected=required_revision(if_match), catalogue=library.catalogue, actor=actor)


def _point(library: Library, name: str, alias: str, reference: str, expected: int, actor: str) -> Alias:
    return point(name, alias, reference, expected=expected, catalogue=library.catalogue, actor=actor)


def _told(alias: Alias, response: Response) -> AliasOut:
    response.headers["ETag"] = revision_etag(alias.revision)
    return AliasOut.of(alias)
