"""Server-Timing: how long a response took, and how long its stages, for browsers and benchmarks."""

from __future__ import annotations

import time
from collections.abc import Mapping

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_STATE = "timings"


def report_timings(request: Request, timings: Mapping[str, float]) -> None:
    """Add the stages of an answer, in seconds, to the header of the response that is sent next."""
    setattr(request.state, _STATE, timings)


class ServerTiming:
    """Adds the header to every response: `total` from the request's arrival until the response starts, in ms."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        arrived = time.perf_counter()

        async def send_with_timing(message: Message) -> None:
            if message["type"] == "http.response.start":
                stages = scope.get("state", {}).get(_STATE, {}) | {"total_s": time.perf_counter() - arrived}
                entries = (f"{name.removesuffix('_s')};dur={1000 * seconds:.1f}" for name, seconds in stages.items())
                MutableHeaders(scope=message)["Server-Timing"] = ", ".join(entries)
            await send(message)

        await self._app(scope, receive, send_with_timing)
