"""The uvicorn server of the API, with a graceful shutdown that ends every stream with an event."""

from __future__ import annotations

import asyncio
import math
import socket
from http import HTTPStatus

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from vlibrary.api.http.admission import AdmissionControl
from vlibrary.api.http.middleware.request_id import REQUEST_ID, new_request_id
from vlibrary.api.http.middleware.url_limit import MAX_URL_BYTES, headers_too_long, url_too_long
from vlibrary.api.http.problems import Problem, problem, problem_response, type_of_status

# Time to send the final error events after the grace period.
_FINAL_EVENTS_S = 5
# URL and headers of a request. Up to this size, middleware refuses what is too long; beyond it, the protocol does.
_MAX_HEAD_BYTES = 2**20
# For a client that is still sending when it is refused: closing at once would discard the answer.
_DISCARD_S = 2.0


class Protocol(H11Protocol):
    """HTTP/1.1 that refuses requests which it cannot parse with a problem document, as the app does."""

    _refused = False

    def data_received(self, data: bytes) -> None:
        """Implements asyncio's protocol."""
        if not self._refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Implements uvicorn's hook for requests that h11 refuses."""
        self._refused = True
        request_id = new_request_id()
        found = self._explain(msg) | {"request_id": request_id}
        response = problem_response(found, path="")
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

    After that they end with 503, or a stream with an error event. uvicorn alone would drop the connections.
    """

    def __init__(self, app: FastAPI, *, address: str, port: int, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                host=address,
                port=port,
                http=Protocol,
                h11_max_incomplete_event_size=_MAX_HEAD_BYTES,
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
