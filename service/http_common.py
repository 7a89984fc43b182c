"""Shared by the HTTP servers of the API and of workers: error statuses, addresses, and cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from vlibrary.domain import errors

T = TypeVar("T")

# The status of a class without an entry is that of its nearest base class.
STATUS: Mapping[type[errors.VLibraryError], HTTPStatus] = {
    errors.InvalidInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.TooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    errors.SlowRequest: HTTPStatus.REQUEST_TIMEOUT,
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.StaleRevision: HTTPStatus.PRECONDITION_FAILED,
    errors.AliasTaken: HTTPStatus.PRECONDITION_FAILED,  # only `If-None-Match: *` requires that there is none
    errors.RevisionRequired: HTTPStatus.PRECONDITION_REQUIRED,
    errors.InProgress: HTTPStatus.CONFLICT,
    errors.Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Overloaded: HTTPStatus.TOO_MANY_REQUESTS,
    errors.TimedOut: HTTPStatus.GATEWAY_TIMEOUT,
    errors.ArtifactLost: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.UnsupportedModel: HTTPStatus.INTERNAL_SERVER_ERROR,
}


def status_of(error: errors.VLibraryError) -> HTTPStatus:
    """Return the HTTP status of an error."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on the host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


async def run_until_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of the work; cancel it and raise ClientDisconnect as soon as the client disconnects.

    The request's body must have been read: from then on, receive() returns only when the client disconnects.
    """

    async def wait_for_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(work)
    leaving = asyncio.create_task(wait_for_disconnect())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
