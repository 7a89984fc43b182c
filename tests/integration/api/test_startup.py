"""Startup of the service with the artifact store unreachable."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.memory.worker import MemoryWorker
from vlibrary.api.bootstrap import open_app
from vlibrary.config import Settings


def test_the_service_starts_without_its_store_and_logs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "any")
    settings = Settings(data_dir=tmp_path, artifacts="s3://bucket", s3_endpoint_url="http://127.0.0.1:9")
    with capture_logs() as logs:
        open_app(settings, lambda artifacts, *_: MemoryWorker(artifacts))
    (warned,) = [entry for entry in logs if entry["event"] == "heartbeat.store_unavailable"]
    assert "EndpointConnectionError" in warned["detail"]
