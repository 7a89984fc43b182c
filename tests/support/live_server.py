"""An app on a real server in a thread, for tests that need a network connection."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 20.0


@contextmanager
def live(app: Starlette, *, port: int = 0) -> Iterator[str]:
    """Yield the address of the app, on this port or a free one, during the block."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
    with running(uvicorn.Server(config), port=port) as url:
        yield url


@contextmanager
def running(server: uvicorn.Server, *, port: int = 0) -> Iterator[str]:
    """Yield the address of this server, on this port or a free one; stop it at the end of the block."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            _wait_for(server)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(STOP_TIMEOUT_S)
    assert not thread.is_alive(), "The server did not stop: a request is still at work."


@contextmanager
def unread(url: str, path: str, body: Mapping[str, Any]) -> Iterator[None]:
    """Send a request over a connection from which nothing is read; close it at the end of the block."""
    data = json.dumps(body)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}\r\n\r\n{data}".encode())
        yield


def _wait_for(server: uvicorn.Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.started:
        assert time.monotonic() < deadline, "The server did not start."
        time.sleep(0.01)
