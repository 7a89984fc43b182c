"""Runs a worker's app until it is told to leave, and then until its answers are finished, or until its model dies."""

from __future__ import annotations

import time
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from vlibrary.worker.host import Host

# Longer than the api keeps an idle connection, so that it never sends into one that is just being closed.
KEEP_ALIVE_S = 30


class WorkerServer(uvicorn.Server):
    """At the first signal readyz goes 503 and new work is refused; what runs may finish within the grace time.

    A second signal ends it at once, and so does a failure of the host. uvicorn alone would close the door at the first
    signal, and readyz with it.
    """

    def __init__(self, app: Starlette, host: Host, *, address: str, port: int, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=address,
                port=port,
                log_level="warning",
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=1,
            )
        )
        self._host = host
        self._grace_s = grace_s
        self._leave_by = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._host.leaving:
            super().handle_exit(sig, frame)
            return
        self._host.leave()
        self._leave_by = time.monotonic() + self._grace_s

    async def on_tick(self, counter: int) -> bool:
        self._host.watch()
        finished = self._host.leaving and (not self.server_state.tasks or time.monotonic() > self._leave_by)
        return await super().on_tick(counter) or finished or self._host.failure is not None
