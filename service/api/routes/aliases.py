"""Aliases: movable pointers name@alias to one version."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from vlibrary.api.http.bodies import json_docs, json_reader
from vlibrary.api.http.deps import NO_PARAMETERS, STRICT_QUERY, ActorDep, LibraryDep
from vlibrary.api.http.etags import IfMatch, require_alias_revision, require_revision, revision_etag
from vlibrary.api.http.responses import headers, problems
from vlibrary.domain.card import NAME_PATTERN
from vlibrary.domain.labels import ALIAS_PATTERN
from vlibrary.domain.registration import Alias
from vlibrary.library.aliases import drop_alias, get_alias, list_aliases, set_alias
from vlibrary.schemas.registry import AliasesOut, AliasIn, AliasOut

router = APIRouter(prefix="/aliases", tags=["aliases"], dependencies=[STRICT_QUERY])

Name = Annotated[str, Path(pattern=NAME_PATTERN, examples=["colour"])]
AliasName = Annotated[str, Path(max_length=64, examples=["production"], json_schema_extra={"pattern": ALIAS_PATTERN})]


class AliasesQuery(BaseModel):
    """Query parameters of the list."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, pattern=NAME_PATTERN, description="Only aliases of this name")


@router.get("", operation_id="list_aliases", summary="List aliases", responses=problems(422, 503))
def get_aliases(library: LibraryDep, query: Annotated[AliasesQuery, Query()]) -> AliasesOut:
    """Returns aliases ordered by name and alias. Wherever a vector is referenced, `name@alias` is accepted too."""
    return AliasesOut(items=list(map(AliasOut.of, list_aliases(library.catalogue.aliases, query.name))))


@router.get(
    "/{name}/{alias}",
    operation_id="get_alias",
    summary="Get an alias",
    dependencies=[NO_PARAMETERS],
    responses={**problems(404, 422, 503), 200: headers("ETag")},
)
def read_alias(name: Name, alias: AliasName, response: Response, library: LibraryDep) -> AliasOut:
    """Returns the alias. Send its `ETag` as `If-Match` with PUT and DELETE."""
    return _with_etag(get_alias(name, alias, library.catalogue.aliases), response)


@router.put(
    "/{name}/{alias}",
    operation_id="set_alias",
    summary="Create or move an alias",
    dependencies=[NO_PARAMETERS],
    responses={**problems(400, 404, 412, 413, 422, 428, 503), 200: headers("ETag")},
    openapi_extra=json_docs(AliasIn),
)
def put_alias(
    name: Name,
    alias: AliasName,
    body: Annotated[AliasIn, Depends(json_reader(AliasIn))],
    response: Response,
    library: LibraryDep,
    actor: ActorDep,
    if_match: IfMatch = None,
    if_none_match: Annotated[
        str | None,
        Header(
            description="`*` creates the alias only if it does not exist",
            examples=["*"],
            json_schema_extra={"pattern": r"^\*$"},
        ),
    ] = None,
) -> AliasOut:
    """Creates the alias with `If-None-Match: *`, or moves it with `If-Match` if it has not changed since.

    Of several concurrent requests exactly one succeeds; the others get 412.
    """
    expected = require_alias_revision(if_match, if_none_match)
    moved = set_alias(name, alias, body.vector, library.catalogue, expected=expected, actor=actor)
    return _with_etag(moved, response)


@router.delete(
    "/{name}/{alias}",
    operation_id="drop_alias",
    summary="Delete an alias",
    status_code=204,
    dependencies=[NO_PARAMETERS],
    responses=problems(404, 412, 422, 428, 503),
)
def delete_alias(name: Name, alias: AliasName, library: LibraryDep, actor: ActorDep, if_match: IfMatch = None) -> None:
    """Deletes the alias. Its vector is kept, and can then be deleted too."""
    drop_alias(name, alias, library.catalogue.aliases, expected=require_revision(if_match), actor=actor)


def _with_etag(alias: Alias, response: Response) -> AliasOut:
    response.headers["ETag"] = revision_etag(alias.revision)
    return AliasOut.of(alias)
