"""A worker over HTTP: tokens, health checks, limits, broken connections and invalid messages."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from tests.support.live_server import live
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.scripted_worker import ScriptedWorker, Then
from tests.support.worker_server import serving, until
from vlibrary.adapters.workers.fleet import Fleet
from vlibrary.adapters.workers.http_worker import HttpWorker
from vlibrary.domain.errors import Overloaded, TimedOut, TooLarge, WorkerLost, WorkerUnavailable
from vlibrary.domain.query import Query
from vlibrary.domain.wire import GenerateCall, Generation, Prompt, TextPiece
from vlibrary.formats.messages import dump_event
from vlibrary.worker.app import create_app
from vlibrary.worker.host import Host

CALL = GenerateCall(Prompt("one two three"), MODEL.model_id)
TOKEN = "a shared secret"


def connected(url: str, token: str | None = None) -> closing[HttpWorker]:
    return closing(HttpWorker(url, token, heartbeat_s=0.3))


@contextmanager
def raw_server(answer: bytes) -> Iterator[str]:
    """A server that reads one request, sends this answer and closes the connection; it accepts one at a time."""
    listener = socket.create_server(("127.0.0.1", 0))

    def talk() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(answer)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def ask(worker: HttpWorker, call: GenerateCall = CALL) -> list[TextPiece | Generation]:
    """Return all events, or raise the error of the stream."""
    events: list[TextPiece | Generation] = []

    async def collect() -> None:
        async for event in worker.generate(call):
            events.append(event)  # noqa: PERF401  what came before an error counts

    asyncio.run(collect())
    return events


def memory_worker(**more: float) -> MemoryWorker:
    return MemoryWorker(MemoryArtifacts(), **more)  # type: ignore[arg-type]  # pause_s or room


def test_every_call_reports_a_wrong_token_with_a_cure() -> None:
    with serving(memory_worker(), TOKEN) as url:
        for token in (None, "another"):
            with connected(url, token) as worker:
                for act in (worker.status, worker.models, lambda: worker.embed(Query("a")), lambda: ask(worker)):
                    with pytest.raises(WorkerUnavailable, match="token") as caught:
                        act()
                    assert "VLIBRARY_WORKER_TOKEN" in caught.value.cure
        assert httpx.get(f"{url}/status").status_code == 401
        with connected(url, TOKEN) as worker:
            assert worker.status().info.model == MODEL


def test_health_and_metrics_need_no_token() -> None:
    registry = CollectorRegistry()
    Counter("answers", "Answers given", registry=registry).inc(3)
    host = Host(memory_worker)
    with live(create_app(host, registry, token=TOKEN)) as url:
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        assert httpx.get(f"{url}/livez").status_code == 200
        assert "answers_total 3.0" in httpx.get(f"{url}/metrics").text


def test_a_worker_is_alive_but_not_ready_while_it_loads_or_shuts_down() -> None:
    loaded = threading.Event()

    def load() -> MemoryWorker:
        loaded.wait(10)
        return memory_worker()

    host = Host(load)
    with live(create_app(host, CollectorRegistry())) as url, connected(url) as worker:
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 503
        for act in (worker.status, lambda: ask(worker)):
            with pytest.raises(WorkerUnavailable, match="loading"):
                act()
        loaded.set()
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        assert ask(worker)[-1] == ask(worker)[-1]
        host.leave()
        assert httpx.get(f"{url}/livez").status_code == 200
        assert httpx.get(f"{url}/readyz").status_code == 503
        for new in (lambda: ask(worker), lambda: worker.embed(Query("a"))):
            with pytest.raises(WorkerUnavailable, match="shutting down"):
                new()
        status = worker.status()  # it still has a heart
        assert (status.leaving, status.room) == (True, 0)


def test_running_requests_finish_while_their_worker_shuts_down() -> None:
    host = Host(lambda: memory_worker(pause_s=0.4))  # eight times the beats after which a silent one is dead
    with (
        live(create_app(host, CollectorRegistry())) as url,
        closing(Fleet({url: HttpWorker(url)}, heartbeat_s=0.02)) as fleet,
    ):
        fleet.wait(10)

        async def answer() -> list[TextPiece | Generation]:
            events = []
            async for event in fleet.generate(CALL):
                host.leave()
                events.append(event)
            return events

        assert len(asyncio.run(answer())) == 4
        with pytest.raises(WorkerUnavailable):
            fleet.embed(Query("a"))


def test_an_error_after_the_first_piece_is_the_stream_s_last_line() -> None:
    with serving(ScriptedWorker(["a", "b"], then=Overloaded("No room.", "Wait."))) as url, connected(url) as worker:
        with pytest.raises(Overloaded) as caught:
            ask(worker)
        assert (caught.value.detail, caught.value.cure) == ("No room.", "Wait.")
        answer = httpx.post(f"{url}/generate", content=b'{"prompt": {"text": "a"}, "model_id": "m"}')
        assert answer.status_code == 200
        assert [next(iter(json.loads(line))) for line in answer.text.splitlines()] == ["text", "text", "code"]


def test_an_error_before_the_first_piece_has_a_status() -> None:
    with serving(ScriptedWorker(then=Overloaded("No room.", "Wait."))) as url, connected(url) as worker:
        with pytest.raises(Overloaded, match="No room"):
            ask(worker)
        answer = httpx.post(f"{url}/generate", content=b'{"prompt": {"text": "a"}, "model_id": "m"}')
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")


@pytest.mark.parametrize("pieces", [[], ["a"]], ids=["before the first piece", "after it"])
def test_an_unexpected_error_becomes_worker_lost(pieces: list[str]) -> None:
    with (
        serving(ScriptedWorker(pieces, then=RuntimeError("secret path"))) as url,
        connected(url) as worker,
        pytest.raises(WorkerLost, match="Unexpected error") as caught,
    ):
        ask(worker)
    assert "secret" not in str(caught.value)


def test_a_disconnect_before_the_first_piece_cancels_the_request() -> None:
    far = ScriptedWorker(then=Then.WAIT)
    with serving(far) as url, connected(url) as worker:

        async def leave() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(worker.generate(CALL)), 0.2)

        asyncio.run(leave())
        assert far.begun.is_set()
        assert far.closed.wait(1)


def test_a_disconnect_between_two_pieces_cancels_the_request() -> None:
    far = ScriptedWorker(["a"], then=Then.WAIT)
    with serving(far) as url, connected(url) as worker:

        async def leave() -> None:
            events = worker.generate(CALL)
            assert await anext(events) == TextPiece("a", 1)
            assert not far.closed.is_set()
            await events.aclose()

        asyncio.run(leave())
        assert far.closed.wait(1)


def test_a_stalled_worker_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlibrary.adapters.workers.http_worker.GRACE_S", 0.1)
    far = ScriptedWorker(["a"], then=Then.WAIT)
    with serving(far) as url, connected(url) as worker:
        with pytest.raises(TimedOut):
            ask(worker, replace(CALL, timeout_s=0.2))
        assert far.closed.wait(1)


def test_a_slow_consumer_does_not_time_out() -> None:
    with serving(ScriptedWorker(["a"])) as url, connected(url) as worker:

        async def linger() -> list[TextPiece | Generation]:
            events = []
            async for event in worker.generate(replace(CALL, timeout_s=0.0)):
                events.append(event)
                await asyncio.sleep(0.05)
            return events

        assert len(asyncio.run(linger())) == 2


def test_an_absent_worker_is_unavailable() -> None:
    with connected("http://127.0.0.1:9") as worker:
        for act in (worker.status, lambda: worker.embed(Query("a")), lambda: ask(worker)):
            with pytest.raises(WorkerUnavailable) as caught:
                act()
            assert "127.0.0.1" not in caught.value.detail


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
PIECE = dump_event(TextPiece("a", 1)) + b"\n"
INCOMPLETE = {
    "no bytes": (b"", WorkerUnavailable, "does not respond"),
    "headers only": (HEAD, WorkerUnavailable, "does not respond"),
    "half a line": (HEAD + b"%x\r\n%s\r\n" % (8, PIECE[:8]), WorkerUnavailable, "does not respond"),
    "an empty body": (HEAD + b"0\r\n\r\n", WorkerUnavailable, "ended early"),
    "a piece": (HEAD + b"%x\r\n%s\r\n" % (len(PIECE), PIECE), WorkerLost, "connection to the worker was lost"),
    "a piece and the end": (HEAD + b"%x\r\n%s\r\n0\r\n\r\n" % (len(PIECE), PIECE), WorkerLost, "ended early"),
    "an unknown event": (HEAD + b"3\r\n{}\n\r\n0\r\n\r\n", WorkerLost, "Invalid answer"),
    "another server": (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\noops", WorkerUnavailable, "HTTP 502"),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_an_incomplete_answer_is_an_error(case: str) -> None:
    answer, kind, message = INCOMPLETE[case]
    with raw_server(answer) as url, connected(url) as worker, pytest.raises(kind, match=message):
        ask(worker)


def test_the_status_of_a_silent_worker_times_out() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,  # connects, and never answers
        connected(f"http://127.0.0.1:{listener.getsockname()[1]}") as worker,
        pytest.raises(WorkerUnavailable),
    ):
        worker.status()


def test_large_messages_are_too_large_and_unknown_ones_unavailable() -> None:
    host = Host(memory_worker)
    with live(create_app(host, CollectorRegistry(), max_body_bytes=1_000)) as url, connected(url) as worker:
        until(lambda: httpx.get(f"{url}/readyz").status_code == 200)
        with pytest.raises(TooLarge):
            worker.embed(Query("a" * 1_000))
        with pytest.raises(TooLarge):
            ask(worker, replace(CALL, prompt=Prompt("a" * 1_000)))
        for body in (b"{}", b"no json", b'{"prompt": {"text": "a"}, "model_id": "m", "beams": 4}'):
            answer = httpx.post(f"{url}/generate", content=body)
            assert (answer.status_code, answer.json()["code"]) == (503, WorkerUnavailable.code)
        assert httpx.post(f"{url}/check", content=b"\x80\x04").json()["code"] == "invalid-artifact"
