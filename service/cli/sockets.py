"""The port that a server will listen on, held before anything else is begun."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket

from vlibrary.domain.errors import InvalidInput


@contextmanager
def held(host: str, port: int, *, variables: str) -> Iterator[list[socket]]:
    """Sockets for a server; until it listens on them, whoever connects is refused.

    variables: those that name address and port. Raises InvalidInput when the port is taken or the address is not ours.
    """
    try:
        sockets = asyncio.run(_bound(host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
        raise _refused(host, port, variables, error) from error
    try:
        yield sockets
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # While nobody listens, Linux lets several have the port; then only the first gets to listen.
        raise _refused(host, port, variables, error) from error
    finally:
        for one in sockets:
            one.close()


async def _bound(host: str, port: int) -> list[socket]:
    """As uvicorn would do it by itself: for every address that the name stands for."""
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    async with server:
        return [one.dup() for one in server.sockets]


def _refused(host: str, port: int, variables: str, error: OSError | UnicodeError) -> InvalidInput:
    why = (getattr(error, "strerror", None) or str(error)).rpartition(": ")[2]  # before it, asyncio repeats the address
    return InvalidInput(
        f"Port {port} of {host!r} cannot be listened on: {why}.",
        f"Stop what listens there, or choose another with --host and --port ({variables}).",
    )
