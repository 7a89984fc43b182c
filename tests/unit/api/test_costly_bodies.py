"""Bodies that are made to cost more than they are worth: refused soon, with a short answer."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.support.library import memory_library
from vlibrary.api.app import create_app
from vlibrary.api.http.invalid_fields import MAX_ERRORS, invalid_fields
from vlibrary.domain.errors import InvalidArchive, InvalidCard
from vlibrary.formats import strict_json
from vlibrary.formats.archive import MANIFEST, end_of_archive, member, open_archive
from vlibrary.formats.card import parse_card

MANY = 300_000
# Seconds of this process's time, whatever else the machine does; without limits each took from 5 seconds to a minute.
SOON = 2.0
SHORT = 16_384
COSTLY = {
    "names": b"{%s}" % b",".join(b'"k%d":1' % number for number in range(MANY)),
    "names just within the limit": b"{%s}" % b",".join(b'"k%d":1' % number for number in range(19_000)),
    "names in many objects": b'{"steering":[%s]}' % b",".join([b'{"a":1,"b":2}'] * MANY),
    "numbers": b'{"images":[%s]}' % b",".join([b"1"] * 4 * MANY),
    "strings": b'{"images":[%s]}' % b",".join([b'"a"'] * 2 * MANY),
    "strings without commas": b'""' * 4 * MANY,
    "lists": b"[%s]" % b",".join([b"[]"] * 2 * MANY),
    "lists without commas": b"[]" * 4 * MANY,
    "a long name": b'{"%s":1}' % (b"n" * MANY),
    "a long name of control characters": b'{"%s":1}' % (rb"\u0001" * MANY),
    "a long name in an object": b'{"decoding":{"%s":1}}' % (b"\xc3\xbc" * MANY),
    "many long names": b"{%s}" % b",".join(b'"%s%d":1' % (b"n" * 5_000, number) for number in range(100)),
    "a long word": b'{"steering":"%s"}' % (b"w" * MANY),
    "a long role": b'{"messages":[{"role":"%s"}]}' % (b"r" * MANY),
    "depth": b'{"steering":' + b"[" * MANY,
}


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    with TestClient(create_app(memory_library())) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "case"),
    [("/generate", case) for case in COSTLY]
    + [
        (path, case)
        for path in ("/retrieve", "/v1/chat/completions", "/v1/responses")
        for case in ("names just within the limit", "many long names", "a long role")
    ],
)
def test_a_costly_body_is_refused_soon_and_briefly(api: TestClient, path: str, case: str) -> None:
    began = time.process_time()
    answer = api.post(path, content=COSTLY[case], headers={"Content-Type": "application/json"})
    assert time.process_time() - began < SOON
    assert answer.status_code in (400, 422)
    assert len(answer.content) < SHORT
    assert answer.json()["detail"]


CARDS = {
    "names": b'{"name":"a","results":{%s}}' % COSTLY["names"][1:-1],
    "unknown names": COSTLY["names just within the limit"],
    "numbers": b'{"name":"a","keys":[{"kind":"centroid","text":[%s]}]}' % b",".join([b'"1"'] * 160_000),
}


@pytest.mark.parametrize("case", CARDS)
def test_a_costly_card_is_refused_soon(case: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidCard) as refused:
        parse_card(CARDS[case])
    assert time.process_time() - began < SOON
    assert len(str(refused.value)) < 1_000


ARCHIVES = {
    "empty members": lambda: b"".join(b"".join(member(f"{number}", b"")) for number in range(20_000)),
    "a manifest of empty lines": lambda: b"".join(member(MANIFEST, b"\n" * 5_000_000)),
    "a manifest of many lines": lambda: b"".join(member(MANIFEST, b'{"id":1}\n' * 500_000)),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_costly_archive_is_refused_soon(case: str) -> None:
    data = ARCHIVES[case]() + end_of_archive()
    began = time.process_time()
    with pytest.raises(InvalidArchive, match=r"more than 2,001 members|vectors"):
        open_archive(io.BytesIO(data), max_entries=1_000)
    assert time.process_time() - began < SOON / 4


def test_an_archive_of_the_most_vectors_is_within_the_limit_of_members() -> None:
    members = b"".join(b"".join(member(f"{number}", b"")) for number in range(20))
    data = members + b"".join(member(MANIFEST, b'{"format": "vlibrary-archive-1"}\n')) + end_of_archive()
    assert open_archive(io.BytesIO(data), max_entries=10).entries == ()


def test_json_within_the_limits_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strict_json, "MAX_TOKENS", 7)
    monkeypatch.setattr(strict_json, "MAX_NAMES", 3)
    assert strict_json.parse("[1,2,3,4,5,6]") == [1, 2, 3, 4, 5, 6]  # two brackets and five commas
    assert strict_json.parse('["a,b,c,d,e,f,g,h"]') == ["a,b,c,d,e,f,g,h"]
    for text in ("[1,2,3,4,5,6,7]", "[1,2,3,4,5,6,x]", '[["a"],["b"]]', '{"a":{"b":1},"c":1}'):
        with pytest.raises(strict_json.InvalidJson, match="too many values"):
            strict_json.parse(text)
    monkeypatch.setattr(strict_json, "MAX_TOKENS", 100)
    assert strict_json.parse('{"a":{"b":1},"c":1}') == {"a": {"b": 1}, "c": 1}
    with pytest.raises(strict_json.InvalidJson, match="more than 3 names"):
        strict_json.parse('{"a":{"b":1},"c":1,"d":1}')


@settings(max_examples=20)
@given(st.dictionaries(st.text(max_size=400), st.integers(), min_size=1, max_size=4))
def test_invalid_fields_are_short_in_json(body: dict[str, Any]) -> None:
    errors = [{"type": "extra_forbidden", "loc": ("body", name), "msg": name} for name in body]
    for field in invalid_fields(errors, body):
        assert len(json.dumps(field.pointer, ensure_ascii=False).encode(errors="replace")) < 600
        assert len(json.dumps(field.detail, ensure_ascii=False).encode(errors="replace")) < 600


def test_only_the_first_errors_are_looked_at() -> None:
    body = {str(number): 1 for number in range(MAX_ERRORS + 1)}
    errors = [{"type": "extra_forbidden", "loc": ("body", name), "msg": ""} for name in body]
    assert len(invalid_fields(errors, body)) == MAX_ERRORS
