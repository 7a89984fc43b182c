"""The HTTP API on in-memory stores: every path, and a problem document with a cure for every invalid input."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any

import httpx2
import pytest
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.memory.worker import CONTEXT_LENGTH, MODEL
from tests.support.samples import artifact, blank_png, card, png
from vlibrary.api.app import ROUTES, create_app
from vlibrary.api.http.deps import Limits
from vlibrary.formats.artifact import sha256_of
from vlibrary.library.library import Library

COLOUR = "Which colour is the shape?"


@pytest.fixture
def library() -> Library:
    return memory_library()


@pytest.fixture
def api(library: Library) -> Iterator[TestClient]:
    limits = Limits(artifact_bytes=10_000, card_bytes=20_000, request_bytes=200_000)
    with TestClient(create_app(library, limits), raise_server_exceptions=False) as client:
        yield client


def calls_of(dependant: Dependant) -> Iterator[Any]:
    for one in dependant.dependencies:
        yield one.call
        yield from calls_of(one)


def test_no_dependency_of_a_route_needs_a_thread() -> None:
    routes = [route for module in ROUTES for route in module.router.routes if isinstance(route, APIRoute)]
    calls = {call for route in routes for call in calls_of(route.dependant)}
    assert len(calls) > 3
    assert {call for call in calls if not (iscoroutinefunction(call) or isasyncgenfunction(call))} == set()


def upload(api: TestClient, name: str = "colour", description: str = COLOUR, seed: int = 0) -> dict[str, Any]:
    answer = send(api, artifact(MODEL, seed), card(name, description))
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def send(api: TestClient, data: bytes, text: str, **headers: str) -> httpx2.Response:
    return api.post("/vectors", files={"artifact": ("v.safetensors", data)}, data={"card": text}, headers=headers)


def assert_problem(answer: httpx2.Response, status: int, slug: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["cure"]
    if slug:
        assert body["type"] == f"/problems/{slug}"
    return body


def test_register_read_download_and_delete(api: TestClient) -> None:
    answer = send(api, artifact(MODEL), card("colour", COLOUR))
    record = answer.json()
    assert record.pop("description_text")["truncated"] is False
    assert answer.headers["location"] == f"/vectors/{record['id']}"
    assert (record["name"], record["version"], record["method"], record["layers"]) == ("colour", 1, "m2iv", 2)
    assert api.get(f"/vectors/{record['id']}").json() == record
    content = api.get(f"/vectors/{record['id']}/content")
    assert sha256_of(content.content) == record["sha256"]
    assert content.headers["etag"] == f'"sha256:{record["sha256"]}"'
    digest = base64.b64encode(bytes.fromhex(record["sha256"])).decode()
    assert content.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert api.delete(f"/vectors/{record['id']}").status_code == 204
    for path in (f"/vectors/{record['id']}", f"/vectors/{record['id']}/content"):
        assert_problem(api.get(path), 404, "vector-not-found")
    assert_problem(api.delete(f"/vectors/{record['id']}"), 404, "vector-not-found")


def test_the_card_can_be_a_file(api: TestClient) -> None:
    files = {"artifact": ("v", artifact(MODEL)), "card": ("c.json", card("colour", COLOUR).encode())}
    assert api.post("/vectors", files=files).status_code == 201


def test_an_idempotency_key_prevents_duplicates(api: TestClient) -> None:
    key = {"Idempotency-Key": "k1"}
    first = send(api, artifact(MODEL), card("colour", COLOUR), **key)
    again = send(api, artifact(MODEL), card("colour", COLOUR), **key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert_problem(send(api, artifact(MODEL, 1), card("colour", COLOUR), **key), 422, "idempotency-key-reused")


def test_vectors_are_listed_in_pages(api: TestClient) -> None:
    made = [upload(api, name, seed=at)["id"] for at, name in enumerate("abcde")]
    first = api.get("/vectors", params={"limit": 3}).json()
    rest = api.get("/vectors", params={"limit": 3, "cursor": first["next"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == made[::-1]
    assert rest["next"] is None
    assert [item["name"] for item in api.get("/vectors", params={"name": "c"}).json()["items"]] == ["c"]
    assert_problem(api.get("/vectors", params={"cursor": "nonsense"}), 422)
    assert_problem(api.get("/vectors", params={"limit": 0}), 422)


def test_retrieve_by_text_image_and_both(api: TestClient) -> None:
    record = upload(api)
    found = api.get("/retrieve", params={"query": COLOUR, "k": 1}).json()
    assert (found["modality"], found["matches"][0]["id"]) == ("text", record["id"])
    assert found["matches"][0]["accepted"]
    both = {"text": COLOUR, "images": [base64.b64encode(png()).decode()]}
    as_json = api.post("/retrieve", json=both).json()
    assert as_json["modality"] == "image_text"
    as_form = api.post("/retrieve", data={"text": COLOUR}, files={"images": ("a.png", png())}).json()
    assert as_form == as_json
    only_image = api.post("/retrieve", json={"images": both["images"], "k": 2}).json()
    assert only_image["modality"] == "image"


def test_generate_names_the_applied_vectors(api: TestClient) -> None:
    record = upload(api)
    body = api.post("/generate", json={"prompt": COLOUR}).json()
    (applied,) = body["steering"]["applied"]
    expected = {name: record[name] for name in ("id", "name", "version", "sha256")}
    assert applied == expected | {"score": pytest.approx(1.0), "strength": 1.0}
    assert body["usage"]["prompt_tokens"] == len(COLOUR.split())
    off = api.post("/generate", json={"prompt": COLOUR, "steering": "off"}).json()
    assert (off["steering"]["applied"], off["steering"]["reason"]["code"]) == ([], "off")
    chosen = {"prompt": "hello", "steering": [{"id": record["id"], "strength": 0.25}]}
    assert api.post("/generate", json=chosen).json()["text"] == f"hello + 0.25·{record['id']}"


def test_generate_from_a_form(api: TestClient) -> None:
    record = upload(api)
    form = {"prompt": "hello", "steering": json.dumps([{"id": record["id"]}]), "decoding": '{"max_new_tokens": 2}'}
    answer = api.post("/generate", data=form, files=[("images", ("a.png", png())), ("images", ("b.png", png()))])
    assert answer.json()["text"] == f"hello + 1·{record['id']}", answer.text


BAD_ARTIFACTS = {
    "empty": (b"", "invalid-artifact"),
    "pickle": (b"\x80\x04\x95", "invalid-artifact"),
    "truncated": (artifact(MODEL)[:-1], "invalid-artifact"),
    "other model": (artifact(replace(MODEL, fingerprint="f" * 64)), "wrong-model"),
    "other depth": (artifact(replace(MODEL, layers=3)), "wrong-model"),
}


@pytest.mark.parametrize("case", BAD_ARTIFACTS)
def test_an_invalid_artifact_is_rejected_and_not_registered(api: TestClient, case: str) -> None:
    data, slug = BAD_ARTIFACTS[case]
    assert_problem(send(api, data, card("colour", COLOUR)), 422, slug)
    assert api.get("/vectors").json()["items"] == []


def test_invalid_forms_are_rejected(api: TestClient) -> None:
    assert_problem(send(api, artifact(MODEL), "no json"), 422, "invalid-card")
    assert_problem(api.post("/vectors", data={"card": card("a", "b")}), 422)
    assert_problem(api.post("/vectors", files={"artifact": ("v", artifact(MODEL))}), 422, "invalid-input")
    assert_problem(api.post("/vectors", content=b"x", headers={"content-type": "multipart/form-data"}), 422)
    assert_problem(api.post("/vectors", json={}), 422, "invalid-input")
    assert_problem(send(api, artifact(MODEL), card("a", "b"), **{"Idempotency-Key": "k" * 256}), 422)


def test_oversized_bodies_are_rejected(api: TestClient) -> None:
    assert_problem(send(api, b"x" * 10_001, card("colour", COLOUR)), 413, "too-large")
    assert_problem(send(api, b"x" * 300_000, card("colour", COLOUR)), 413, "too-large")
    assert_problem(send(api, artifact(MODEL), "x" * 20_001), 413, "too-large")

    def chunks() -> Iterator[bytes]:  # no Content-Length: the size shows only while it is read
        for _ in range(30):
            yield b"x" * 10_000

    assert_problem(api.post("/generate", content=chunks()), 413, "too-large")


PICTURE = base64.b64encode(png()).decode()
BOMB = base64.b64encode(blank_png(13_000, 13_000)).decode()

BAD_GENERATE: dict[str, tuple[dict[str, Any], int]] = {
    "empty prompt": ({"prompt": " "}, 422),
    "no prompt": ({}, 422),
    "unknown field": ({"prompt": "a", "temprature": 1}, 422),
    "unknown id": ({"prompt": "a", "steering": [{"id": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}]}, 404),
    "unknown model": ({"prompt": "a", "model": "gpt-0"}, 404),
    "strength NaN": ({"prompt": "a", "strength": float("nan")}, 422),
    "strength infinite": ({"prompt": "a", "steering": [{"id": "x", "strength": float("inf")}]}, 422),
    "not base64": ({"prompt": "a", "images": ["*"]}, 422),
    "not an image": ({"prompt": "a", "images": [base64.b64encode(b"hello").decode()]}, 422),
    "truncated image": ({"prompt": "a", "images": [base64.b64encode(png()[:60]).decode()]}, 422),
    "decompression bomb": ({"prompt": "a", "images": [BOMB]}, 422),
    "pictures and demonstrations": (
        {
            "prompt": "a",
            "images": [PICTURE],
            "demonstrations": [{"prompt": "a", "images": [PICTURE] * 32, "answer": "b"}] * 2,
        },
        422,
    ),
    "seventeen vectors": ({"prompt": "a", "steering": [{"id": "x"}] * 17}, 422),
    "too long": ({"prompt": "word " * CONTEXT_LENGTH}, 422),
    "no tokens wanted": ({"prompt": "a", "decoding": {"max_new_tokens": 0}}, 422),
    "more tokens at least than at most": ({"prompt": "a", "decoding": {"min_new_tokens": 17}}, 422),
    "too many most likely tokens": ({"prompt": "a", "decoding": {"logprobs": 21}}, 422),
    "logprobs as a flag": ({"prompt": "a", "decoding": {"logprobs": True}}, 422),
    "a bias for no token id": ({"prompt": "a", "decoding": {"logit_bias": {"the": 1}}}, 422),
    "a bias with a leading zero": ({"prompt": "a", "decoding": {"logit_bias": {"01": 1}}}, 422),
    "an infinite bias": ({"prompt": "a", "decoding": {"logit_bias": {"1": float("inf")}}}, 422),
    "no repetition penalty": ({"prompt": "a", "decoding": {"repetition_penalty": 0}}, 422),
    "a seed of 65 bits": ({"prompt": "a", "decoding": {"seed": 2**63}}, 422),
}


@pytest.mark.parametrize("case", BAD_GENERATE)
def test_invalid_generate_requests_are_rejected(api: TestClient, case: str) -> None:
    body, status = BAD_GENERATE[case]
    answer = api.post("/generate", content=json.dumps(body), headers={"content-type": "application/json"})
    assert_problem(answer, status)


def test_the_maximum_number_of_images_is_accepted(api: TestClient) -> None:
    shown = [{"prompt": "a", "images": [PICTURE] * 21, "answer": "b"}] * 3
    body = {"prompt": "a", "images": [PICTURE], "demonstrations": shown, "steering": "off"}
    assert api.post("/generate", json=body).status_code == 200


def test_invalid_retrieve_requests_are_rejected(api: TestClient) -> None:
    assert_problem(api.get("/retrieve", params={"query": ""}), 422, "invalid-query")
    assert_problem(api.get("/retrieve"), 422, "invalid-request")
    assert_problem(api.get("/retrieve", params={"query": "a", "k": 0}), 422, "invalid-request")
    assert_problem(api.get("/retrieve", params={"query": "a", "k": 101}), 422, "invalid-request")
    assert_problem(api.get("/retrieve", params={"query": "a", "k": "many"}), 422, "invalid-request")
    assert_problem(api.get("/retrieve", params={"query": "a", "model": "gpt-0"}), 404, "model-not-found")
    assert_problem(api.post("/retrieve", json={}), 422, "invalid-query")
    assert_problem(api.post("/retrieve", content=b"{"), 422, "invalid-input")
    assert_problem(api.post("/retrieve", content=b"<a/>", headers={"content-type": "text/xml"}), 422)


def test_unknown_paths_and_methods_return_problems(api: TestClient) -> None:
    assert_problem(api.get("/nowhere"), 404)
    assert_problem(api.put("/vectors"), 405)
    assert_problem(api.get("/problems/none"), 404)


def test_health_and_models(api: TestClient) -> None:
    assert api.get("/livez").json() == {"live": True}
    ready = api.get("/readyz").json()
    assert {check["name"] for check in ready["checks"]} == {"catalogue", "artifacts", "index", "worker"}
    assert api.get("/models").json()["items"][0]["id"] == MODEL.model_id
