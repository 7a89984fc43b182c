"""The OpenAPI document is complete, works offline, and its examples run unchanged."""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from tests.support.library import memory_library, register
from vlibrary.api.app import create_app
from vlibrary.api.http.problems import INVALID_REQUEST, UNFORESEEN, openai_error, report, type_of_error, type_of_status
from vlibrary.api.routes.problems import get_problem_type
from vlibrary.domain import errors
from vlibrary.http_common import STATUS, status_of
from vlibrary.schemas.problems import ProblemOut

# PATCH and PUT read their bodies before the query.
BODIES = {"patch": {}, "put": {"vector": "x"}}
METHODS = ("get", "post", "put", "patch", "delete")
ERRORS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.VLibraryError) and kind is not errors.VLibraryError
]


@pytest.fixture(scope="module")
def api() -> TestClient:
    library = memory_library()
    register(library, "colour", "Which hue?")
    return TestClient(create_app(library))


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


def test_every_operation_has_summary_description_and_tags(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    found = operations(document)
    assert {(path, method) for path, method, _ in found} >= {
        ("/vectors", "post"),
        ("/vectors", "get"),
        ("/vectors/{vector_id}", "get"),
        ("/vectors/{vector_id}", "delete"),
        ("/vectors/{vector_id}/content", "get"),
        ("/vectors/{vector_id}", "patch"),
        ("/vectors/{vector_id}/restore", "post"),
        ("/vectors/{vector_id}/lineage", "get"),
        ("/aliases", "get"),
        ("/aliases/{name}/{alias}", "put"),
        ("/audit", "get"),
        ("/export", "get"),
        ("/import", "post"),
        ("/retrieve", "get"),
        ("/retrieve", "post"),
        ("/generate", "post"),
        ("/v1/chat/completions", "post"),
        ("/v1/models", "get"),
        ("/v1/models/{model_id}", "get"),
        ("/metrics", "get"),
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


def test_unknown_query_parameters_are_rejected(api: TestClient, document: dict[str, Any]) -> None:
    """A filter with a typo in its name would filter nothing, and an export would contain everything."""
    lenient = (
        "/v1/",
        "/metrics",
        "/livez",
        "/readyz",
        "/health",
        "/version",
        "/models",
        "/problems",
    )  # called by third-party clients
    for path, method, _ in operations(document):
        if not path.startswith(lenient):
            address = path.format(**dict.fromkeys(re.findall(r"{(\w+)}", path), "x"))
            answer = api.request(method, address + "?typo=1", json=BODIES.get(method))
            assert answer.status_code == 422, (method, path, answer.text)
            assert "/query/typo: Unknown field; remove it or check its spelling" in answer.json()["detail"], (
                method,
                path,
            )


def test_every_response_schema_has_an_example(document: dict[str, Any]) -> None:
    for path, method, operation in operations(document):
        for status, answer in operation["responses"].items():
            for media in answer.get("content", {}).values():
                name = media.get("schema", {}).get("$ref", "").rpartition("/")[2]
                if name:
                    assert document["components"]["schemas"][name]["examples"], (path, method, status)


def test_schema_references_resolve(document: dict[str, Any]) -> None:
    for name in re.findall(r"#/components/schemas/([A-Za-z0-9_]+)", str(document)):
        assert name in document["components"]["schemas"]


def examples_of(operation: dict[str, Any], place: str) -> dict[str, str]:
    """Return the first example of each parameter in this place."""
    found = {one["name"]: one for one in operation.get("parameters", []) if one["in"] == place}
    examples = {name: one.get("examples") or one["schema"].get("examples") for name, one in found.items()}
    return {name: values[0] for name, values in examples.items() if values}


def test_the_examples_run_unchanged(api: TestClient, document: dict[str, Any]) -> None:
    ran = 0
    for path, method, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        schema = document["components"]["schemas"].get(content.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
        for example in schema.get("examples", []):
            address = path.format(**examples_of(operation, "path"))
            answer = api.request(method, address, json=example, headers=examples_of(operation, "header"))
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
    assert ran >= 10


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_docs_pages_work_offline(api: TestClient, page: str) -> None:
    html = api.get(page).text
    assets = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert assets
    for asset in assets:
        assert asset.startswith("/"), asset
        assert api.get(asset).status_code == 200, asset
    assert "cdn" not in html


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_status(kind: type[errors.VLibraryError]) -> None:
    assert status_of(kind("a", "b")) in STATUS.values()


def test_every_problem_type_is_documented() -> None:
    kinds = [type_of_error(kind("a", "b")) for kind in ERRORS] + [INVALID_REQUEST, UNFORESEEN]
    kinds += [type_of_status(status) for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST]
    for kind in kinds:
        page = get_problem_type(kind.code)
        assert (page.type, page.title, page.status) == (kind.address, kind.title, kind.status)


def test_the_type_of_a_problem_links_to_its_page() -> None:
    failures = [errors.StaleRevision("a", "b"), HTTPException(400), HTTPException(404), RuntimeError("unforeseen")]
    app = create_app(memory_library())

    @app.get("/fails/{number}")
    def fails(number: int) -> None:
        raise failures[number]

    with TestClient(app, raise_server_exceptions=False) as api:
        answers = [api.get(f"/fails/{number}") for number in ("none", *range(len(failures)))]
        answers += [api.get("/nowhere"), api.put("/vectors")]
        for answer in answers:
            body = answer.json()
            page = api.get(body["type"])
            assert page.status_code == 200, body
            assert {name: page.json()[name] for name in ("type", "title", "status")}.items() <= body.items()
            assert body["status"] == answer.status_code
    assert [answer.status_code for answer in answers] == [422, 412, 400, 404, 500, 404, 405]


def test_error_codes_are_unique() -> None:
    codes = [kind.code for kind in ERRORS]
    assert len(set(codes)) == len(codes)


def test_problems_match_their_schema(api: TestClient) -> None:
    ProblemOut.model_validate(api.get("/vectors/none").json())
    ProblemOut.model_validate(api.get("/retrieve").json())
    under_v1 = ProblemOut.model_validate(api.post("/v1/chat/completions", json={"n": 2}).json())
    assert under_v1.error is not None
    assert under_v1.error["param"] == "messages"


@pytest.mark.parametrize(
    ("path", "option", "pointer", "param"),
    [
        ("/generate", "json_schema", "/body/decoding/json_schema", "decoding.json_schema"),
        ("/v1/chat/completions", "json_schema", "/body/response_format", "response_format"),
        ("/v1/responses", "json_schema", "/body/text/format", "text.format"),
        ("/v1/completions", "logit_bias", "/body/logit_bias", "logit_bias"),
    ],
)
def test_an_option_that_the_engine_refuses_is_named(path: str, option: str, pointer: str, param: str) -> None:
    found = report(path, errors.InvalidInput("It is wrong.", "Omit it.", field=option))
    assert found["errors"] == [{"pointer": pointer, "detail": "It is wrong."}]
    assert openai_error(found, path)["param"] == param


@pytest.mark.parametrize("path", ["/generate", "/v1/chat/completions"])
def test_json_and_event_stream_responses_are_documented(document: dict[str, Any], path: str) -> None:
    answers = document["paths"][path]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert {"429", "503", "504"} <= set(answers)
