"""Admission control: threads of abandoned calls, and cancellation when the service stops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from vlibrary.api.http.admission import AdmissionControl
from vlibrary.domain.errors import TimedOut, Unavailable

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
