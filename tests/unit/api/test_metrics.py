"""What the api counts."""

from __future__ import annotations

import time

import httpx
import pytest
from httpx_sse import connect_sse
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.live_server import live
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app

ASK = {"prompt": "a", "steering": "off"}


def read(text: str) -> dict[tuple[str, ...], float]:
    """Every sample as name and label values, buckets left out."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(one.name, *one.labels.values()): one.value for one in samples if not one.name.endswith("_bucket")}


def test_requests_are_counted_and_timed_by_route_and_status() -> None:
    with TestClient(create_app(memory_library())) as api:
        api.get("/vectors/a")
        api.get("/vectors/b")
        api.post("/generate", json=ASK)
        api.get("/made-up")
        api.request("BREW", "/livez")
        told = read(api.get("/metrics").text)
    requests = {key[1:]: value for key, value in told.items() if key[0] == "vlibrary_api_requests_total"}
    assert requests == {
        ("GET /vectors/{vector_id}", "404"): 2,
        ("POST /generate", "200"): 1,
        ("(none)", "404"): 1,
        ("(none)", "405"): 1,
    }
    assert told["vlibrary_api_request_seconds_count", "GET /vectors/{vector_id}"] == 2
    assert 0 < told["vlibrary_api_request_seconds_sum", "POST /generate"] < 5


def test_a_failure_that_nobody_foresaw_is_counted() -> None:
    app = create_app(memory_library(worker=ScriptedWorker([], ZeroDivisionError())))
    with TestClient(app, raise_server_exceptions=False) as api:
        api.post("/generate", json=ASK)
        assert read(api.get("/metrics").text)["vlibrary_api_requests_total", "POST /generate", "500"] == 1


def test_two_apps_count_apart() -> None:
    with TestClient(create_app(memory_library())) as one, TestClient(create_app(memory_library())) as other:
        one.get("/livez")
        assert ("vlibrary_api_requests_total", "GET /livez", "200") not in read(other.get("/metrics").text)


def test_open_streams_and_clients_that_left_are_counted() -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)
    with live(create_app(memory_library(worker=worker))) as url, httpx.Client(base_url=url) as client:

        def wait_for(key: tuple[str, ...], value: float) -> None:
            deadline = time.monotonic() + 5
            while read(client.get("/metrics").text).get(key) != value:
                assert time.monotonic() < deadline, key

        with connect_sse(client, "POST", "/generate", json=ASK | {"stream": True}) as source:
            events = source.iter_sse()
            assert next(events).event == "steering"
            wait_for(("vlibrary_api_streams_open",), 1)
        wait_for(("vlibrary_api_streams_open",), 0)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/generate", json=ASK, timeout=httpx.Timeout(5, read=0.3))
        wait_for(("vlibrary_api_requests_total", "POST /generate", "499"), 1)
