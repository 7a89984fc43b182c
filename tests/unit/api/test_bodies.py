"""Parsing of request bodies: strictly, and large ones in a thread, so that the event loop is not blocked."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from pydantic import BaseModel, ValidationError, model_validator
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.support.library import memory_library
from vlibrary.api.app import create_app
from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.bodies import read_json
from vlibrary.formats import strict_json
from vlibrary.schemas.fields import StrictIn


class Body(BaseModel):
    """A body that records the thread in which it was parsed."""

    text: str
    thread: int = 0

    @model_validator(mode="after")
    def _record(self) -> Body:
        self.thread = threading.get_ident()
        return self


async def read(request: Request) -> Response:
    body = await read_json(request, Body)
    return PlainTextResponse("event loop" if body.thread == threading.get_ident() else "thread")


@pytest.mark.parametrize(("length", "where"), [(1_000, "event loop"), (20_000, "thread"), (2 * 2**20, "thread")])
def test_large_bodies_are_parsed_in_a_thread(length: int, where: str) -> None:
    app = Starlette(routes=[Route("/", read, methods=["POST"])])
    app.state.admission = AdmissionControl(1, 5.0)
    with TestClient(app) as client:
        assert client.post("/", json={"text": "a" * length}).text == where


JSON = {"content-type": "application/json"}
STEERED = b'{"prompt": "a", "steering": '
BAD_JSON = {
    "a name twice": (b'{"prompt": "x", "steering": "auto", "steering": "off"}', "'steering' occurs twice"),
    "a name twice deep inside": (STEERED + b'[{"id": "x", "strength": 1, "strength": 2}]}', "'strength' occurs twice"),
    "NaN": (b'{"prompt": "a", "strength": NaN}', "NaN is not a JSON number"),
    "Infinity": (b'{"prompt": "a", "strength": -Infinity}', "-Infinity is not a JSON number"),
    "half a surrogate pair": (b'{"prompt": "a \\ud83d b"}', "half a surrogate pair"),
    "cp1252": ('{"prompt": "Größe"}'.encode("cp1252"), "byte 0xF6 at offset 14 is not UTF-8"),
    "an encoded surrogate": (b'{"prompt": "\xed\xa0\x80"}', "byte 0xED at offset 12 is not UTF-8"),
    "no JSON": (b"prompt=a", "line 1, column 1: expecting value"),
    "nothing": (b"", "the text is empty"),
    "cut": (b'{"prompt": "a"', "line 1"),
}


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    with TestClient(create_app(memory_library())) as client:
        yield client


@pytest.mark.parametrize("case", BAD_JSON)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/generate"), ("POST", "/retrieve"), ("PATCH", "/vectors/x"), ("PUT", "/aliases/a/b")],
)
def test_json_in_doubt_is_refused_with_the_place(api: TestClient, method: str, path: str, case: str) -> None:
    body, problem = BAD_JSON[case]
    answer = api.request(method, path, content=body, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (422, "/problems/invalid-input")
    assert problem in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/generate", "/vectors", "/import", "/v1/chat/completions"])
def test_two_content_types_are_refused(api: TestClient, path: str) -> None:
    answer = api.post(
        path, content=b"{}", headers=[("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    )
    assert answer.status_code == (400 if path.startswith("/v1") else 422)
    assert "2 Content-Type headers" in answer.json()["detail"]


def test_a_surrogate_pair_and_a_byte_order_mark_are_read(api: TestClient) -> None:
    body = b'\xef\xbb\xbf{"prompt": "\\ud83d\\ude00", "steering": "off"}'
    assert api.post("/generate", content=body, headers=JSON).json()["text"] == "😀"


def integer_fields() -> Iterator[tuple[type[BaseModel], str]]:
    """Yield every integer of a request body."""
    found = [StrictIn]
    for schema in found:
        found += [one for one in schema.__subclasses__() if one not in found]
        for name, shown in schema.model_json_schema().get("properties", {}).items():
            if "integer" in [one.get("type") for one in shown.get("anyOf", [shown])]:
                yield schema, name


@pytest.mark.parametrize(("schema", "name"), list(integer_fields()))
def test_every_integer_may_have_a_zero_fraction(schema: type[BaseModel], name: str) -> None:
    def problems(value: str) -> list[str]:
        try:
            schema.model_validate(strict_json.parse(f'{{"{name}": {value}}}', whole_numbers=True))
        except ValidationError as error:
            return [one["type"] for one in error.errors() if one["loc"] == (name,)]
        return []

    assert problems("8.0") == problems("8")
    assert problems("8.5")
    assert problems("true")


def test_an_integer_with_a_zero_fraction_is_read_over_http(api: TestClient) -> None:
    steering = {"prompt": "a b c", "steering": "off", "decoding": {"max_new_tokens": 8.0, "seed": -0.0}}
    assert api.post("/generate", json=steering).status_code == 200
    assert api.post("/retrieve", json={"text": "a", "k": 3.0}).status_code == 200
    assert api.post("/retrieve", json={"text": "a", "k": 3.5}).json()["errors"][0]["pointer"] == "/body/k"
