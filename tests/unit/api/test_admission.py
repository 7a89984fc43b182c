"""How many requests are inside, how long they take, who leaves, and what becomes of them when the service stops."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
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
from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.deps import Limits
from vlibrary.api.http.server import ApiServer
from vlibrary.domain.errors import TimedOut, Unavailable
from vlibrary.domain.query import Query, TaskEmbedding

AUTO = {"prompt": "a"}
OFF = {"prompt": "a", "steering": "off"}
CHAT = {"messages": [{"role": "user", "content": "a"}], "vlibrary": {"steering": "off"}}
ASKS = {"/generate": OFF, "/v1/chat/completions": CHAT, "/retrieve": {"text": "a"}}
SOON_S = 5.0


class SlowEmbedder(ScriptedWorker):
    """embedding: set when embed begins; going_on: until this is set, embed does not return."""

    def __init__(self, then: Then = Then.END) -> None:
        super().__init__(["a"], then)
        self.embedding = threading.Event()
        self.going_on = threading.Event()

    def embed(self, query: Query) -> TaskEmbedding:
        self.embedding.set()
        assert self.going_on.wait(20)
        return super().embed(query)


@contextmanager
def slow_api(limits: Limits | None = None) -> Iterator[tuple[SlowEmbedder, httpx.Client]]:
    worker = SlowEmbedder()
    with live(create_app(memory_library(worker=worker), limits)) as url, httpx.Client(base_url=url) as client:
        try:
            yield worker, client
        finally:
            worker.going_on.set()


@pytest.mark.parametrize("stream", [False, True])
def test_one_request_too_many_is_refused_at_once_until_one_leaves(stream: bool) -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)
    with (
        live(create_app(memory_library(worker=worker), Limits(max_requests=1))) as url,
        httpx.Client(base_url=url) as client,
    ):
        with unread(url, "/generate", OFF | {"stream": stream}):
            assert worker.begun.wait(SOON_S)
            for path, body in ASKS.items():
                refused = client.post(path, json=body)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "5"), path
            assert client.get("/retrieve", params={"query": "a"}).status_code == 429
            assert client.get("/vectors").status_code == 200
        until(lambda: client.get("/retrieve", params={"query": "a"}).status_code == 200)
    assert len(worker.calls) == 1


def test_the_deadline_counts_from_the_request_s_arrival_before_any_worker_is_asked_for_an_answer() -> None:
    with slow_api(Limits(timeout_s=0.2)) as (worker, client):
        for path, body in {"/generate": AUTO, "/v1/chat/completions": CHAT | {"vlibrary": {}}}.items():
            assert client.post(path, json=body).status_code == 504
        assert client.post("/generate", json=AUTO | {"timeout_s": 0.1}).status_code == 504
        assert client.post("/retrieve", json={"text": "a"}).status_code == 504
        assert client.get("/retrieve", params={"query": "a"}).status_code == 504
    assert worker.calls == []


def test_a_worker_is_told_what_is_left_of_the_time() -> None:
    with slow_api() as (worker, client):
        threading.Timer(0.3, worker.going_on.set).start()
        assert client.post("/generate", json=AUTO | {"timeout_s": 5}).status_code == 200
    (call,) = worker.calls
    assert call.timeout_s is not None
    assert 3 < call.timeout_s < 5


def test_a_client_that_leaves_while_vectors_are_sought_frees_its_place() -> None:
    with slow_api(Limits(max_requests=1)) as (worker, client):
        with unread(str(client.base_url).rstrip("/"), "/generate", AUTO):
            assert worker.embedding.wait(SOON_S)
            assert client.post("/generate", json=OFF).status_code == 429
        until(lambda: client.post("/generate", json=OFF).status_code == 200)


def test_a_crowd_is_shed_and_those_inside_are_answered() -> None:
    """Ten times more than fits, before an embedder that takes one at a time."""

    class OneByOne(ScriptedWorker):
        lock = threading.Lock()

        def embed(self, query: Query) -> TaskEmbedding:
            with self.lock:
                time.sleep(0.02)
            return super().embed(query)

    app = create_app(memory_library(worker=OneByOne(["a"])), Limits(max_requests=8))
    crowd = httpx.Limits(max_connections=80)

    async def ask_all(url: str) -> list[int]:
        async with httpx.AsyncClient(base_url=url, timeout=30, limits=crowd) as client:
            answers = await asyncio.gather(*(client.post("/generate", json=AUTO) for _ in range(80)))
        return [answer.status_code for answer in answers]

    with live(app) as url:
        statuses = asyncio.run(ask_all(url))
    assert set(statuses) == {200, 429}
    assert 8 <= statuses.count(200) < 60


def test_uploads_beyond_what_fits_are_refused_and_none_is_lost() -> None:
    class Slow(MemoryArtifacts):
        """going_on: until this is set, nothing is stored."""

        going_on = threading.Event()

        def put(self, key: str, data: bytes, sha256: str) -> None:
            assert self.going_on.wait(20)
            super().put(key, data, sha256)

    store = Slow()
    library = memory_library(store)

    def upload(client: httpx.Client, number: int) -> httpx.Response:
        files = {"artifact": samples.artifact(MODEL, number)}
        data = {"card": samples.card("hue", "Which hue?")}
        return client.post("/vectors", files=files, data=data, headers={"Idempotency-Key": str(number)})

    with (
        live(create_app(library, Limits(max_requests=2))) as url,
        httpx.Client(base_url=url, timeout=30) as client,
        ThreadPoolExecutor(8) as crowd,
    ):
        uploads = [crowd.submit(upload, client, number) for number in range(8)]
        until(lambda: sum(one.done() for one in uploads) == 6)
        assert client.get("/vectors").json()["items"] == []
        store.going_on.set()
        answers = [one.result() for one in uploads]
        refused = [number for number, answer in enumerate(answers) if answer.status_code == 429]
        assert len(refused) == 6
        assert {answers[number].headers["retry-after"] for number in refused} == {"5"}
        made = {answer.json()["id"] for answer in answers if answer.status_code == 201}
        for number in refused:
            made.add(upload(client, number).json()["id"])
        assert {one["id"] for one in client.get("/vectors").json()["items"]} == made
        assert len(made) == 8


def test_a_thread_whose_caller_gave_up_counts_until_it_is_done() -> None:
    going_on = threading.Event()

    async def ask(control: AdmissionControl, question: Callable[[], object], seconds: float) -> object:
        async with control.cancel_at(asyncio.get_running_loop().time() + seconds):
            return await control.run_in_thread(question)

    async def scene() -> None:
        control = AdmissionControl(2, SOON_S, threads=1)
        for question in (lambda: going_on.wait(20), lambda: "done"):  # the second finds no thread
            with pytest.raises(TimedOut):
                await ask(control, question, 0.1)
        going_on.set()
        assert await ask(control, lambda: "done", SOON_S) == "done"

    asyncio.run(scene())


def test_a_body_that_does_not_come_frees_its_place() -> None:
    with slow_api(Limits(max_requests=1, timeout_s=0.2)) as (_worker, client):
        host, _, port = str(client.base_url).removeprefix("http://").rstrip("/").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{")
            assert b" 504 " in connection.recv(64)
            until(lambda: client.post("/generate", json=OFF).status_code == 200)


def test_a_stop_ends_what_runs_beside_what_is_just_too_late() -> None:
    async def late(control: AdmissionControl) -> None:
        async with control.cancel_at(asyncio.get_running_loop().time()):
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)  # it takes its time to end

    async def waiting(control: AdmissionControl) -> None:
        async with control.cancel_at(None):
            await asyncio.Event().wait()

    async def scene() -> tuple[BaseException | None, BaseException | None]:
        control = AdmissionControl(2, SOON_S, threads=1)
        asyncio.get_running_loop().call_later(0.02, control.stop)
        return await asyncio.gather(late(control), waiting(control), return_exceptions=True)

    _too_late, ended = asyncio.run(scene())
    assert isinstance(ended, Unavailable)


@contextmanager
def stopping(worker: ScriptedWorker, grace_s: float) -> Iterator[tuple[ApiServer, str]]:
    server = ApiServer(create_app(memory_library(worker=worker)), address="", port=0, grace_s=grace_s)
    with running(server) as url:
        yield server, url


def test_a_stream_that_outlasts_the_grace_time_ends_with_an_error() -> None:
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


def test_a_whole_answer_that_outlasts_the_grace_time_is_a_503_and_a_search_too() -> None:
    worker = SlowEmbedder(Then.WAIT)
    with stopping(worker, 0.1) as (server, url), ThreadPoolExecutor(2) as askers:
        asked = [askers.submit(httpx.post, f"{url}/generate", json=body, timeout=30) for body in (OFF, AUTO)]
        assert worker.begun.wait(SOON_S)
        assert worker.embedding.wait(SOON_S)
        server.should_exit = True
        assert [one.result().status_code for one in asked] == [503, 503]
        worker.going_on.set()


def test_what_is_finished_within_the_grace_time_is_whole() -> None:
    worker = SlowEmbedder()
    with stopping(worker, 20) as (server, url), ThreadPoolExecutor(1) as askers:
        asked = askers.submit(httpx.post, f"{url}/generate", json=AUTO, timeout=30)
        assert worker.embedding.wait(SOON_S)
        server.should_exit = True
        threading.Timer(0.3, worker.going_on.set).start()
        assert asked.result().json()["text"] == "a"
