"""The HTTP server of a worker, with a graceful shutdown."""

from __future__ import annotations

import time
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from vlibrary.worker.host import Host

# Longer than the API keeps an idle connection, so that it never sends on a connection that is closing.
KEEP_ALIVE_S = 30


class WorkerServer(uvicorn.Server):
    """A uvicorn server that keeps its socket open while it shuts down.

    On the first signal /readyz returns 503, new requests are refused, and running ones have grace_s seconds to finish.
    A second signal, or a failure of the host, ends the server immediately.
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
        self._deadline = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._host.leaving:
            super().handle_exit(sig, frame)
            return
        self._host.leave()
        self._deadline = time.monotonic() + self._grace_s

    async def on_tick(self, counter: int) -> bool:
        self._host.watch()
        finished = self._host.leaving and (not self.server_state.tasks or time.monotonic() > self._deadline)
        return await super().on_tick(counter) or finished or self._host.failure is not None
