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
def serving(worker: Worker, token: str | None = None, *, port: int = 0) -> Iterator[str]:
    """Yield the URL of a ready server with this worker during the block."""
    host = Host(lambda: worker)
    with live(create_app(host, CollectorRegistry(), token=token), port=port) as url:
        until(lambda: _is_ready(host))
        yield url


def until(holds: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
    """Wait until the condition holds; fail after a timeout."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds:g} s"
        time.sleep(0.01)


def _is_ready(host: Host) -> bool:
    try:
        host.worker()
    except WorkerUnavailable:
        return False
    return True
