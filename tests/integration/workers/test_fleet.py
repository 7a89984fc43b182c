"""The fleet: routing, failover and heartbeats."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace

import numpy as np
import pytest

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.samples import vector
from tests.support.worker_server import until
from vlibrary.adapters.workers.fleet import Fleet
from vlibrary.domain.errors import (
    InvalidQuery,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    Unavailable,
    VLibraryError,
    WorkerLost,
    WorkerUnavailable,
    WrongModel,
)
from vlibrary.domain.ports.inference import Worker
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import ModelSpec, SteeringVector
from vlibrary.domain.wire import GenerateCall, Generation, Prompt, TextPiece, WorkerInfo, WorkerStatus

HEARTBEAT_S = 0.02
OTHER = replace(MODEL, model_id="tests/other", fingerprint="2" * 64)
CALL = GenerateCall(Prompt("one two three"), MODEL.model_id)


class ControlledWorker(MemoryWorker):
    """A worker whose behaviour a test controls. refusal: raised before the first piece; breaks: raised after it.

    absent: heartbeats fail; status_error: raised by status(); ready: while cleared, embed() blocks.
    calls: the number of requests that reached it.
    """

    def __init__(self, model: ModelSpec = MODEL, *, embedder: str | None = None, load: int = 0) -> None:
        super().__init__(MemoryArtifacts())
        info = replace(super().models()[0], model=model)
        self.info = info if embedder is None else replace(info, embedder=replace(info.embedder, fingerprint=embedder))
        self.running = load
        self.refusal: VLibraryError | None = None
        self.breaks: VLibraryError | None = None
        self.absent = False
        self.silent = False
        self.leaving = False
        self.room = 64
        self.status_error: Exception | None = None
        self.ready = threading.Event()
        self.ready.set()
        self.calls = 0
        self.closed = threading.Event()

    def models(self) -> tuple[WorkerInfo, ...]:
        return (self.info,)

    def status(self) -> WorkerStatus:
        if self.absent:
            raise WorkerUnavailable("No heartbeat.", "Restart it.")
        if self.status_error is not None:
            raise self.status_error
        return WorkerStatus(self.info, self.running, 0, self.room, self.leaving)

    def check(self, vector: SteeringVector) -> None:
        self._enter()
        super().check(replace(vector, model=MODEL))

    def embed(self, query: Query) -> TaskEmbedding:
        self._enter()
        assert self.ready.wait(20)
        return super().embed(query)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        self._enter()
        async with aclosing(super().generate(call)) as events:
            async for event in events:
                if self.silent:
                    await asyncio.Event().wait()
                yield event
                if self.breaks is not None:
                    raise self.breaks

    def close(self) -> None:
        self.closed.set()

    def _enter(self) -> None:
        self.calls += 1
        if self.refusal is not None:
            raise self.refusal


@contextmanager
def fleet_of(*workers: ControlledWorker, admitted: int | None = None) -> Iterator[Fleet]:
    """A fleet, as soon as the expected number of workers is alive."""
    named: dict[str, Worker] = {f"worker-{number}": worker for number, worker in enumerate(workers)}
    fleet = Fleet(named, heartbeat_s=HEARTBEAT_S, misses=3)
    try:
        expected = len(workers) if admitted is None else admitted
        until(lambda: sum(member.status is not None for member in fleet.members) == expected)
        yield fleet
    finally:
        fleet.close()


def text_of(fleet: Fleet, call: GenerateCall = CALL) -> str:
    async def whole() -> str:
        last = [event async for event in fleet.generate(call)][-1]
        assert isinstance(last, Generation)
        return last.text

    return asyncio.run(whole())


def wait_heartbeats(number: float = 6) -> None:
    """Wait for this many heartbeats."""
    threading.Event().wait(number * HEARTBEAT_S)


def test_the_least_loaded_worker_is_used() -> None:
    busy, idle = ControlledWorker(load=5), ControlledWorker(load=2)
    with fleet_of(busy, idle) as fleet:
        text_of(fleet)
        assert (busy.calls, idle.calls) == (0, 1)
        idle.running = 9
        wait_heartbeats()
        text_of(fleet)
        assert (busy.calls, idle.calls) == (1, 1)


def test_requests_sent_since_the_last_heartbeat_count_as_load() -> None:
    first, second = ControlledWorker(), ControlledWorker()

    async def many(fleet: Fleet) -> None:
        streams = [fleet.generate(CALL) for _ in range(6)]
        for stream in streams:
            await anext(stream)
        for stream in streams:
            await stream.aclose()

    with fleet_of(first, second) as fleet:
        first.absent = second.absent = True  # no news from here on, but not yet dead
        asyncio.run(many(fleet))
    assert (first.calls, second.calls) == (3, 3)


def test_a_worker_without_room_comes_last() -> None:
    full, large = ControlledWorker(load=2), ControlledWorker(load=9)
    full.room = 0
    with fleet_of(full, large) as fleet:
        text_of(fleet)
        assert (full.calls, large.calls) == (0, 1)
        large.refusal = Overloaded("Full.", "Wait.")
        text_of(fleet)  # its last beat may be old
        assert (full.calls, large.calls) == (1, 2)


@pytest.mark.parametrize(
    "refusal",
    [
        Overloaded("Full.", "Wait."),
        WorkerUnavailable("Gone.", "Start it."),
        OutOfMemory("No memory.", "Ask for less."),
        WorkerLost("Nobody foresaw it.", "Report it."),
        Unavailable("The model failed.", "See the log."),
    ],
    ids=lambda refusal: refusal.code,
)
def test_another_worker_is_tried_when_one_fails_before_the_first_piece(refusal: VLibraryError) -> None:
    first, second = ControlledWorker(), ControlledWorker(load=1)
    first.refusal = refusal
    with fleet_of(first, second) as fleet:
        assert text_of(fleet) == CALL.prompt.text
        assert (first.calls, second.calls) == (1, 1)
        fleet.embed(Query("a"))
        fleet.check(vector(MODEL))
        assert (first.calls, second.calls) == (3, 3)


def test_client_errors_are_not_retried() -> None:
    first, second = ControlledWorker(), ControlledWorker(load=1)
    first.refusal = InvalidQuery("Empty.", "Ask something.")
    with fleet_of(first, second) as fleet:
        with pytest.raises(InvalidQuery):
            text_of(fleet)
        with pytest.raises(InvalidQuery):
            fleet.embed(Query("a"))
    assert second.calls == 0


def test_a_worker_that_fails_during_an_answer_is_not_replaced() -> None:
    first, second = ControlledWorker(), ControlledWorker(load=1)
    first.breaks = WorkerLost("Gone in the middle.", "Ask again.")
    with fleet_of(first, second) as fleet, pytest.raises(WorkerLost, match="in the middle"):
        text_of(fleet)
    assert second.calls == 0


def test_the_fleet_is_overloaded_if_all_live_workers_are() -> None:
    first, second = ControlledWorker(), ControlledWorker()
    first.refusal, second.refusal = Overloaded("Full.", "Wait."), WorkerUnavailable("Gone.", "Start it.")
    with fleet_of(first, second) as fleet:
        with pytest.raises(Overloaded):
            text_of(fleet)
        first.refusal = second.refusal
        with pytest.raises(WorkerUnavailable):
            text_of(fleet)


def test_a_failure_is_reported_in_preference_to_an_absent_worker() -> None:
    first, second = ControlledWorker(), ControlledWorker(load=1)
    first.refusal, second.refusal = OutOfMemory("No memory.", "Ask for less."), WorkerUnavailable("Gone.", "Start it.")
    with fleet_of(first, second) as fleet, pytest.raises(OutOfMemory):
        text_of(fleet)


def test_three_missed_heartbeats_make_a_worker_dead_and_one_revives_it() -> None:
    first, second = ControlledWorker(), ControlledWorker(load=1)
    with fleet_of(first, second) as fleet:
        first.absent = True
        until(lambda: fleet.members[0].status is None)
        text_of(fleet)
        assert (first.calls, second.calls) == (0, 1)
        first.absent = False
        until(lambda: fleet.members[0].status is not None)
        text_of(fleet)
        assert (first.calls, second.calls) == (1, 1)


def test_an_unexpected_error_counts_as_a_missed_heartbeat() -> None:
    only = ControlledWorker()
    with fleet_of(only) as fleet:
        only.status_error = ZeroDivisionError("hm")
        until(lambda: fleet.members[0].status is None)
        assert "ZeroDivisionError" in str(fleet.members[0].problem)
        only.status_error = None
        until(lambda: fleet.members[0].status is not None)


def test_a_worker_that_shuts_down_gets_no_requests() -> None:
    first, second = ControlledWorker(), ControlledWorker(OTHER)
    with fleet_of(first, second) as fleet:
        second.leaving = True
        until(lambda: fleet.members[1].status is None)
        assert [info.model for info in fleet.models()] == [MODEL]
        with pytest.raises(WorkerUnavailable, match="tests/other"):
            text_of(fleet, replace(CALL, model_id=OTHER.model_id))
        assert second.calls == 0


def test_embedding_on_a_frozen_worker_fails_when_it_is_dead() -> None:
    frozen, other = ControlledWorker(), ControlledWorker(load=1)
    with fleet_of(frozen, other) as fleet:
        frozen.ready.clear()
        threading.Timer(2 * HEARTBEAT_S, lambda: setattr(frozen, "absent", True)).start()
        assert fleet.embed(Query("a")).text is not None  # by the other one
        assert (frozen.calls, other.calls) == (1, 1)
        frozen.ready.set()


def test_a_slow_worker_does_not_delay_other_heartbeats() -> None:
    woken = threading.Event()

    class Slow(ControlledWorker):
        def status(self) -> WorkerStatus:
            woken.wait(5)
            return super().status()

    with fleet_of(Slow(), ControlledWorker(), admitted=1) as fleet:
        assert text_of(fleet) == CALL.prompt.text
        woken.set()


def test_an_answer_fails_when_its_worker_s_heartbeat_stops() -> None:
    first, second = ControlledWorker(), ControlledWorker(load=1)

    async def ask(fleet: Fleet) -> list[TextPiece | Generation]:
        events = []
        async for event in fleet.generate(CALL):
            events.append(event)
            first.silent = first.absent = True
        return events

    with fleet_of(first, second) as fleet:
        with pytest.raises(WorkerLost, match="heartbeat"):
            asyncio.run(ask(fleet))
        first.absent = False
        until(lambda: fleet.members[0].status is not None)
        threading.Timer(2 * HEARTBEAT_S, lambda: setattr(first, "absent", True)).start()
        assert text_of(fleet) == CALL.prompt.text  # before the first piece, another one answers instead
        assert (first.calls, second.calls) == (2, 1)


def test_requests_go_to_workers_that_serve_the_model() -> None:
    first, second = ControlledWorker(), ControlledWorker(OTHER)
    with fleet_of(first, second, ControlledWorker()) as fleet:
        assert [info.model for info in fleet.models()] == [MODEL, OTHER]
        text_of(fleet, replace(CALL, model_id=OTHER.model_id))
        assert second.calls == 1
        with pytest.raises(ModelNotFound, match="unknown/model") as caught:
            text_of(fleet, replace(CALL, model_id="unknown/model"))
        assert OTHER.model_id in caught.value.cure
        fleet.check(vector(OTHER))
        assert second.calls == 2
        with pytest.raises(WrongModel):
            fleet.check(vector(replace(MODEL, fingerprint="e" * 64)))
        second.absent = True
        until(lambda: fleet.members[1].status is None)
        assert [info.model for info in fleet.models()] == [MODEL]
        with pytest.raises(WorkerUnavailable, match="tests/other"):
            text_of(fleet, replace(CALL, model_id=OTHER.model_id))
        with pytest.raises(WorkerUnavailable, match="tests/other"):
            fleet.check(vector(OTHER))
        with pytest.raises(WorkerUnavailable, match="tests/other"):
            fleet.find(OTHER.model_id)
        with pytest.raises(ModelNotFound, match="unknown/model"):
            fleet.find("unknown/model")
        assert fleet.find(None).model == MODEL


def test_a_replaced_model_is_unknown() -> None:
    first, second = ControlledWorker(), ControlledWorker(OTHER)
    with fleet_of(first, second) as fleet:
        second.info = first.info
        until(lambda: [info.model for info in fleet.models()] == [MODEL])
        with pytest.raises(ModelNotFound, match="tests/other"):
            text_of(fleet, replace(CALL, model_id=OTHER.model_id))


def test_a_fleet_without_live_workers_is_unavailable() -> None:
    only = ControlledWorker()
    with fleet_of(only) as fleet:
        only.absent = True
        until(lambda: fleet.members[0].status is None)
        for act in (
            fleet.models,
            lambda: fleet.embed(Query("a")),
            lambda: fleet.check(vector(MODEL)),
            lambda: text_of(fleet),
            lambda: text_of(fleet, replace(CALL, model_id="unknown/model")),
        ):
            with pytest.raises(WorkerUnavailable):
                act()


def test_a_worker_with_another_embedder_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    first = ControlledWorker(load=3)
    other = ControlledWorker(replace(MODEL, model_id="tests/left-out", fingerprint="3" * 64), embedder="9" * 64)
    other.absent = True
    with fleet_of(first, other, admitted=1) as fleet:
        other.absent = False
        until(lambda: fleet.members[1].problem is None)
        wait_heartbeats()
        text_of(fleet)
        assert np.array_equal(
            fleet.embed(Query("a")).row(first.info.embedder), first.embed(Query("a")).row(first.info.embedder)
        )
        assert other.calls == 0
        with pytest.raises(ModelNotFound):
            fleet.find("tests/left-out")
    assert capsys.readouterr().out.count("fleet.worker_refused") == 1


def test_waiting_for_workers_reports_the_state_of_each() -> None:
    absent = ControlledWorker()
    absent.absent = True
    fleet = Fleet({"http://a:9000": absent}, heartbeat_s=HEARTBEAT_S)
    with pytest.raises(WorkerUnavailable, match=r"http://a:9000: No heartbeat\. Restart it\.") as caught:
        fleet.wait(0.2)
    assert "vlibrary work" in caught.value.cure
    absent.absent = False
    fleet.wait(10)
    fleet.close()
    assert absent.closed.is_set()


def test_close_stops_the_heartbeats() -> None:
    worker = ControlledWorker()
    with fleet_of(worker):
        pass
    assert worker.closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("beat")]
