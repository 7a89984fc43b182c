"""The shutdown of a worker's server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from prometheus_client import CollectorRegistry

from tests.support.live_server import running
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MemoryWorker
from tests.support.worker_server import until
from vlibrary.domain.errors import WorkerUnavailable
from vlibrary.domain.wire import WorkerStatus
from vlibrary.worker.app import create_app
from vlibrary.worker.host import Host
from vlibrary.worker.server import WorkerServer


class Mortal(MemoryWorker):
    """A worker whose model's thread has ended once `dead` is set."""

    def __init__(self) -> None:
        super().__init__(MemoryArtifacts())
        self.dead = threading.Event()

    def status(self) -> WorkerStatus:
        if self.dead.is_set():
            raise WorkerUnavailable("The model's thread has ended.", "Restart the worker.")
        return super().status()


def gone(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez")
    except httpx.HTTPError:
        return True
    return False


@contextmanager
def served(worker: Mortal) -> Iterator[tuple[Host, str]]:
    host = Host(lambda: worker)
    server = WorkerServer(create_app(host, CollectorRegistry()), host, address="", port=0, grace_s=60)
    with running(server) as url:
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        yield host, url
        until(lambda: gone(url))


def test_a_worker_whose_model_thread_ends_stops_with_a_failure() -> None:
    worker = Mortal()
    with served(worker) as (host, _url):
        assert host.failure is None
        worker.dead.set()
    assert isinstance(host.failure, WorkerUnavailable)


def test_a_worker_that_shuts_down_has_no_failure() -> None:
    with served(Mortal()) as (host, url):
        assert not gone(url)
        host.leave()
    assert host.failure is None
