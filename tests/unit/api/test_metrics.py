"""Request metrics of the API."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.scripted_worker import ScriptedWorker
from vlibrary.api.app import create_app

REQUEST = {"prompt": "a", "steering": "off"}


def read(text: str) -> dict[tuple[str, ...], float]:
    """Return every sample except buckets by its name and label values."""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(one.name, *one.labels.values()): one.value for one in samples if not one.name.endswith("_bucket")}


def test_requests_are_counted_and_timed_by_route_and_status() -> None:
    with TestClient(create_app(memory_library())) as api:
        api.get("/vectors/a")
        api.get("/vectors/b")
        api.post("/generate", json=REQUEST)
        api.get("/made-up")
        api.request("BREW", "/livez")
        samples = read(api.get("/metrics").text)
    requests = {key[1:]: value for key, value in samples.items() if key[0] == "vlibrary_api_requests_total"}
    assert requests == {
        ("GET /vectors/{vector_id}", "404"): 2,
        ("POST /generate", "200"): 1,
        ("(none)", "404"): 1,
        ("(none)", "405"): 1,
    }
    assert samples["vlibrary_api_request_seconds_count", "GET /vectors/{vector_id}"] == 2
    assert 0 < samples["vlibrary_api_request_seconds_sum", "POST /generate"] < 5


def test_unexpected_errors_are_counted_as_500() -> None:
    app = create_app(memory_library(worker=ScriptedWorker([], ZeroDivisionError())))
    with TestClient(app, raise_server_exceptions=False) as api:
        api.post("/generate", json=REQUEST)
        assert read(api.get("/metrics").text)["vlibrary_api_requests_total", "POST /generate", "500"] == 1


def test_each_app_has_separate_metrics() -> None:
    with TestClient(create_app(memory_library())) as one, TestClient(create_app(memory_library())) as other:
        one.get("/livez")
        assert ("vlibrary_api_requests_total", "GET /livez", "200") not in read(other.get("/metrics").text)
