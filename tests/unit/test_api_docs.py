"""The OpenAPI document is the admin dashboard: complete, offline, and its examples run as they stand."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.api.app import create_app
from service.api.errors import STATUS, status_of
from service.api.schemas import ProblemOut
from service.domain import errors
from tests.support.library import memory_ports, register

METHODS = ("get", "post", "put", "patch", "delete")
OURS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.VLibraryError) and kind is not errors.VLibraryError
]


@pytest.fixture(scope="module")
def api() -> TestClient:
    ports = memory_ports()
    register(ports, "colour", "Which hue?")
    return TestClient(create_app(ports))


@pytest.fixture(scope="module")
def document(api: TestClient) -> dict[str, Any]:
    body: dict[str, Any] = api.get("/openapi.json").json()
    return body


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if method in METHODS
    ]


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    found = operations(document)
    assert {(path, method) for path, method, _ in found} >= {
        ("/vectors", "post"),
        ("/vectors", "get"),
        ("/vectors/{vector_id}", "get"),
        ("/vectors/{vector_id}", "delete"),
        ("/vectors/{vector_id}/content", "get"),
        ("/retrieve", "get"),
        ("/retrieve", "post"),
        ("/generate", "post"),
        ("/livez", "get"),
        ("/readyz", "get"),
    }
    ids = [operation["operationId"] for _, _, operation in found]
    assert len(set(ids)) == len(ids)
    for path, method, operation in found:
        assert operation["summary"], (path, method)
        assert operation["description"], (path, method)
        assert operation["tags"], (path, method)


def test_errors_are_declared_as_problems(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            if status.startswith("4"):
                assert list(answer["content"]) == ["application/problem+json"], (path, method, status)


def test_every_schema_of_an_answer_has_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                name = media["schema"].get("$ref", "").rpartition("/")[2]
                if name:
                    assert document["components"]["schemas"][name]["examples"], (path, method, status)


def test_references_lead_somewhere(document: dict[str, Any]) -> None:
    for name in re.findall(r"#/components/schemas/([A-Za-z0-9_]+)", str(document)):
        assert name in document["components"]["schemas"]


def test_the_examples_run_as_they_stand(api: TestClient, document: dict[str, Any]) -> None:
    ran = 0
    for path, method, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        for example in content.get("examples", {}).values():
            answer = api.request(method, path, json=example["value"])
            assert answer.status_code == 200, (path, answer.text)
            ran += 1
        given = {
            p["name"]: p["schema"]["examples"][0]
            for p in operation.get("parameters", [])
            if p["required"] and p["in"] == "query"
        }
        if given:
            assert api.request(method, path, params=given).status_code == 200
            ran += 1
    assert ran >= 4


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_docs_need_no_internet(api: TestClient, page: str) -> None:
    html = api.get(page).text
    assets = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert assets
    for asset in assets:
        assert asset.startswith("/"), asset
        assert api.get(asset).status_code == 200, asset
    assert "cdn" not in html


@pytest.mark.parametrize("kind", OURS)
def test_every_error_of_ours_has_a_status_and_a_page(api: TestClient, kind: type[errors.VLibraryError]) -> None:
    assert status_of(kind("a", "b")) in STATUS.values()
    page = api.get(f"/problems/{kind.slug}").json()
    assert page["title"] == kind.title


def test_slugs_are_unique() -> None:
    slugs = [kind.slug for kind in OURS]
    assert len(set(slugs)) == len(slugs)


def test_problems_fit_their_schema(api: TestClient) -> None:
    ProblemOut.model_validate(api.get("/vectors/none").json())
    ProblemOut.model_validate(api.get("/retrieve").json())
