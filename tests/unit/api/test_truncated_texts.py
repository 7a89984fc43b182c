"""Answers say how much of a text was compared, since the embedder reads a text only up to its context length."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tests.support.library import memory_library
from tests.support.memory.worker import MODEL, TEXT_LIMIT
from tests.support.samples import artifact, card, png
from vlibrary.api.app import create_app

IMAGE = base64.b64encode(png()).decode()
LENGTHS = st.integers(1, 3 * TEXT_LIMIT)
PER_TEST = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def api() -> Iterator[TestClient]:
    with TestClient(create_app(memory_library())) as client:
        yield client


def text_of(tokens: int) -> dict[str, Any]:
    """What an answer says about a text of this many words, which are the tokens of the in-memory embedder."""
    return {"tokens": tokens, "embedded": min(tokens, TEXT_LIMIT), "truncated": tokens > TEXT_LIMIT}


@PER_TEST
@given(LENGTHS)
def test_every_answer_says_how_much_of_the_text_was_compared(api: TestClient, words: int) -> None:
    text = "word " * words
    assert api.get("/retrieve", params={"query": text}).json()["query_text"] == text_of(words)
    assert api.post("/retrieve", json={"text": text, "images": [IMAGE]}).json()["query_text"] == text_of(words)
    assert api.post("/generate", json={"prompt": text}).json()["steering"]["query_text"] == text_of(words)
    chat = api.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}]}).json()
    assert chat["vlibrary"]["query_text"] == text_of(words)


def test_the_first_event_of_a_stream_says_how_much_of_the_text_was_compared(api: TestClient) -> None:
    answer = api.post("/generate", json={"prompt": "word " * 90, "stream": True}).text
    event = next(line for line in answer.splitlines() if line.startswith("data: "))
    assert json.loads(event.removeprefix("data: "))["query_text"] == text_of(90)


def test_nothing_is_said_about_texts_that_were_not_compared(api: TestClient) -> None:
    assert api.post("/retrieve", json={"images": [IMAGE]}).json()["query_text"] is None
    for request in ({"steering": "off"}, {"demonstrations": [{"prompt": "a", "answer": "b"}]}):
        assert api.post("/generate", json={"prompt": "word " * 90} | request).json()["steering"]["query_text"] is None


@pytest.mark.parametrize("words", [1, TEXT_LIMIT, TEXT_LIMIT + 1])
def test_a_registration_says_how_much_of_the_description_was_embedded(api: TestClient, words: int) -> None:
    data = {"card": card("colour", "word " * words)}
    answer = api.post("/vectors", files={"artifact": ("v", artifact(MODEL))}, data=data)
    assert answer.json()["description_text"] == text_of(words)
