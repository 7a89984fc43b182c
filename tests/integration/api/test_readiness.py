"""Readiness: answered at once whatever the parts do, without writing, and degraded while answers work."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.live_server import running
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MemoryWorker
from tests.support.worker_server import until
from vlibrary.api.app import create_app
from vlibrary.api.http.server import ApiServer
from vlibrary.domain.errors import ArtifactsUnavailable, WorkerUnavailable
from vlibrary.domain.wire import WorkerInfo
from vlibrary.library.library import Library
from vlibrary.upkeep.readiness import Readiness, readiness_of


class Broken(MemoryArtifacts):
    """A store that is away, and that counts writes."""

    writes = 0

    def check(self) -> None:
        raise ArtifactsUnavailable("No response.", "Wait.")

    def put(self, key: str, data: bytes, sha256: str) -> None:
        self.writes += 1
        super().put(key, data, sha256)


class NoWorker(MemoryWorker):
    """A worker that is away."""

    def models(self) -> tuple[WorkerInfo, ...]:
        raise WorkerUnavailable("No worker responds.", "Start one.")


@contextmanager
def api(library: Library) -> Iterator[TestClient]:
    with TestClient(create_app(library)) as client:
        yield client


def test_the_artifact_store_away_is_degraded_and_nothing_is_written() -> None:
    store = Broken()
    with api(memory_library(store)) as client:
        until(lambda: "No response" in client.get("/readyz").text)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"], answer.json()["status"]) == (200, True, "degraded")
        assert client.post("/generate", json={"prompt": "a", "steering": "off"}).status_code == 200
    assert store.writes == 0


def test_a_missing_worker_is_unready() -> None:
    library = memory_library(worker=NoWorker(MemoryArtifacts()))
    with api(library) as client:
        until(lambda: "No worker responds" in client.get("/readyz").text)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["ready"], answer.json()["status"]) == (503, False, "unready")
        assert client.get("/vectors").status_code == 200


@pytest.mark.parametrize("part", ["catalogue", "artifacts", "worker"])
def test_a_part_that_hangs_delays_no_probe_and_no_other_check(part: str) -> None:
    unblocked = threading.Event()

    def hang() -> str:
        assert unblocked.wait(30)
        return "back"

    checks = {name: (hang if name == part else lambda: "fine") for name in ("catalogue", "artifacts", "worker")}
    app = create_app(memory_library())
    app.state.readiness = Readiness(checks, frozenset({"artifacts"}), interval_s=0.01, patience_s=0.2)
    try:
        with TestClient(app) as client:
            began = time.monotonic()
            client.get("/readyz")
            assert time.monotonic() - began < 1
            until(lambda: "no response for" in client.get("/readyz").text)
            answer = client.get("/readyz")
            assert answer.status_code == (200 if part == "artifacts" else 503)
            assert {one["name"] for one in answer.json()["checks"] if not one["ok"]} == {part}
            unblocked.set()
            until(lambda: client.get("/readyz").json()["status"] == "ready")
    finally:
        unblocked.set()
        app.state.readiness.close()


def test_a_check_that_fails_unexpectedly_is_reported_and_goes_on() -> None:
    failures = iter([ZeroDivisionError(), None])

    def check() -> str:
        if (error := next(failures, None)) is not None:
            raise error
        return "fine"

    readiness = Readiness({"part": check}, interval_s=60)
    readiness.ask()
    until(lambda: "ZeroDivisionError" in readiness.results()[0].detail)
    readiness.ask()
    until(lambda: readiness.results()[0].ok)
    readiness.close()


def test_every_part_of_a_library_is_checked() -> None:
    readiness = readiness_of(memory_library())
    asked = readiness.ask()
    until(lambda: readiness.is_newer(asked))
    assert {one.name: (one.ok, one.needed) for one in readiness.results()} == {
        "catalogue": (True, True),
        "artifacts": (True, False),
        "index": (True, True),
        "worker": (True, True),
    }
    readiness.close()


def test_the_service_is_unready_before_it_closes_its_port() -> None:
    server = ApiServer(create_app(memory_library()), address="", port=0, grace_s=0.1, drain_s=1.0)
    with running(server) as url, httpx.Client(base_url=url) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        server.handle_exit(15, None)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["status"]) == (503, "unready")
        assert {"name": "service", "ok": False, "detail": "shutting down"} in answer.json()["checks"]
        assert client.post("/generate", json={"prompt": "a", "steering": "off"}).status_code == 200
        until(lambda: not server.started or server.should_exit or _is_closed(url))


def _is_closed(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez")
    except httpx.HTTPError:
        return True
    return False
