"""Reserves a server's port before anything else starts, so that a port in use is reported at once."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket

from vlibrary.domain.errors import InvalidInput


@contextmanager
def bind_sockets(host: str, port: int, *, variables: str) -> Iterator[list[socket]]:
    """Yield bound sockets for a server, one for each address of the host; they refuse connections until it listens.

    Uvicorn's own `Config.bind_socket` binds one address only, and exits on errors. variables: the settings that name
    host and port. Raises InvalidInput if the port is in use or the address is not local.
    """
    try:
        sockets = asyncio.run(_bind(host, port))
    except (OSError, UnicodeError) as error:  # UnicodeError: an invalid host name
        raise _cannot_listen(host, port, variables, error) from error
    try:
        yield sockets
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        # Linux lets several processes bind a port until one of them listens.
        raise _cannot_listen(host, port, variables, error) from error
    finally:
        for one in sockets:
            one.close()


def format_host(host: str) -> str:
    """Return the host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


async def _bind(host: str, port: int) -> list[socket]:
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
    async with server:
        return [one.dup() for one in server.sockets]


def _cannot_listen(host: str, port: int, variables: str, error: OSError | UnicodeError) -> InvalidInput:
    # asyncio repeats the address before the last colon.
    reason = (getattr(error, "strerror", None) or str(error)).rpartition(": ")[2]
    return InvalidInput(
        f"Cannot listen on {format_host(host)}:{port}: {reason}.",
        f"Stop the process that uses the port, or choose another with --host and --port ({variables}).",
    )
