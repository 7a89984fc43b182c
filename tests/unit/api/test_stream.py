"""Streamed answers: their events, their errors, and what happens when a client leaves or does not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import httpx2
import pytest
from httpx_sse import ServerSentEvent, connect_sse
from starlette.testclient import TestClient

from tests.support.library import memory_library, register
from tests.support.live_server import live, unread
from tests.support.memory.worker import MODEL
from tests.support.samples import png
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app
from vlibrary.api.http import streams
from vlibrary.api.http.deps import Limits
from vlibrary.domain.errors import OutOfMemory, Overloaded, PromptTooLong, TimedOut, WorkerLost, WorkerUnavailable
from vlibrary.domain.wire import Decoding

SOON_S = 5.0


@contextmanager
def api_with(worker: ScriptedWorker) -> Iterator[TestClient]:
    with TestClient(create_app(memory_library(worker=worker)), raise_server_exceptions=False) as client:
        yield client


def ask(api: TestClient, **more: Any) -> httpx2.Response:
    return api.post("/generate", json={"prompt": "Which hue?", "steering": "off", **more})


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """The events of a whole stream, read by hand so that the form on the wire is tested too."""
    blocks = [block.split("\n") for block in text.removesuffix("\n\n").split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_stream_tells_the_steering_then_the_pieces_then_the_whole_answer() -> None:
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
    assert events[-1][1] == whole


def test_line_breaks_in_a_piece_stay_within_their_event() -> None:
    with api_with(ScriptedWorker(["a\n\nb", "\r\nevent: done\r\n"])) as api:
        events = events_of(ask(api, stream=True).text)
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
def test_a_failure_before_the_first_piece_is_an_answer_with_its_status(kind: type[Exception], stream: bool) -> None:
    with api_with(ScriptedWorker([], kind("It went wrong.", "Mend it."))) as api:
        answer = ask(api, stream=stream)
    assert answer.status_code == answer.json()["status"] == FAILURES[kind]
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers.get("retry-after") == ("5" if FAILURES[kind] in (429, 503) else None)


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failure_after_the_first_piece_is_the_last_event(kind: type[Exception]) -> None:
    with api_with(ScriptedWorker(["lo", "rp"], kind("It went wrong.", "Mend it."))) as api:
        answer = ask(api, stream=True)
        events = events_of(answer.text)
    assert answer.status_code == 200
    assert [name for name, _ in events] == ["steering", "token", "token", "error"]
    assert events[-1][1]["status"] == FAILURES[kind]
    assert events[-1][1]["cure"]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_ends_without_its_last_event_is_an_error(stream: bool) -> None:
    with api_with(ScriptedWorker(["lo"], Then.VANISH)) as api:
        answer = ask(api, stream=stream)
    problem = events_of(answer.text)[-1][1] if stream else answer.json()
    assert problem["type"] == "/problems/worker-lost"


def test_stop_texts_and_the_deadline_reach_the_worker() -> None:
    worker = ScriptedWorker(["a"])
    with TestClient(create_app(memory_library(worker=worker), Limits(timeout_s=7))) as api:
        ask(api, decoding={"stop": [".", "\n"]}, timeout_s=2.5)
        ask(api)
        form = {"prompt": "hello", "steering": "off", "stream": "true", "timeout_s": "3"}
        assert api.post("/generate", data=form, files={"images": ("a.png", png())}).text.startswith("event: steering")
    assert worker.calls[0].decoding == Decoding(stop=(".", "\n"))
    assert [call.timeout_s for call in worker.calls] == [pytest.approx(one, abs=0.5) for one in (2.5, 7, 3)]


@pytest.mark.parametrize(
    "more",
    [
        {"decoding": {"stop": [""]}},
        {"decoding": {"stop": ["x" * 65]}},
        {"decoding": {"stop": list("abcde")}},
        {"decoding": {"stop": "a"}},
        {"timeout_s": 0},
        {"timeout_s": 600.1},
        {"timeout_s": True},
        {"stream": 1},
    ],
)
def test_stop_texts_deadlines_and_stream_flags_out_of_range_are_refused(more: dict[str, Any]) -> None:
    with api_with(ScriptedWorker(["a"])) as api:
        assert ask(api, **more).status_code == 422


def test_a_connection_on_which_nothing_moves_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_EVENT_WAIT_S", 0.05)
    monkeypatch.setattr(streams, "KEEP_ALIVE_S", 0.05)
    body = {"prompt": "a", "steering": "off", "stream": True}
    app = create_app(memory_library(worker=ScriptedWorker([], Then.WAIT)))
    with live(app) as url, httpx.stream("POST", f"{url}/generate", json=body) as answer:
        lines = answer.iter_lines()
        seen = [next(lines) for _ in range(7)]
    assert seen[0] == "event: steering"
    assert [line for line in seen[2:] if line] == [": ping", ": ping"]


@pytest.mark.parametrize("pieces", [["a"], []])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_cancels_its_request(pieces: list[str], stream: bool) -> None:
    worker = ScriptedWorker(pieces, Then.WAIT)
    with live(create_app(memory_library(worker=worker))) as url:
        with unread(url, "/generate", {"prompt": "a", "steering": "off", "stream": stream}):
            assert worker.begun.wait(SOON_S)
            assert not worker.closed.is_set()
        assert worker.closed.wait(SOON_S)


def test_leaving_in_the_middle_of_a_stream_cancels_it() -> None:
    worker = ScriptedWorker(["lo", "rp"], Then.WAIT)
    body = {"prompt": "a", "steering": "off", "stream": True}
    with live(create_app(memory_library(worker=worker))) as url:
        with httpx.Client() as client, connect_sse(client, "POST", f"{url}/generate", json=body) as source:
            events: Iterator[ServerSentEvent] = source.iter_sse()
            assert [next(events).event for _ in range(3)] == ["steering", "token", "token"]
            assert not worker.closed.is_set()
        assert worker.closed.wait(SOON_S)


def test_a_client_that_does_not_read_holds_up_neither_the_worker_nor_others() -> None:
    worker = ScriptedWorker(["x" * 10_000] * 1_600)  # far more than the sockets between them hold
    body = {"prompt": "a", "steering": "off", "stream": True}
    with live(create_app(memory_library(worker=worker))) as url, unread(url, "/generate", body):
        assert worker.closed.wait(SOON_S)
        assert httpx.get(f"{url}/models", timeout=SOON_S).json()["items"][0]["id"] == MODEL.model_id
