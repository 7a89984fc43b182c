"""Real worker processes that are killed, frozen, restarted, missing, or have the wrong token."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.worker_process import Running
from tests.support.worker_server import until
from vlibrary.adapters.workers.fleet import Fleet
from vlibrary.adapters.workers.http_worker import HttpWorker
from vlibrary.bundled import LVLM_ID
from vlibrary.domain.errors import WorkerLost, WorkerUnavailable
from vlibrary.domain.wire import Decoding, GenerateCall, Generation, Prompt, TextPiece

TOKEN = "a token of these tests"
SHORT = GenerateCall(Prompt("Which colour is it?"), LVLM_ID)
# At this temperature all tokens are about equally likely, so the answer is long.
LONG = GenerateCall(Prompt("Which colour is it?"), LVLM_ID, decoding=Decoding(900, temperature=100.0, seed=1))
HOT = {"max_new_tokens": 900, "temperature": 10.0, "seed": 2}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Two workers and an api that uses them, on one data folder."""
    folder = tmp_path_factory.mktemp("data")
    token = {"VLIBRARY_WORKER_TOKEN": TOKEN}
    workers = [Running("work", folder, token) for _ in range(2)]
    named = {"VLIBRARY_WORKERS": ",".join(worker.url for worker in workers)}
    processes = [*workers, Running("serve", folder, token | named)]
    try:
        for process in processes:
            process.start()
        yield processes
    finally:
        for process in processes:
            process.kill()


@pytest.fixture
def workers(started: list[Running]) -> list[Running]:
    """Both workers, running."""
    for worker in started[:2]:
        worker.revive()
    for worker in started[:2]:
        worker.wait_ready()
    return started[:2]


@pytest.fixture
def fleet(workers: list[Running]) -> Iterator[Fleet]:
    fleet = Fleet({worker.url: HttpWorker(worker.url, TOKEN, heartbeat_s=0.5) for worker in workers}, heartbeat_s=0.2)
    until(lambda: all(alive(fleet)))
    yield fleet
    fleet.close()


@pytest.fixture
def api(started: list[Running]) -> Running:
    """The api, with at least one worker running."""
    for process in started[1:]:
        process.revive()
    for process in started[1:]:
        process.wait_ready()
    return started[2]


def alive(fleet: Fleet) -> list[bool]:
    return [member.status is not None for member in fleet.members]


async def whole(fleet: Fleet, call: GenerateCall = SHORT) -> str:
    last = [event async for event in fleet.generate(call)][-1]
    assert isinstance(last, Generation)
    return last.text


def test_a_frozen_worker_is_unavailable_until_it_resumes(fleet: Fleet, workers: list[Running]) -> None:
    workers[0].signal(signal.SIGSTOP)
    try:
        assert asyncio.run(whole(fleet))  # sent to the frozen one, answered by the other
        until(lambda: alive(fleet) == [False, True])
    finally:
        workers[0].signal(signal.SIGCONT)
    until(lambda: alive(fleet) == [True, True])
    assert asyncio.run(whole(fleet))


def test_a_wrong_token_is_named_by_the_readiness_check(workers: list[Running], tmp_path: Path) -> None:
    stranger = Running(
        "serve", tmp_path, {"VLIBRARY_WORKERS": workers[0].url, "VLIBRARY_WORKER_TOKEN": "another token"}
    )
    stranger.start()
    try:
        until(lambda: "The worker rejected the token." in _readiness(stranger.url), 60)
    finally:
        stranger.kill()
    assert "Traceback" not in stranger.log


def _readiness(url: str) -> str:
    try:
        return httpx.get(f"{url}/readyz").text
    except httpx.HTTPError:
        return ""


def test_a_killed_worker_interrupts_only_its_own_answers(fleet: Fleet, workers: list[Running]) -> None:
    async def ask() -> None:
        async with aclosing(fleet.generate(LONG)) as first, aclosing(fleet.generate(LONG)) as second:
            assert isinstance(await anext(first), TextPiece)
            assert isinstance(await anext(second), TextPiece)
            assert [member.load for member in fleet.members] == [(False, 1), (False, 1)]
            workers[0].kill()
            with pytest.raises(WorkerLost):
                async for _ in first:
                    pass
            assert isinstance([event async for event in second][-1], Generation)
        assert len({await whole(fleet) for _ in range(3)}) == 1

    asyncio.run(ask())
    until(lambda: alive(fleet) == [False, True])
    workers[0].start()  # on the same port
    until(lambda: alive(fleet) == [True, True], 60)


def test_a_stopping_worker_finishes_running_requests_and_accepts_no_new_ones(
    fleet: Fleet, workers: list[Running]
) -> None:
    async def ask() -> None:
        async with aclosing(fleet.generate(LONG)) as events:
            assert isinstance(await anext(events), TextPiece)
            workers[0].signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            assert httpx.get(f"{workers[0].url}/readyz").status_code == 503
            last = [event async for event in events][-1]
        assert isinstance(last, Generation)
        assert last.text == await whole(fleet, LONG)  # by the other one

    asyncio.run(ask())
    assert workers[0].wait_end(10) == 0


# Like a sticky device error: it is raised outside the code that handles a single request.
STRUCK = """
from vlibrary.engine.inflight import InFlightEngine
def struck(engine):
    raise RuntimeError("the device is lost")
InFlightEngine.step = struck
"""


def test_a_worker_whose_model_fails_logs_why_and_exits_with_an_error(tmp_path: Path) -> None:
    worker = Running("work", tmp_path, {}, before=STRUCK)
    worker.start()
    try:
        worker.wait_ready()
        with closing(HttpWorker(worker.url)) as asked, pytest.raises(WorkerUnavailable):
            asyncio.run(first_piece(asked))
        assert worker.wait_end(15) == 1
    finally:
        worker.kill()
    assert "the device is lost" in worker.log
    assert "The model's thread has ended" in worker.log


async def first_piece(worker: HttpWorker) -> None:
    async with aclosing(worker.generate(SHORT)) as events:
        await anext(events)


def test_the_api_uses_its_workers_and_reports_when_none_is_available(api: Running, started: list[Running]) -> None:
    assert "libtorch" not in Path(f"/proc/{api.pid}/maps").read_text()
    body: dict[str, Any] = {"prompt": "Which colour is it?", "model": LVLM_ID}
    answer = httpx.post(f"{api.url}/generate", json=body, timeout=30)
    assert answer.status_code == 200, answer.text

    hot = body | {"stream": True, "decoding": HOT}
    with httpx.stream("POST", f"{api.url}/generate", json=hot, timeout=30) as stream:
        events = (line for line in stream.iter_lines() if line.startswith("event:"))
        assert [next(events), next(events)] == ["event: steering", "event: token"]
        for worker in started[:2]:
            worker.kill()
        assert [line for line in events if line != "event: token"] == ["event: error"]

    answer = httpx.post(f"{api.url}/generate", json=body, timeout=30)
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"].endswith("worker-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert httpx.get(f"{api.url}/livez").status_code == 200
    api.signal(signal.SIGTERM)
    assert api.wait_end(15) in (0, -signal.SIGTERM)  # its heartbeat threads do not delay it
