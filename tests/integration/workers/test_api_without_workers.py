"""The api while none of its workers responds."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MemoryWorker
from tests.support.registrations import register
from tests.support.worker_process import free_port
from tests.support.worker_server import serving, until
from vlibrary.api.bootstrap import open_app
from vlibrary.bootstrap import open_stores
from vlibrary.config import Settings


def test_without_a_worker_only_what_needs_a_model_answers_503(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(data_dir=tmp_path, workers=(f"http://127.0.0.1:{port}",))
    catalogue = open_stores(settings, create=True).catalogue
    record = register(catalogue)
    with TestClient(open_app(settings, lambda *_: pytest.fail("opened a worker in this process"))) as api:
        assert [one["id"] for one in api.get("/vectors").json()["items"]] == [record.id]
        assert api.get("/audit").status_code == 200
        until(lambda: "does not respond (ConnectError)" in api.get("/readyz").text)
        assert api.get("/readyz").status_code == 503
        for method, path, body in (
            ("POST", "/generate", {"prompt": "a", "steering": "off"}),
            ("POST", "/retrieve", {"text": "a"}),
            ("GET", "/models", None),
        ):
            answer = api.request(method, path, json=body)
            assert (answer.status_code, answer.json()["type"]) == (503, "/problems/worker-unavailable"), path
        etag = api.get(f"/vectors/{record.id}").headers["etag"]
        assert api.delete(f"/vectors/{record.id}", headers={"If-Match": etag}).status_code == 204
        with serving(MemoryWorker(MemoryArtifacts()), port=port):
            until(lambda: api.get("/readyz").json()["ready"])
            assert api.post("/generate", json={"prompt": "a", "steering": "off"}).status_code == 200
            assert api.post("/retrieve", json={"text": "a"}).json()["matches"] == []
