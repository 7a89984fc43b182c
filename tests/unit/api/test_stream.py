"""Streamed responses: their events and errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from tests.support.library import memory_library, register
from tests.support.samples import png
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.domain.errors import OutOfMemory, Overloaded, PromptTooLong, TimedOut, WorkerLost, WorkerUnavailable
from vlibrary.domain.wire import Decoding


@contextmanager
def api_with(worker: ScriptedWorker) -> Iterator[TestClient]:
    with TestClient(create_app(memory_library(worker=worker)), raise_server_exceptions=False) as client:
        yield client


def generate(api: TestClient, **more: Any) -> httpx2.Response:
    return api.post("/generate", json={"prompt": "Which hue?", "steering": "off", **more})


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Parse a complete stream. Written by hand, so that the wire format is tested too."""
    blocks = [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_stream_sends_steering_then_tokens_then_the_full_answer() -> None:
    library = memory_library()
    record = register(library, "colour", "Which hue?")
    with TestClient(create_app(library)) as api:
        whole = api.post("/generate", json={"prompt": "Which hue?"}).json()
        answer = api.post("/generate", json={"prompt": "Which hue?", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    events = events_of(answer.text)
    assert [name for name, _ in events] == ["steering", *["token"] * 4, "done"]
    assert events[0][1]["applied"][0]["id"] == record.id
    assert "".join(data["text"] for name, data in events if name == "token") == whole["text"]
    assert [data["tokens"] for name, data in events if name == "token"] == [1, 2, 3, 4]
    assert events[-1][1] | {"timings": whole["timings"]} == whole


def test_line_breaks_in_a_token_stay_within_one_event() -> None:
    with api_with(ScriptedWorker(["a\n\nb", "\r\nevent: done\r\n"])) as api:
        events = events_of(generate(api, stream=True).text)
    assert [data["text"] for name, data in events if name == "token"] == ["a\n\nb", "\r\nevent: done\r\n"]
    assert events[-1][1]["text"] == "a\n\nb\r\nevent: done\r\n"


FAILURES = {
    Overloaded: 429,
    TimedOut: 504,
    WorkerUnavailable: 503,
    OutOfMemory: 503,
    WorkerLost: 503,
    PromptTooLong: 422,
    ZeroDivisionError: 500,
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", FAILURES)
def test_an_error_before_the_first_token_sets_the_http_status(kind: type[Exception], stream: bool) -> None:
    with api_with(ScriptedWorker([], kind("It went wrong.", "Fix it."))) as api:
        answer = generate(api, stream=stream)
    assert answer.status_code == answer.json()["status"] == FAILURES[kind]
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("retry-after" in answer.headers) == (FAILURES[kind] in (429, 503))


@pytest.mark.parametrize("kind", FAILURES)
def test_an_error_after_the_first_token_is_the_last_event(kind: type[Exception]) -> None:
    with api_with(ScriptedWorker(["lo", "rp"], kind("It went wrong.", "Fix it."))) as api:
        answer = generate(api, stream=True)
        events = events_of(answer.text)
    assert answer.status_code == 200
    assert [name for name, _ in events] == ["steering", "token", "token", "error"]
    assert events[-1][1]["status"] == FAILURES[kind]
    assert events[-1][1]["cure"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_generation_without_a_final_event_is_an_error(stream: bool) -> None:
    with api_with(ScriptedWorker(["lo"], Then.VANISH)) as api:
        answer = generate(api, stream=stream)
    problem = events_of(answer.text)[-1][1] if stream else answer.json()
    assert problem["type"] == "/problems/worker-lost"


def test_stop_strings_and_the_timeout_reach_the_worker() -> None:
    worker = ScriptedWorker(["a"])
    with TestClient(create_app(memory_library(worker=worker), Limits(timeout_s=7))) as api:
        generate(api, decoding={"stop": [".", "\n"]}, timeout_s=2.5)
        generate(api)
        form = {"prompt": "hello", "steering": "off", "stream": "true", "timeout_s": "3"}
        assert api.post("/generate", data=form, files={"images": ("a.png", png())}).text.startswith("event: steering")
    assert worker.calls[0].decoding == Decoding(stop=(".", "\n"))
    assert [call.timeout_s for call in worker.calls] == [pytest.approx(one, abs=0.5) for one in (2.5, 7, 3)]


@pytest.mark.parametrize(
    "more",
    [
        {"decoding": {"stop": [""]}},
        {"decoding": {"stop": ["x" * 1025]}},
        {"decoding": {"stop": ["a"] * 65}},
        {"decoding": {"stop": "a"}},
        {"timeout_s": 0},
        {"timeout_s": 600.1},
        {"timeout_s": True},
        {"stream": 1},
    ],
)
def test_invalid_stop_strings_timeouts_and_stream_flags_are_rejected(more: dict[str, Any]) -> None:
    with api_with(ScriptedWorker(["a"])) as api:
        assert generate(api, **more).status_code == 422
