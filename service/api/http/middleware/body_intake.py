"""How bodies come in: not too slowly, and not more in memory than the process has room for.

A request holds no place of admission control until its body has arrived, so slow senders keep no other request waiting.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vlibrary.domain.errors import Overloaded, SlowRequest

# Of every body; not counted, so that requests without images always pass.
FREE_BYTES = 65_536


@dataclass(frozen=True)
class Pace:
    """The time that a body may take: start_s, and one second more for each `rate` bytes received, up to most_s."""

    start_s: float = 10.0
    rate: float = 1_000.0
    most_s: float = 120.0

    def allowed_s(self, received: int) -> float:
        """Return the seconds since the start of the request by which the next byte must arrive."""
        return min(self.start_s + received / self.rate, self.most_s)


class BodyIntake:
    """ASGI middleware whose `receive` raises SlowRequest, or Overloaded when all bodies together exceed max_bytes.

    A body counts, without its first FREE_BYTES, until the response has been sent.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, pace: Pace) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._pace = pace
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        began, received, counted, complete = loop.time(), 0, 0, False

        async def receive_in_time() -> Message:
            nonlocal received, counted, complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout_at(began + self._pace.allowed_s(received)):
                    message = await receive()
            except TimeoutError:
                seconds, most_s = loop.time() - began, self._pace.most_s
                cure = f"Send it faster than {self._pace.rate:,.0f} bytes a second."
                if self._pace.allowed_s(received) == most_s:
                    cure = f"Send it within {most_s:g} seconds, or raise VLIBRARY_TIMEOUT_S on the service."
                raise SlowRequest(
                    f"The body arrives too slowly: {received:,} bytes in {seconds:.0f} seconds.", cure
                ) from None
            complete = message["type"] != "http.request" or not message.get("more_body", False)
            received += len(message.get("body", b""))
            more = max(0, received - FREE_BYTES) - counted
            if self._held + more > self._max_bytes:
                raise Overloaded(
                    f"The bodies of other requests already hold {self._held:,} bytes of memory.",
                    "Try again later, or send less.",
                )
            self._held += more
            counted += more
            return message

        try:
            await self._app(scope, receive_in_time, send)
        finally:
            self._held -= counted
