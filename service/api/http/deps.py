"""Dependencies of the routes: stores, limits, admission, and what every route reads from a request."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import unquote_to_bytes

from fastapi import Depends, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict

from vlibrary.api.http.admission import AdmissionControl, RequestScope
from vlibrary.domain.labels import ACTOR_PATTERN
from vlibrary.domain.registration import ANONYMOUS
from vlibrary.formats.text import decode_utf8
from vlibrary.library.library import Library
from vlibrary.library.references import MAX_REFERENCE
from vlibrary.schemas.filters import REPEATABLE


@dataclass(frozen=True)
class Limits:
    """Limits of one api process.

    artifact_bytes, card_bytes, request_bytes: largest parts and bodies; bodies_bytes: all bodies in memory together.
    timeout_s: time limit of a request that sets none, and of receiving a body, which must begin to arrive within
    body_start_s. max_requests: generations, searches, uploads and downloads in progress at a time.
    """

    artifact_bytes: int = 64 * 2**20
    card_bytes: int = 4 * 2**20
    request_bytes: int = 96 * 2**20
    bodies_bytes: int = 256 * 2**20
    timeout_s: float = 120.0
    body_start_s: float = 10.0
    max_requests: int = 256


class NoParameters(BaseModel):
    """Rejects every query parameter: an ignored typo in a parameter's name would go unnoticed."""

    model_config = ConfigDict(extra="forbid")


# Asynchronous, though they wait for nothing: FastAPI runs other dependencies in a thread each.
async def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


async def _limits(request: Request) -> Limits:
    limits: Limits = request.app.state.limits
    return limits


async def _admit(request: Request) -> AsyncGenerator[RequestScope]:
    control: AdmissionControl = request.app.state.admission
    control.check_room()  # before a large body is read
    await request.body()
    async with control.admit(request) as scope:
        yield scope


async def _actor(
    x_actor: Annotated[
        str | None,
        Header(
            max_length=128,
            pattern=ACTOR_PATTERN,
            description="Who makes the change, for the audit log: up to 128 printable ASCII characters",
        ),
    ] = None,
) -> str:
    return x_actor or ANONYMOUS


async def _no_parameters(_query: Annotated[NoParameters, Query()]) -> None:
    """Declare that a route has no query parameters."""


async def _check_query(request: Request) -> None:
    """Refuse what FastAPI silently drops or alters: names that occur twice, and text that is not UTF-8."""
    names: Counter[str] = Counter()
    wrong: list[dict[str, Any]] = []
    for pair in filter(None, request.scope["query_string"].replace(b"+", b" ").split(b"&")):
        raw_name, _, raw_value = pair.partition(b"=")
        name = unquote_to_bytes(raw_name).decode(errors="backslashreplace")
        names[name] += 1
        try:
            decode_utf8(unquote_to_bytes(raw_value))
        except ValueError as error:
            wrong.append({"type": "text_invalid", "loc": ("query", name), "msg": str(error)})
    wrong += [
        {"type": "occurs_twice", "loc": ("query", name), "msg": f"The query has this name {count} times; send one"}
        for name, count in names.items()
        if count > 1 and name not in REPEATABLE
    ]
    if wrong:
        raise RequestValidationError(wrong)


LibraryDep = Annotated[Library, Depends(_library)]
LimitsDep = Annotated[Limits, Depends(_limits)]
ActorDep = Annotated[str, Depends(_actor)]
# Admitted when the body has been read, until the response is sent.
ADMITTED = Depends(_admit)
ScopeDep = Annotated[RequestScope, ADMITTED]
NO_PARAMETERS = Depends(_no_parameters)
# Of routers whose routes have query parameters.
STRICT_QUERY = Depends(_check_query)

REFERENCE = "Id, name (its newest version), name:version or name@alias"
Reference = Annotated[str, Path(max_length=MAX_REFERENCE, description=REFERENCE, examples=["colour:1"])]
FixedReference = Annotated[
    str, Path(max_length=MAX_REFERENCE, description="Id or name:version; these never move", examples=["colour:1"])
]
