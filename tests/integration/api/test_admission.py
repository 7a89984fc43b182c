"""Limits on requests over real connections: concurrency, deadlines, disconnects and shutdown."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from httpx_sse import connect_sse

from tests.support import samples
from tests.support.library import memory_library
from tests.support.live_server import live, running, unread
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL
from tests.support.scripted_worker import ScriptedWorker, Then
from tests.support.worker_server import until
from vlibrary.api.app import create_app
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.server import ApiServer
from vlibrary.domain.query import Query, TaskEmbedding

AUTO = {"prompt": "a"}
OFF = {"prompt": "a", "steering": "off"}
CHAT = {"messages": [{"role": "user", "content": "a"}], "vlibrary": {"steering": "off"}}
REQUESTS = {"/generate": OFF, "/v1/chat/completions": CHAT, "/retrieve": {"text": "a"}}
TIMEOUT_S = 5.0


class SlowEmbedder(ScriptedWorker):
    """Its `embed` sets `embedding` when it starts and returns once `unblocked` is set."""

    def __init__(self, then: Then = Then.END) -> None:
        super().__init__(["a"], then)
        self.embedding = threading.Event()
        self.unblocked = threading.Event()

    def embed(self, query: Query) -> TaskEmbedding:
        self.embedding.set()
        assert self.unblocked.wait(20)
        return super().embed(query)


@contextmanager
def slow_api(limits: Limits | None = None) -> Iterator[tuple[SlowEmbedder, httpx.Client]]:
    worker = SlowEmbedder()
    with live(create_app(memory_library(worker=worker), limits)) as url, httpx.Client(base_url=url) as client:
        try:
            yield worker, client
        finally:
            worker.unblocked.set()


@pytest.mark.parametrize("stream", [False, True])
def test_requests_over_the_limit_get_429_until_a_slot_is_free(stream: bool) -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)
    with (
        live(create_app(memory_library(worker=worker), Limits(max_requests=1))) as url,
        httpx.Client(base_url=url) as client,
    ):
        with unread(url, "/generate", OFF | {"stream": stream}):
            assert worker.begun.wait(TIMEOUT_S)
            for path, body in REQUESTS.items():
                refused = client.post(path, json=body)
                assert refused.status_code == 429, path
                assert 0 < int(refused.headers["retry-after-ms"]) <= 1000 * int(refused.headers["retry-after"]), path
            assert client.get("/retrieve", params={"query": "a"}).status_code == 429
            assert client.get("/vectors").status_code == 200
        until(lambda: client.get("/retrieve", params={"query": "a"}).status_code == 200)
    assert len(worker.calls) == 1


def test_the_deadline_includes_the_time_spent_in_retrieval() -> None:
    with slow_api(Limits(timeout_s=0.2)) as (worker, client):
        for path, body in {"/generate": AUTO, "/v1/chat/completions": CHAT | {"vlibrary": {}}}.items():
            assert client.post(path, json=body).status_code == 504
        assert client.post("/generate", json=AUTO | {"timeout_s": 0.1}).status_code == 504
        assert client.post("/retrieve", json={"text": "a"}).status_code == 504
        assert client.get("/retrieve", params={"query": "a"}).status_code == 504
    assert worker.calls == []


def test_the_worker_receives_the_remaining_time() -> None:
    with slow_api() as (worker, client):
        threading.Timer(0.3, worker.unblocked.set).start()
        assert client.post("/generate", json=AUTO | {"timeout_s": 5}).status_code == 200
    (call,) = worker.calls
    assert call.timeout_s is not None
    assert 3 < call.timeout_s < 5


def test_a_disconnect_during_retrieval_frees_the_slot() -> None:
    with slow_api(Limits(max_requests=1)) as (worker, client):
        with unread(str(client.base_url).rstrip("/"), "/generate", AUTO):
            assert worker.embedding.wait(TIMEOUT_S)
            assert client.post("/generate", json=OFF).status_code == 429
        until(lambda: client.post("/generate", json=OFF).status_code == 200)


def test_overload_is_shed_and_admitted_requests_succeed() -> None:
    """Ten times the limit, with an embedder that serves one request at a time."""

    class SerialEmbedder(ScriptedWorker):
        lock = threading.Lock()

        def embed(self, query: Query) -> TaskEmbedding:
            with self.lock:
                time.sleep(0.02)
            return super().embed(query)

    app = create_app(memory_library(worker=SerialEmbedder(["a"])), Limits(max_requests=8))
    connections = httpx.Limits(max_connections=80)

    async def post_all(url: str) -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=connections) as client:
            answers = await asyncio.gather(*(client.post("/generate", json=AUTO) for _ in range(80)))
        return [answer.status_code for answer in answers]

    with live(app) as url:
        statuses = asyncio.run(post_all(url))
    assert set(statuses) == {200, 429}
    assert 8 <= statuses.count(200) < 60


def test_uploads_over_the_limit_are_rejected_and_none_is_lost() -> None:
    class SlowArtifacts(MemoryArtifacts):
        """Stores nothing until `unblocked` is set."""

        unblocked = threading.Event()

        def put(self, key: str, data: bytes, sha256: str) -> None:
            assert self.unblocked.wait(20)
            super().put(key, data, sha256)

    store = SlowArtifacts()
    library = memory_library(store)

    def upload(client: httpx.Client, number: int) -> httpx.Response:
        files = {"artifact": samples.artifact(MODEL, number)}
        data = {"card": samples.card("hue", "Which hue?")}
        return client.post("/vectors", files=files, data=data, headers={"Idempotency-Key": str(number)})

    with (
        live(create_app(library, Limits(max_requests=2))) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        uploads = [pool.submit(upload, client, number) for number in range(8)]
        until(lambda: sum(upload.done() for upload in uploads) == 6)
        assert client.get("/vectors").json()["items"] == []
        store.unblocked.set()
        answers = [one.result() for one in uploads]
        refused = [number for number, answer in enumerate(answers) if answer.status_code == 429]
        assert len(refused) == 6
        assert all(1 <= int(answers[number].headers["retry-after"]) <= 60 for number in refused)
        created = {answer.json()["id"] for answer in answers if answer.status_code == 201}
        for number in refused:
            created.add(upload(client, number).json()["id"])
        assert {one["id"] for one in client.get("/vectors").json()["items"]} == created
        assert len(created) == 8


def test_a_body_that_never_arrives_times_out_and_frees_the_slot() -> None:
    with slow_api(Limits(max_requests=1, timeout_s=0.2)) as (_worker, client):
        host, _, port = str(client.base_url).removeprefix("http://").rstrip("/").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
            assert b" 408 " in connection.recv(64)
            until(lambda: client.post("/generate", json=OFF).status_code == 200)


@contextmanager
def stopping(worker: ScriptedWorker, grace_s: float) -> Iterator[tuple[ApiServer, str]]:
    server = ApiServer(create_app(memory_library(worker=worker)), address="", port=0, grace_s=grace_s)
    with running(server) as url:
        yield server, url


def test_a_stream_running_after_the_grace_period_ends_with_an_error() -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)
    with stopping(worker, 0.1) as (server, url), httpx.Client() as client:
        with connect_sse(client, "POST", f"{url}/generate", json=OFF | {"stream": True}) as source:
            events = source.iter_sse()
            assert [next(events).event for _ in range(2)] == ["steering", "token"]
            server.should_exit = True
            (last,) = events
        assert last.event == "error"
        assert (last.json()["status"], last.json()["type"]) == (503, "/problems/unavailable")
    assert worker.closed.is_set()


def test_requests_running_after_the_grace_period_return_503() -> None:
    worker = SlowEmbedder(Then.WAIT)
    with stopping(worker, 0.1) as (server, url), ThreadPoolExecutor(2) as pool:
        responses = [pool.submit(httpx.post, f"{url}/generate", json=body, timeout=30) for body in (OFF, AUTO)]
        assert worker.begun.wait(TIMEOUT_S)
        assert worker.embedding.wait(TIMEOUT_S)
        server.should_exit = True
        assert [response.result().status_code for response in responses] == [503, 503]
        worker.unblocked.set()


def test_a_request_finished_within_the_grace_period_succeeds() -> None:
    worker = SlowEmbedder()
    with stopping(worker, 20) as (server, url), ThreadPoolExecutor(1) as pool:
        response = pool.submit(httpx.post, f"{url}/generate", json=AUTO, timeout=30)
        assert worker.embedding.wait(TIMEOUT_S)
        server.should_exit = True
        threading.Timer(0.3, worker.unblocked.set).start()
        assert response.result().json()["text"] == "a"
