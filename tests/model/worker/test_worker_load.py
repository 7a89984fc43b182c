"""A worker under ten times its capacity."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from tests.model.engine_runs import RequestSpec, answer_alone
from tests.model.worker_setup import OpenWorker, WorkerSetup, wait_until
from vlibrary.domain.errors import Overloaded
from vlibrary.domain.wire import Decoding, GenerateCall, Generation

ROWS, WAITING = 4, 4
CALLERS = 10 * (ROWS + WAITING)
POOL = [
    RequestSpec(prompt, vector, Decoding(length, temperature=temperature, seed=vector))
    for prompt in range(4)
    for vector in range(3)
    for length, temperature in ((2, 0.0), (6, 1.0), (11, 0.0))
]
SECONDS = [1.5, pytest.param(60.0, marks=pytest.mark.bench)]


@dataclass
class Tally:
    """Results of all callers. memory: bytes of this process over time; 0 where the system does not report it."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[RequestSpec, Generation]] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


async def caller(
    setup: WorkerSetup, calls: Mapping[RequestSpec, GenerateCall], tally: Tally, end: float, seed: int
) -> None:
    """Send one request after another, each different; a refused one is not retried."""
    chance = random.Random(seed)
    while time.monotonic() < end:
        spec = chance.choice(POOL)
        tally.ends["sent"] += 1
        try:
            async with aclosing(setup.worker.generate(calls[spec])) as events:
                *_, whole = [event async for event in events]
        except Overloaded:
            tally.ends["refused"] += 1
            await asyncio.sleep(0.05 * chance.random())
        else:
            tally.ends["answered"] += 1
            assert isinstance(whole, Generation)
            if replace(whole, timings={}) != answer_alone(setup.lvlm, spec):
                tally.wrong.append((spec, whole))


async def load(setup: WorkerSetup, seconds: float) -> Tally:
    resident = CollectorRegistry()
    ProcessCollector(registry=resident)
    calls = {spec: setup.call(spec) for spec in POOL}
    tally, end = Tally(), time.monotonic() + seconds
    async with asyncio.TaskGroup() as callers:
        for number in range(CALLERS):
            callers.create_task(caller(setup, calls, tally, end, number))
        for _ in range(9):
            await asyncio.sleep(seconds / 10)
            tally.memory.append(resident.get_sample_value("process_resident_memory_bytes") or 0)
    return tally


@pytest.mark.parametrize("seconds", SECONDS)
def test_ten_times_too_many_callers_are_answered_or_refused(open_worker: OpenWorker, seconds: float) -> None:
    setup = open_worker(max_requests=ROWS + WAITING, rows=ROWS)
    for spec in POOL:  # before the engine's thread uses the model
        answer_alone(setup.lvlm, spec)
    tally = asyncio.run(load(setup, seconds))
    assert tally.wrong == []
    assert tally.ends["sent"] == tally.ends["answered"] + tally.ends["refused"]
    assert tally.ends["answered"] >= ROWS + WAITING
    assert tally.ends["refused"] >= CALLERS
    assert min(tally.memory[-3:]) - min(tally.memory[:3]) < 16 * 2**20
    asyncio.run(wait_until(lambda: setup.worker.status().running == 0))  # the last row leaves just after its answer
    status = setup.worker.status()
    assert (status.waiting, status.room) == (0, ROWS + WAITING)
    assert setup.lvlm.table.pinned_slots == 0
