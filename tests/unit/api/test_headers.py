"""Responses carry exactly the headers that the OpenAPI document declares."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.support.library import memory_library, register
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.domain.errors import ArtifactsUnavailable

# Headers of every response with a body.
EVERYWHERE = {
    "content-length",
    "content-security-policy",
    "content-type",
    "referrer-policy",
    "server-timing",
    "x-content-type-options",
    "x-frame-options",
    "x-request-id",
}
METHODS = ("get", "post", "put", "patch", "delete")
VECTOR, ALIAS = "/vectors/{vector_id}", "/aliases/{name}/{alias}"


class LinkingArtifacts(MemoryArtifacts):
    """A store with download links that fails while `broken` is set."""

    broken = False

    def link(self, key: str, seconds: int, *, filename: str) -> str:
        return f"http://elsewhere/{key}?seconds={seconds}&as={filename}"

    def put(self, key: str, data: bytes, sha256: str) -> None:
        if self.broken:
            raise ArtifactsUnavailable("The store is broken.", "Fix it.")
        super().put(key, data, sha256)


class Comparison:
    """Sends requests and compares the responses with the document. seen: (method, path, status) of each response."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.artifacts = LinkingArtifacts()
        self.library = memory_library(self.artifacts)
        self.api = TestClient(create_app(self.library, limits))
        self.document: dict[str, Any] = self.api.get("/openapi.json").json()
        self.seen: set[tuple[str, str, str]] = set()

    def ask(self, method: str, path: str, status: int, *, at: str | None = None, **request: Any) -> httpx2.Response:
        """Send a request to `at`, by default the path template, and check status and headers."""
        answer = self.api.request(method, at or path, follow_redirects=False, **request)
        assert answer.status_code == status, answer.text
        declared = self.document["paths"][path][method]["responses"][str(status)].get("headers", {})
        carried = set(answer.headers) - EVERYWHERE
        assert carried <= {name.lower() for name in declared}, (method, path, status)
        assert carried >= {name.lower() for name, one in declared.items() if one["required"]}, (method, path, status)
        self.seen.add((method, path, str(status)))
        return answer


@pytest.fixture
def comparison() -> Iterator[Comparison]:
    comparison = Comparison()
    with comparison.api:
        yield comparison


def upload(seed: int = 0) -> dict[str, Any]:
    return {"files": {"artifact": ("v", artifact(MODEL, seed))}, "data": {"card": card("colour", "Which hue?")}}


def test_responses_carry_the_declared_headers(comparison: Comparison) -> None:
    ask = comparison.ask
    made = ask("post", "/vectors", 201, **upload()).json()["id"]
    ask("get", "/vectors", 200)
    here = {"at": f"/vectors/{made}"}
    ask("get", VECTOR, 200, **here)
    ask("patch", VECTOR, 200, json={"tags": ["a"]}, headers={"If-Match": '"v1"'}, **here)
    ask("patch", VECTOR, 412, json={"tags": ["b"]}, headers={"If-Match": '"v1"'}, **here)
    ask("get", f"{VECTOR}/lineage", 200, at=f"/vectors/{made}/lineage")
    content = {"at": f"/vectors/{made}/content"}
    etag = ask("get", f"{VECTOR}/content", 200, **content).headers["etag"]
    ask("get", f"{VECTOR}/content", 304, headers={"If-None-Match": etag}, **content)
    ask("get", f"{VECTOR}/content", 307, params={"redirect": True}, **content)
    alias = {"at": "/aliases/colour/production"}
    ask("put", ALIAS, 200, json={"vector": made}, headers={"If-None-Match": "*"}, **alias)
    revision = ask("get", ALIAS, 200, **alias).headers["etag"]
    ask("get", "/aliases", 200)
    ask("delete", VECTOR, 409, **here)
    ask("delete", ALIAS, 204, headers={"If-Match": revision}, **alias)
    ask("delete", VECTOR, 204, **here)
    ask("post", f"{VECTOR}/restore", 200, at=f"/vectors/{made}/restore")
    archive = ask("get", "/export", 200).content
    ask("post", "/import", 200, content=io.BytesIO(archive), headers={"Content-Type": "application/x-tar"})
    ask("get", "/retrieve", 200, params={"query": "Which hue?"})
    ask("post", "/retrieve", 200, json={"text": "Which hue?"})
    for stream in (False, True):
        ask("post", "/generate", 200, json={"prompt": "Which hue?", "stream": stream})
        chat = {"messages": [{"role": "user", "content": "Which hue?"}], "stream": stream}
        ask("post", "/v1/chat/completions", 200, json=chat)
    ask("post", "/v1/completions", 200, json={"prompt": "Which hue?"})
    ask("post", "/v1/completions", 200, json={"prompt": "Which hue?", "stream": True})
    ask("post", "/v1/responses", 200, json={"input": "Which hue?"})
    ask("post", "/v1/responses", 200, json={"input": "Which hue?", "stream": True})
    ask("post", "/v1/embeddings", 200, json={"input": "Which hue?"})
    for path in ("/audit", "/models", "/v1/models", "/metrics", "/livez", "/readyz", "/health", "/version"):
        ask("get", path, 200)
    ask("get", "/v1/models/{model_id}", 200, at=f"/v1/models/{MODEL.model_id}")
    ask("get", "/problems/{slug}", 200, at="/problems/not-found")
    promised = {
        (method, path, status)
        for path, methods in comparison.document["paths"].items()
        for method, operation in methods.items()
        for status in operation["responses"]
        if method in METHODS and status < "4"
    }
    assert promised <= comparison.seen


def test_errors_carry_the_declared_headers(comparison: Comparison) -> None:
    ask = comparison.ask
    comparison.artifacts.broken = True
    ask("post", "/vectors", 503, **upload())
    comparison.artifacts.broken = False
    same_key = {"Idempotency-Key": "one"}
    ask("post", "/vectors", 201, headers=same_key, **upload())
    ask("post", "/vectors", 422, headers=same_key, **upload(1))
    ask("get", VECTOR, 404, at="/vectors/none")


def test_requests_over_the_limit_get_retry_after() -> None:
    crowded = Comparison(Limits(max_requests=0))
    record = register(crowded.library, "colour", "Which hue?")
    crowded.ask("post", "/vectors", 429, **upload())
    crowded.ask("patch", VECTOR, 429, at=f"/vectors/{record.id}", headers={"If-Match": '"v1"'}, json={"tags": []})
    crowded.ask("get", f"{VECTOR}/content", 429, at=f"/vectors/{record.id}/content")
    for method, path in (("get", "/export"), ("post", "/import"), ("post", "/retrieve"), ("post", "/generate")):
        crowded.ask(method, path, 429)
    crowded.ask("get", VECTOR, 200, at=f"/vectors/{record.id}")
