"""Metrics of open streams and of clients that disconnect."""

from __future__ import annotations

import httpx
import pytest
from httpx_sse import connect_sse

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.scripted_worker import ScriptedWorker, Then
from tests.support.worker_server import until
from vlibrary.api.app import create_app

REQUEST = {"prompt": "a", "steering": "off"}


def test_open_streams_and_disconnected_clients_are_counted() -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)
    with live(create_app(memory_library(worker=worker))) as url, httpx.Client(base_url=url) as client:

        def has(sample: str) -> bool:
            return sample in client.get("/metrics").text.splitlines()

        with connect_sse(client, "POST", "/generate", json=REQUEST | {"stream": True}) as source:
            events = source.iter_sse()  # a reference: the iterator closes the response when it is collected
            assert next(events).event == "steering"
            until(lambda: has("vlibrary_api_streams_open 1.0"))
        until(lambda: has("vlibrary_api_streams_open 0.0"))
        with pytest.raises(httpx.ReadTimeout):
            client.post("/generate", json=REQUEST, timeout=httpx.Timeout(5, read=0.3))
        until(lambda: has('vlibrary_api_requests_total{route="POST /generate",status="499"} 1.0'))
