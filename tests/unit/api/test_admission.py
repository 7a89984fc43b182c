"""Admission control: waiting for a place, threads of abandoned calls, and cancellation when the service stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
from fastapi import Request

from vlibrary.api.http import admission
from vlibrary.api.http.admission import AdmissionControl
from vlibrary.domain.errors import Overloaded, TimedOut, Unavailable

TIMEOUT_S = 5.0


def test_a_thread_stays_busy_until_an_abandoned_call_returns() -> None:
    blocked = threading.Event()

    async def run(control: AdmissionControl, call: Callable[[], object], seconds: float) -> object:
        async with control.cancel_at(asyncio.get_running_loop().time() + seconds):
            return await control.run_in_thread(call)

    async def scenario() -> None:
        control = AdmissionControl(2, TIMEOUT_S, threads=1)
        for call in (lambda: blocked.wait(20), lambda: "done"):  # the second finds no idle thread
            with pytest.raises(TimedOut):
                await run(control, call, 0.1)
        blocked.set()
        assert await run(control, lambda: "done", TIMEOUT_S) == "done"

    asyncio.run(scenario())


def request() -> Request:
    return Request({"type": "http", "headers": []})


async def let_in(control: AdmissionControl, ends: asyncio.Event) -> None:
    async with control.admit(request()):
        await ends.wait()


def test_a_request_that_gets_a_place_soon_waits_for_it_in_turn() -> None:
    async def scenario() -> None:
        control, order = AdmissionControl(1, TIMEOUT_S, threads=1), list[int]()

        async def work(number: int) -> None:
            async with control.admit(request()):
                order.append(number)
                await asyncio.sleep(0)

        await work(0)  # so that the time of a request is known
        await asyncio.gather(*map(work, range(1, 8)))
        assert order == list(range(8))

    asyncio.run(scenario())


def test_a_request_is_refused_at_once_if_its_place_is_far_off_or_unknown() -> None:
    async def scenario() -> None:
        control, end = AdmissionControl(1, TIMEOUT_S, threads=1), asyncio.Event()
        first = asyncio.create_task(let_in(control, end))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await let_in(control, end)
        end.set()
        await first
        for _ in range(40):
            control.retry_after.enter(0.0)
            control.retry_after.leave(10.0, 0.0, answered=True)
        end.clear()
        first = asyncio.create_task(let_in(control, end))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            control.check_room()
        end.set()
        await first

    asyncio.run(scenario())


def test_waiting_requests_that_are_cancelled_or_refused_leave_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(admission, "PATIENCE_S", 0.02)
        control, end, free = AdmissionControl(1, TIMEOUT_S, threads=1), asyncio.Event(), asyncio.Event()
        free.set()
        await let_in(control, free)
        first = asyncio.create_task(let_in(control, end))
        waiting = [asyncio.create_task(let_in(control, free)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(one) for one in results] == [asyncio.CancelledError, Overloaded, Overloaded]
        assert control.retry_after.waiting == 0
        end.set()
        await first
        await let_in(control, free)

    asyncio.run(scenario())


def test_stop_cancels_running_work_while_a_timed_out_task_cleans_up() -> None:
    async def scenario() -> BaseException | None:
        control = AdmissionControl(2, TIMEOUT_S, threads=1)
        cleaning_up, stopped = asyncio.Event(), asyncio.Event()

        async def time_out() -> None:
            async with control.cancel_at(asyncio.get_running_loop().time()):
                try:
                    await asyncio.Event().wait()
                finally:
                    cleaning_up.set()
                    await stopped.wait()

        async def wait_forever() -> None:
            async with control.cancel_at(None):
                await asyncio.Event().wait()

        tasks = asyncio.gather(time_out(), wait_forever(), return_exceptions=True)
        await cleaning_up.wait()
        control.stop()
        stopped.set()
        _timed_out, cancelled = await tasks
        return cancelled

    assert isinstance(asyncio.run(scenario()), Unavailable)
