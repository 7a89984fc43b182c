"""Streamed responses over real connections: keep-alive, disconnects and slow readers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from tests.support.library import memory_library
from tests.support.live_server import live, unread
from tests.support.memory.worker import MODEL
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.api.app import create_app
from vlibrary.api.http import streams

TIMEOUT_S = 5.0


def test_an_idle_stream_sends_keep_alive_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "FIRST_PART_WAIT_S", 0.05)
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
def test_a_disconnect_cancels_the_request(pieces: list[str], stream: bool) -> None:
    worker = ScriptedWorker(pieces, Then.WAIT)
    with live(create_app(memory_library(worker=worker))) as url:
        with unread(url, "/generate", {"prompt": "a", "steering": "off", "stream": stream}):
            assert worker.begun.wait(TIMEOUT_S)
            assert not worker.closed.is_set()
        assert worker.closed.wait(TIMEOUT_S)


def test_a_disconnect_in_the_middle_of_a_stream_cancels_it() -> None:
    worker = ScriptedWorker(["lo", "rp"], Then.WAIT)
    body = {"prompt": "a", "steering": "off", "stream": True}
    with live(create_app(memory_library(worker=worker))) as url:
        with httpx.Client() as client, connect_sse(client, "POST", f"{url}/generate", json=body) as source:
            events: Iterator[ServerSentEvent] = source.iter_sse()
            assert [next(events).event for _ in range(3)] == ["steering", "token", "token"]
            assert not worker.closed.is_set()
        assert worker.closed.wait(TIMEOUT_S)


def test_a_client_that_does_not_read_blocks_neither_worker_nor_other_clients() -> None:
    worker = ScriptedWorker(["x" * 10_000] * 1_600)  # more than the socket buffers hold
    body = {"prompt": "a", "steering": "off", "stream": True}
    with live(create_app(memory_library(worker=worker))) as url, unread(url, "/generate", body):
        assert worker.closed.wait(TIMEOUT_S)
        assert httpx.get(f"{url}/models", timeout=TIMEOUT_S).json()["items"][0]["id"] == MODEL.model_id
