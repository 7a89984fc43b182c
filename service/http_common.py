"""What both HTTP faces, the api's and a worker's, do alike: the status of an error, and clients who leave."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from vlibrary.domain import errors

T = TypeVar("T")

# The nearest ancestor in this table decides; a new error class without one fails a test.
STATUS: Mapping[type[errors.VLibraryError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.StaleRevision: HTTPStatus.PRECONDITION_FAILED,
    errors.AliasTaken: HTTPStatus.PRECONDITION_FAILED,  # only If-None-Match: * asks for there being none
    errors.RevisionRequired: HTTPStatus.PRECONDITION_REQUIRED,
    errors.InProgress: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TimedOut: HTTPStatus.GATEWAY_TIMEOUT,
    errors.ArtifactLost: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UnsupportedModel: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: errors.VLibraryError) -> HTTPStatus:
    """The status of the error's nearest ancestor in STATUS."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The work's result. Cancels it and raises ClientDisconnect as soon as the client goes away.

    The request's body must be read already: from then on, receive() only waits for the client to leave.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
