"""A worker's app behind a real server in a thread, on a free port of this machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry

from tests.support.live_server import live
from vlibrary.domain.errors import WorkerUnavailable
from vlibrary.domain.ports.inference import Worker
from vlibrary.worker.app import create_app
from vlibrary.worker.host import Host

PATIENCE_S = 10.0


@contextmanager
def serving(worker: Worker, token: str | None = None) -> Iterator[str]:
    """The URL of a server with this worker, ready, for as long as the `with` lasts."""
    host = Host(lambda: worker)
    with live(create_app(host, CollectorRegistry(), token=token)) as url:
        until(lambda: _is_ready(host))
        yield url


def until(holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait for it, and fail when it does not come."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "Waited in vain."
        time.sleep(0.01)


def _is_ready(host: Host) -> bool:
    try:
        host.worker()
    except WorkerUnavailable:
        return False
    return True
