"""The uvicorn server of the API, with a graceful shutdown that ends every stream with an event."""

from __future__ import annotations

import asyncio
import math
import socket

import uvicorn
from fastapi import FastAPI

from vlibrary.api.http.admission import AdmissionControl

# Time to send the final error events after the grace period.
_FINAL_EVENTS_S = 5


class ApiServer(uvicorn.Server):
    """Stops accepting connections at the first signal; running requests may finish within `grace_s`.

    After that they end with 503, or a stream with an error event. uvicorn alone would drop the connections.
    """

    def __init__(self, app: FastAPI, *, address: str, port: int, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=address,
                port=port,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=math.ceil(grace_s) + _FINAL_EVENTS_S,
            )
        )
        self._admission: AdmissionControl = app.state.admission
        self._grace_s = grace_s

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Implements uvicorn's shutdown, called after the first signal."""
        stop = asyncio.get_running_loop().call_later(self._grace_s, self._admission.stop)
        await super().shutdown(sockets)
        stop.cancel()
