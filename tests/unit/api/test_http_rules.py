"""What holds for every request: ids, HEAD, Allow, CORS, limits, encodings, and queries read strictly."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.support.library import memory_library, register
from tests.support.scripted_worker import ScriptedWorker
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.middleware.size_limits import MAX_URL_BYTES
from vlibrary.domain.errors import WorkerLost
from vlibrary.schemas.filters import REPEATABLE

LIMIT = 200_000
BODY = b'{"prompt": "Which hue?", "steering": "off"}'


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    library = memory_library()
    register(library, "colour", "Which hue?")
    app = create_app(library, Limits(request_bytes=LIMIT), cors_origins=("localhost", "https://example.org"))

    @app.get("/fails")
    def fails() -> None:
        raise RuntimeError("unforeseen")

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def gets(api: TestClient) -> list[str]:
    paths = api.get("/openapi.json").json()["paths"]
    return [path for path, methods in paths.items() if "get" in methods and "{" not in path]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/livez", 200),
        ("GET", "/docs", 200),
        ("GET", "/nowhere", 404),
        ("PUT", "/vectors", 405),
        ("GET", "/retrieve", 422),
        ("POST", "/v1/chat/completions", 400),
        ("GET", "/fails", 500),
        ("GET", "/livez?" + "a" * MAX_URL_BYTES, 414),
        ("HEAD", "/livez", 200),
    ],
)
def test_every_answer_has_the_id_of_its_request(api: TestClient, method: str, path: str, status: int) -> None:
    answer = api.request(method, path, headers={"X-Request-Id": "req-1", "Origin": "http://localhost:3000"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (status, "req-1")
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["request_id"] == "req-1"


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "a\tb", "ä", '"'])
def test_a_missing_or_strange_id_is_replaced(api: TestClient, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
    made = [api.get("/livez", headers=headers).headers["x-request-id"] for _ in range(2)]  # type: ignore[arg-type]
    assert len(set(made)) == 2
    assert given not in made


def test_log_lines_and_streams_have_the_id_of_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, structlog.processors.JSONRenderer()])
    try:
        worker = ScriptedWorker(["a"], WorkerLost("The worker exited.", "Retry."))
        with TestClient(create_app(memory_library(worker=worker))) as client:
            body = {"prompt": "a", "steering": "off", "stream": True}
            answer = client.post("/generate", json=body, headers={"X-Request-Id": "req-2"})
    finally:
        structlog.configure(**before)
    last = answer.text.strip().split("\n\n")[-1]
    assert json.loads(last.partition("data: ")[2])["request_id"] == "req-2"
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["request_id"] for line in lines] == ["req-2"]


def test_head_has_the_status_and_headers_of_get(api: TestClient) -> None:
    for path in [*gets(api), "/vectors/colour", "/docs", "/nowhere", "/vectors/colour/content"]:
        got, head = api.get(path), api.head(path)
        assert (head.status_code, head.content) == (got.status_code, b""), path
        assert {name: value for name, value in head.headers.items() if name != "x-request-id"}.keys() == {
            name: value for name, value in got.headers.items() if name != "x-request-id"
        }.keys(), path


def test_allow_names_all_methods_of_the_path(api: TestClient) -> None:
    for path, methods in api.get("/openapi.json").json()["paths"].items():
        expected = {method.upper() for method in methods} | {"OPTIONS"} | ({"HEAD"} if "get" in methods else set())
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS"} - expected | {"OPTIONS"}:
            answer = api.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code == (204 if method == "OPTIONS" else 405), (method, path)
            assert set(answer.headers["allow"].split(", ")) == expected, (method, path)
            assert method == "OPTIONS" or answer.headers["allow"] in answer.json()["cure"]
    assert api.put("/static-offline-docs/x").headers["allow"] == "GET, HEAD, OPTIONS"


def preflight(api: TestClient, origin: str) -> httpx2.Response:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type,authorization"}
    return api.options("/v1/chat/completions", headers={"Origin": origin, **asked})


@pytest.mark.parametrize(
    "origin", ["http://localhost:3000", "https://127.0.0.1", "http://[::1]:80", "https://example.org"]
)
def test_allowed_pages_pass_the_preflight(api: TestClient, origin: str) -> None:
    answer = preflight(api, origin)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
    assert "authorization" in answer.headers["access-control-allow-headers"]


@pytest.mark.parametrize("origin", ["https://localhost.evil.example", "https://example.org.evil.example", "null"])
def test_other_pages_do_not_pass_the_preflight(api: TestClient, origin: str) -> None:
    assert "access-control-allow-origin" not in preflight(api, origin).headers
    assert "access-control-allow-origin" not in api.get("/livez", headers={"Origin": origin}).headers


def deflated(data: bytes, bits: int) -> bytes:
    packer = zlib.compressobj(wbits=bits)
    return packer.compress(data) + packer.flush()


ENCODED = {
    "gzip": ("gzip", gzip.compress(BODY)),
    "gzip of two members": ("GZIP", gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])),
    "zlib": ("deflate", deflated(BODY, 15)),
    "raw deflate": ("deflate", deflated(BODY, -15)),
    "identity": ("identity", BODY),
}


def send(api: TestClient, encoding: str, body: Any) -> httpx2.Response:
    return api.post(
        "/generate", content=body, headers={"Content-Encoding": encoding, "Content-Type": "application/json"}
    )


@pytest.mark.parametrize("case", ENCODED)
def test_compressed_bodies_are_read(api: TestClient, case: str) -> None:
    encoding, body = ENCODED[case]
    for size in (1, 7, 10_000):
        answer = send(api, encoding, (body[at : at + size] for at in range(0, len(body), size)))
        assert (answer.status_code, answer.json().get("text")) == (200, "Which hue?")


@given(st.sampled_from(["gzip", "zlib", "raw deflate"]), st.data())
def test_every_truncation_of_a_compressed_body_is_refused(api: TestClient, case: str, data: st.DataObject) -> None:
    encoding, body = ENCODED[case]
    answer = send(api, encoding, body[: data.draw(st.integers(0, len(body) - 1))])
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-input")


@pytest.mark.parametrize("fill", [b" ", b"\xff"])
@pytest.mark.parametrize(("size", "status"), [(LIMIT - len(BODY), 200), (LIMIT, 413), (200 * LIMIT, 413)])
def test_a_compressed_body_is_inflated_within_the_limit(api: TestClient, fill: bytes, size: int, status: int) -> None:
    body = gzip.compress(BODY + fill * size)
    assert len(body) < LIMIT
    assert send(api, "gzip", body).status_code == (422 if status == 200 and fill != b" " else status)


def test_wrong_compressed_bodies_are_refused(api: TestClient) -> None:
    for encoding, body in (
        ("gzip", BODY),
        ("deflate", deflated(BODY, 15) + b"x"),
        ("gzip", gzip.compress(BODY) + b"x"),
    ):
        assert send(api, encoding, body).status_code == 422, (encoding, body)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x"])
def test_other_encodings_get_415_with_those_accepted(api: TestClient, encoding: str) -> None:
    answer = send(api, encoding, BODY)
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")
    assert encoding in answer.json()["detail"]


def test_long_urls_and_headers_are_refused(api: TestClient) -> None:
    room = MAX_URL_BYTES - len("/retrieve" + "query=")
    assert api.get("/retrieve?query=" + "a" * room).status_code == 200
    assert api.get("/retrieve?query=" + "a" * (room + 1)).status_code == 414
    long = api.get("/retrieve?query=" + "a" * MAX_URL_BYTES)
    assert (long.status_code, long.json()["type"]) == (414, "/problems/request-uri-too-long")
    assert "POST" in long.json()["cure"]
    assert api.get("/livez", headers={"X": "a" * 70_000}).status_code == 431


@pytest.mark.parametrize(
    ("query", "pointer", "problem"),
    [
        ("/retrieve?query=a&query=b", "/query/query", "2 times"),
        ("/retrieve?query=a&k=1&k=1", "/query/k", "2 times"),
        ("/vectors?name=a&name=a", "/query/name", "2 times"),
        ("/vectors?name=a&n%61me=a", "/query/name", "2 times"),
        ("/retrieve?query=Gr%F6%DFe", "/query/query", "byte 0xF6 at offset 2"),
        ("/export?tag=%FF", "/query/tag", "byte 0xFF at offset 0"),
        ("/audit?actor=%ED%A0%80", "/query/actor", "byte 0xED at offset 0"),
    ],
)
def test_a_query_in_doubt_is_refused_by_name(api: TestClient, query: str, pointer: str, problem: str) -> None:
    answer = api.get(query)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert problem in error["detail"]


def test_parameters_may_repeat_where_the_document_has_a_list(api: TestClient) -> None:
    lists = {
        one["name"]
        for methods in api.get("/openapi.json").json()["paths"].values()
        for operation in methods.values()
        for one in operation.get("parameters", [])
        if one["in"] == "query" and one["schema"].get("type") == "array"
    }
    assert lists == REPEATABLE
    assert api.get("/vectors?tag=a&tag=b&metadata=a=1&metadata=b=2").status_code == 200


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions", "/v1/responses"])
def test_timings_contain_retrieval_and_are_in_the_header(api: TestClient, path: str) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "/generate": {"prompt": "Which hue?"},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "Which hue?"}]},
        "/v1/responses": {"input": "Which hue?"},
    }
    answer = api.post(path, json=bodies[path])
    assert answer.status_code == 200, answer.text
    timings = (answer.json() if path == "/generate" else answer.json()["vlibrary"])["timings"]
    assert 0 < timings["retrieval_s"] <= timings["total_s"]
    header = dict(one.split(";dur=") for one in answer.headers["server-timing"].split(", "))
    assert float(header["retrieval"]) == pytest.approx(1000 * timings["retrieval_s"], abs=0.06)
    assert float(header["total"]) >= 1000 * timings["total_s"] - 0.1
    assert set(header) == {name.removesuffix("_s") for name in timings}
