"""The uvicorn server of the API: limits on connections, and a shutdown that ends every stream with an event."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import time
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.middleware.request_id import REQUEST_ID, new_request_id
from vlibrary.api.http.middleware.size_limits import MAX_URL_BYTES, headers_too_long, url_too_long
from vlibrary.api.http.problems import Problem, problem, problem_response, type_of_status

# Time to send the final error events after the grace period.
_FINAL_EVENTS_S = 5
# URL and headers of a request. Up to this size, middleware refuses what is too long; beyond it, the protocol does.
_MAX_HEAD_BYTES = 2**20
# For a client that is still sending when it is refused: closing at once would discard the answer.
_DISCARD_S = 2.0


@dataclass(frozen=True)
class ConnectionLimits:
    """What clients may do before and after their requests.

    connections: open ones at a time. head_s: seconds for URL and headers, from the first byte or the connection on.
    stall_s: seconds in which a client that reads slowly must take the next part of a response. keep_alive_s: whole
    seconds in which a client may send its next request on the same connection.
    """

    connections: int = 1_000
    head_s: float = 10.0
    stall_s: float = 60.0
    # Longer than clients and load balancers keep idle connections, commonly 5 to 60 seconds: if the service
    # closed first, it could lose a request that is being sent.
    keep_alive_s: int = 75


_DEFAULT_LIMITS = ConnectionLimits()


class Protocol(H11Protocol):
    """HTTP/1.1 with limits on slow clients and connections, none of which uvicorn has.

    Requests that cannot be parsed are refused with a problem document, as the app does.
    """

    def __init__(self, limits: ConnectionLimits, **options: Any) -> None:
        super().__init__(**options)
        self._limits = limits
        self._refused = False
        self._idle_since = self.loop.time()
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Implements asyncio's protocol: closes the connection that is idle for longest if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            others = [one for one in self.connections if isinstance(one, Protocol) and one is not self]
            idle = min((one for one in others if one.is_idle), key=lambda one: one._idle_since, default=None)
            if idle is None:
                cure = "Try again later, or raise VLIBRARY_MAX_CONNECTIONS on the service."
                full = f"The service has {self._limits.connections} open connections."
                self._refuse(problem(type_of_status(HTTPStatus.SERVICE_UNAVAILABLE), full, cure))
                return
            idle.transport.abort()
        self._watch_head()

    @property
    def is_idle(self) -> bool:
        """Whether no request is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def connection_lost(self, exc: Exception | None) -> None:
        """Implements asyncio's protocol."""
        self._stop_head_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Implements asyncio's protocol."""
        if self._refused:
            return
        discards = self.is_idle and self.conn.their_state is h11.SEND_BODY
        super().data_received(data)
        if discards and self.is_idle and self.conn.their_state is h11.IDLE:
            # The rest of the body of a refused request has arrived, so the client may send its next request.
            self._stop_head_timer()
            if self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
        else:
            self._watch_head()

    def pause_writing(self) -> None:
        """Implements asyncio's protocol: the client has not read what was sent."""
        super().pause_writing()
        self._stall_timer = self.loop.call_later(self._limits.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        """Implements asyncio's protocol."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()

    def on_response_complete(self) -> None:
        """Implements uvicorn's hook; the rest of a body that was refused may arrive for head_s seconds."""
        self._idle_since = self.loop.time()
        super().on_response_complete()
        if self.is_idle and self.conn.their_state is h11.SEND_BODY:
            self._head_timer = self.loop.call_later(self._limits.head_s, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Implements uvicorn's hook for requests that h11 refuses."""
        self._refuse(self._explain(msg))

    def _watch_head(self) -> None:
        """Start the timer when a head may begin, and stop it when it is complete."""
        if self.conn.their_state is not h11.IDLE:
            if not self.is_idle:
                self._stop_head_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._limits.head_s, self.transport.close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, found: Problem) -> None:
        self._refused = True
        request_id = new_request_id()
        response = problem_response(found | {"request_id": request_id}, path="")
        headers = [*response.raw_headers, (REQUEST_ID.encode(), request_id.encode()), (b"Connection", b"close")]
        events = (
            h11.Response(status_code=response.status_code, headers=headers),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        )
        self.transport.writelines([self.conn.send(event) or b"" for event in events])
        self.loop.call_later(_DISCARD_S, self.transport.close)
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _explain(self, msg: str) -> Problem:
        received, _ = self.conn.trailing_data
        if len(received) > _MAX_HEAD_BYTES:
            line_end = received.find(b"\r\n")
            return headers_too_long() if 0 <= line_end <= MAX_URL_BYTES else url_too_long()
        cure = "Send a request as RFC 9112 describes it."
        return problem(type_of_status(HTTPStatus.BAD_REQUEST), msg, cure)


class ApiServer(uvicorn.Server):
    """Stops accepting connections at the first signal; running requests may finish within `grace_s`.

    With drain_s, SIGTERM first makes /readyz return 503 for so many seconds, in which requests are still accepted: load
    balancers need some to notice. After the grace period, requests end with 503, or a stream with an error event;
    uvicorn alone would drop the connections.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        address: str,
        port: int,
        grace_s: float,
        drain_s: float = 0.0,
        limits: ConnectionLimits = _DEFAULT_LIMITS,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=address,
                port=port,
                http=cast("type[asyncio.Protocol]", partial(Protocol, limits)),
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
                timeout_keep_alive=limits.keep_alive_s,
                log_level="warning",
                access_log=False,
                timeout_graceful_shutdown=math.ceil(grace_s) + _FINAL_EVENTS_S,
            )
        )
        self._admission: AdmissionControl = app.state.admission
        self._grace_s = grace_s
        self._drain_s = drain_s
        self._closing_at = math.inf

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Implements uvicorn's signal handler."""
        if sig != signal.SIGTERM or self._drain_s <= 0 or self._admission.leaving:
            super().handle_exit(sig, frame)
            return
        self._admission.leaving = True
        self._closing_at = time.monotonic() + self._drain_s

    async def on_tick(self, counter: int) -> bool:
        """Implements uvicorn's hook, called ten times a second."""
        return await super().on_tick(counter) or time.monotonic() > self._closing_at

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Implements uvicorn's shutdown, called after the first signal."""
        stop = asyncio.get_running_loop().call_later(self._grace_s, self._admission.stop)
        await super().shutdown(sockets)
        stop.cancel()
