"""Several answers of one request: distinct seeds, few at a time, and one error ends them all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.library import memory_library
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.domain.errors import Overloaded, TimedOut, WorkerLost
from vlibrary.domain.wire import Decoding, GenerateCall, Generation, Prompt, TextPiece
from vlibrary.library.answers import AT_ONCE, answer_all, stream_all, vary_seeds
from vlibrary.library.steer import Answer, Off, Plan, plan

LIBRARY = memory_library()


def planned(text: str = "a b c", seed: int = 0) -> Plan:
    return plan(Prompt(text), Off(), Decoding(seed=seed), LIBRARY, model=MODEL.model_id)


def forever() -> float:
    return 60.0


class CountingWorker(MemoryWorker):
    """Counts the answers in progress. most: the highest count."""

    def __init__(self, room: int = 64) -> None:
        super().__init__(MemoryArtifacts(), room=room)
        self.most = self.now = 0

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            async for event in super().generate(call):
                yield event
        finally:
            self.now -= 1


@given(st.integers(-(2**63), 2**63 - 1), st.integers(1, 128))
def test_the_seeds_of_answers_differ_and_follow_from_the_first(seed: int, count: int) -> None:
    plans = vary_seeds([planned(seed=seed)] * count)
    seeds = [one.call.decoding.seed for one in plans]
    assert seeds[0] == seed
    assert len({one % 2**32 for one in seeds}) == count
    assert all(-(2**63) <= one < 2**63 for one in seeds)
    assert plans == vary_seeds([planned(seed=seed)] * count)


@pytest.mark.parametrize("count", [1, 2, 3 * AT_ONCE])
def test_answers_have_the_order_of_their_plans_and_few_run_at_once(count: int) -> None:
    worker = CountingWorker()
    plans = [planned(f"question {number}") for number in range(count)]
    answers = asyncio.run(answer_all(plans, worker, forever))
    assert [one.generation.text for one in answers] == [f"question {number}" for number in range(count)]
    assert (worker.most, worker.now) == (min(count, AT_ONCE), 0)


@pytest.mark.parametrize("room", [1, 3])
def test_a_worker_with_little_room_answers_all(room: int) -> None:
    worker = CountingWorker(room)
    plans = [planned(f"question {number}") for number in range(12)]
    answers = asyncio.run(answer_all(plans, worker, forever))
    assert [one.generation.text for one in answers] == [f"question {number}" for number in range(12)]


def test_a_worker_without_room_is_overloaded() -> None:
    with pytest.raises(Overloaded):
        asyncio.run(answer_all([planned()] * 4, CountingWorker(room=0), forever))


def test_the_pieces_of_each_answer_join_to_its_text() -> None:
    async def collect() -> tuple[dict[int, str], dict[int, str]]:
        pieces: dict[int, str] = {}
        wholes: dict[int, str] = {}
        async for part in stream_all([planned("a b c"), planned("d e")], CountingWorker(), forever):
            if isinstance(part.event, Answer):
                wholes[part.index] = part.event.generation.text
            else:
                pieces[part.index] = pieces.get(part.index, "") + part.event.text
        return pieces, wholes

    pieces, wholes = asyncio.run(collect())
    assert pieces == wholes == {0: "a b c", 1: "d e"}


def test_an_error_ends_all_answers() -> None:
    worker = ScriptedWorker(["a"], WorkerLost("It is gone.", "Retry."))
    with pytest.raises(WorkerLost):
        asyncio.run(answer_all([planned()] * 20, worker, forever))
    assert len(worker.calls) <= AT_ONCE


def test_a_closed_stream_cancels_all_answers() -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)

    async def close_early() -> None:
        parts = stream_all([planned()] * 3, worker, forever)
        await anext(parts)
        await parts.aclose()

    asyncio.run(close_early())
    assert worker.closed.is_set()


def test_answers_that_start_late_have_the_time_that_is_left() -> None:
    times = iter([9.0, 5.0])
    worker = ScriptedWorker(["a"])
    asyncio.run(answer_all([planned()] * 2, worker, lambda: next(times)))
    assert sorted(call.timeout_s or 0 for call in worker.calls) == [5.0, 9.0]

    def overdue() -> float:
        raise TimedOut("It is late.", "Retry.")

    with pytest.raises(TimedOut):
        asyncio.run(answer_all([planned()] * 2, worker, overdue))
