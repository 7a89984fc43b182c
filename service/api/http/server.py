"""Runs the app until it is told to stop, and then until its answers are finished or told that they will not be."""

from __future__ import annotations

import asyncio
import math
import socket

import uvicorn
from fastapi import FastAPI

from vlibrary.api.http.admission import Gate

# For the last words of what the grace time was too short for.
_LAST_WORDS_S = 5


class ApiServer(uvicorn.Server):
    """At the first signal it takes no new connections; answers under way may finish within the grace time.

    uvicorn alone would cut off those that do not, without a last event.
    """

    def __init__(self, app: FastAPI, *, address: str, port: int, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=address,
                port=port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=math.ceil(grace_s) + _LAST_WORDS_S,
            )
        )
        self._gate: Gate = app.state.gate
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Called by uvicorn's loop after the first signal."""
        ending = asyncio.get_running_loop().call_later(self._grace_s, self._gate.stop)
        await super().shutdown(sockets)
        ending.cancel()
