"""Multipart forms: whole or refused, however they arrive, with every part named once and read as it was sent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card, png
from vlibrary.api.app import create_app
from vlibrary.api.http.forms import parse_form
from vlibrary.domain.errors import InvalidInput

BOUNDARY = "XbX"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
# Content that looks like parts of delimiters, as random bytes hardly ever do.
PIECES = st.sampled_from([b"\r\n", b"\r\n--", b"--", b"\r\n--Xb", b"XbX", b"\r", b"\n", b"-", b"\x00\xff"])
CONTENT = (
    st.lists(PIECES | st.binary(max_size=8), max_size=8)
    .map(b"".join)
    .filter(lambda one: b"\r\n--XbX" not in b"\r\n" + one)  # RFC 2046 forbids it at the start of any line
)
PARTS = st.lists(st.tuples(st.sampled_from(["a", "b", "images"]), st.booleans(), CONTENT), max_size=5)
Parts = list[tuple[str, bool, bytes]]


def build_form(parts: Parts) -> bytes:
    out = b""
    for name, is_file, content in parts:
        filename = '; filename="f.png"' if is_file else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        out += head.encode() + content + b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


@given(PARTS)
def test_a_form_gives_the_parts_that_were_sent(parts: Parts) -> None:
    assert [(one.name, one.is_file, one.content) for one in parse_form(build_form(parts), TYPE)] == parts


@given(PARTS.filter(bool), st.data())
def test_every_truncation_of_a_form_is_refused(parts: Parts, data: st.DataObject) -> None:
    whole = build_form(parts).removesuffix(b"\r\n")
    with pytest.raises(InvalidInput):
        parse_form(whole[: data.draw(st.integers(0, len(whole) - 1))], TYPE)


@given(PARTS, st.binary(min_size=1, max_size=20).filter(lambda tail: bool(tail.strip(b" \t\r\n"))))
def test_data_around_a_form_is_refused(parts: Parts, more: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_form(build_form(parts) + more, TYPE)
    with pytest.raises(InvalidInput):
        parse_form(more + build_form(parts), TYPE)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_parsed_or_refused(noise: bytes) -> None:
    with suppress(InvalidInput):
        (part,) = parse_form(b"--XbX\r\n" + noise + b"\r\n--XbX--", TYPE)
        assert noise.endswith(part.content)


@pytest.mark.parametrize(
    "head",
    [
        "Content-Type: text/plain",
        "Content-Disposition: attachment; name=a",
        "Content-Disposition: form-data",
        "Content-Disposition: form-data; name=a; name=b",
        'Content-Disposition: form-data; name="a',
        "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b",
        "Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64",
        "Content-Disposition: form-data; name=a\r\nContent-Length: 99",
        "Content-Disposition: form-data; name=a\r\n folded: no",
        "Content-Disposition : form-data; name=a",
        "Content-Disposition: form-data; name=a\nX: b",
        "Content-Disposition: form-data; name=a\r\nX: " + "b" * 20_000,
        "",
    ],
)
def test_wrong_headers_of_a_part_are_refused(head: str) -> None:
    with pytest.raises(InvalidInput, match="malformed"):
        parse_form(f"--XbX\r\n{head}\r\n\r\nx\r\n--XbX--\r\n".encode(), TYPE)


@pytest.mark.parametrize("header", ["multipart/form-data", "multipart/form-data; boundary=", f"{TYPE}; boundary=b"])
def test_a_form_without_one_boundary_is_refused(header: str) -> None:
    with pytest.raises(InvalidInput, match="malformed"):
        parse_form(build_form([("a", False, b"x")]), header)


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    with TestClient(create_app(memory_library())) as client:
        yield client


def post(api: TestClient, path: str, parts: Parts, chunk: int = 0) -> tuple[int, dict[str, Any]]:
    body = build_form(parts)
    chunks = (body[at : at + chunk] for at in range(0, len(body), chunk)) if chunk else body
    answer = api.post(path, content=chunks, headers={"Content-Type": TYPE})
    return answer.status_code, answer.json()


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1_000_000])
def test_any_chunking_of_a_form_gives_the_same_answer(api: TestClient, chunk: int) -> None:
    parts = [("prompt", False, b"Which hue?"), ("steering", False, b"off"), ("images", True, png())]
    status, whole = post(api, "/generate", parts)
    assert (status, whole["text"]) == (200, "Which hue?")
    status, again = post(api, "/generate", parts, chunk)
    assert (status, again | {"timings": whole["timings"]}) == (200, whole)


CARD = card("colour", "Which hue?").encode()
CARD_PARTS = [("artifact", True, artifact(MODEL)), ("card", False, CARD)]
PROMPT = ("prompt", False, b"a")


@pytest.mark.parametrize(
    ("path", "parts", "pointer", "problem"),
    [
        ("/vectors", [*CARD_PARTS, ("tags", False, b"a")], "/body/tags", "Unknown field"),
        ("/vectors", [*CARD_PARTS, ("card", False, CARD)], "/body/card", "2 parts of this name"),
        ("/generate", [PROMPT, ("temperature", False, b"1")], "/body/temperature", "Unknown field"),
        ("/generate", [PROMPT, PROMPT], "/body/prompt", "2 parts of this name"),
        ("/generate", [("prompt", True, "Größe".encode("cp1252"))], "/body/prompt", "byte 0xF6 at offset 2"),
        ("/generate", [PROMPT, ("strength", False, b"")], "/body/strength", "a valid number"),
        ("/generate", [PROMPT, ("strength", False, b"NaN")], "/body/strength", "a valid number"),
        ("/generate", [PROMPT, ("stream", False, b"yes")], "/body/stream", "a valid boolean"),
        ("/generate", [PROMPT, ("steering", False, b"of")], "/body/steering", "'auto'"),
        ("/generate", [PROMPT, ("decoding", False, b'{"seed": 1')], "/body/decoding", "not valid JSON"),
        ("/generate", [PROMPT, ("decoding", False, b'{"seed":1,"seed":2}')], "/body/decoding", "'seed' occurs twice"),
        ("/retrieve", [("text", False, b"a"), ("k", False, b"8.5")], "/body/k", "integer"),
        ("/retrieve", [("text", False, b"a"), ("k", False, b"five")], "/body/k", "integer"),
    ],
)
def test_what_a_form_cannot_say_is_refused_by_name(
    api: TestClient, path: str, parts: Parts, pointer: str, problem: str
) -> None:
    status, body = post(api, path, parts)
    assert status == 422, body
    (error,) = body["errors"]
    assert error["pointer"] == pointer
    assert problem in error["detail"]
    assert "body is not valid JSON" not in json.dumps(body)


@pytest.mark.parametrize("media_type", ["image/png", "application/octet-stream"])
def test_a_part_with_the_type_of_a_file_is_one_without_a_file_name(api: TestClient, media_type: str) -> None:
    fields = {"prompt": "Which hue?", "steering": "off"}
    answer = api.post("/generate", data=fields, files={"images": (None, png(), media_type)})
    assert (answer.status_code, answer.json()) == (200, answer.json() | {"text": "Which hue?"})


def test_a_part_in_another_charset_is_refused(api: TestClient) -> None:
    files = {"prompt": (None, "Größe".encode("cp1252"), "text/plain; charset=windows-1252")}
    answer = api.post("/generate", files=files)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/body/prompt")
    assert "'windows-1252'" in answer.json()["detail"]


def test_numbers_of_a_form_are_read_as_in_json(api: TestClient) -> None:
    status, body = post(api, "/retrieve", [("text", False, b"a"), ("k", False, b"3.0")])
    assert (status, body["matches"]) == (200, [])
