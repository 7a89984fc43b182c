"""How answers and workers end, in the metrics and the readiness check."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from starlette.testclient import TestClient

from tests.model.engine_runs import RequestSpec
from tests.model.worker_setup import OpenWorker, WorkerSetup
from tests.support.library import memory_library
from tests.support.worker_server import until
from vlibrary.api.app import create_app
from vlibrary.domain.errors import WorkerUnavailable


def test_the_api_is_not_ready_when_its_model_thread_has_ended(open_worker: OpenWorker) -> None:
    setup = open_worker()
    with TestClient(create_app(memory_library(worker=setup.worker))) as api:
        until(lambda: api.get("/readyz").status_code == 200)
        setup.worker.close()
        until(lambda: api.get("/readyz").status_code == 503)
        answer = api.get("/readyz")
        (worker,) = [check for check in answer.json()["checks"] if check["name"] == "worker"]
        assert "thread has ended" in worker["detail"]
        assert api.post("/generate", json={"prompt": "a", "steering": "off"}).status_code == 503
    with pytest.raises(WorkerUnavailable):
        setup.worker.models()


def test_an_unexpected_error_counts_as_failed_and_not_as_cancelled(
    open_worker: OpenWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = open_worker()

    def broken(_key: str, _sha256: str) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(setup.store, "get", broken)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask(setup))
    ends = {end: setup.registry.get_sample_value("vlibrary_worker_requests_total", labels(end)) for end in ENDS}
    assert ends == {"failed": 1, "cancelled": None}


ENDS = ("failed", "cancelled")


def labels(end: str) -> dict[str, str]:
    return {"end": end, "steered": "true"}


async def ask(setup: WorkerSetup) -> None:
    async with aclosing(setup.worker.generate(setup.call(RequestSpec(0, 1)))) as events:
        async for _ in events:
            pass
