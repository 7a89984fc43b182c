"""An HTTP proxy in front of one server that injects network and disk faults into single answers."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter, deque
from contextlib import closing
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from urllib.parse import urlsplit


class Fault(Enum):
    """What happens to one request; only the last three keep it from the server."""

    NONE = auto()
    FLIP = auto()  # one bit of the body is flipped
    FLIP_REQUEST = auto()  # the same in the request's body
    TRUNCATE = auto()  # the connection closes in the middle of the body
    DRIP = auto()  # the body arrives in small pieces, with pauses shorter than a read timeout
    LOSE_ANSWER = auto()  # the server handles the request, the answer is lost
    SLOW_DOWN = auto()  # 503 at once
    HANG_UP = auto()  # the connection closes before the server gets the request
    SWALLOW = auto()  # the connection stays open without an answer


class FaultProxy:
    """Forward requests to `endpoint`. faults: one per request, from the left; without faults left, nothing happens.

    struck: how often each fault occurred; an answer without a body cannot have bits flipped.
    """

    def __init__(self, endpoint: str) -> None:
        self.faults: deque[Fault] = deque()
        self.struck: Counter[Fault] = Counter()
        self.seen: list[tuple[str, int]] = []  # method and the server's status (0: not asked), one a request
        upstream = urlsplit(endpoint)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True  # headers and body go in two packets, and the second would wait 40 ms

            def handle_one_request(handler) -> None:  # noqa: N805  (self is the proxy)
                try:
                    super().handle_one_request()
                except OSError:
                    handler.close_connection = True  # the client lost patience

            def forward(handler) -> None:  # noqa: N805
                self._answer(handler, f"{upstream.hostname}:{upstream.port}")

            do_GET = do_PUT = do_DELETE = do_HEAD = forward  # noqa: N815

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, upstream: str) -> None:
        fault = self.faults.popleft() if self.faults else Fault.NONE
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        if fault in (Fault.HANG_UP, Fault.SLOW_DOWN, Fault.SWALLOW):
            self.seen.append((handler.command, 0))
            self.struck[fault] += 1
            _turn_away(handler, fault)
            return
        if fault is Fault.FLIP_REQUEST:
            self.struck[fault] += bool(body)
            body = _flipped(body)
        with closing(http.client.HTTPConnection(upstream, timeout=30)) as connection:
            # The Host header goes on as it came: it is signed.
            connection.request(handler.command, handler.path, body, dict(handler.headers))
            answer = connection.getresponse()
            data = answer.read()
        self.seen.append((handler.command, answer.status))
        if fault is Fault.LOSE_ANSWER:
            self.struck[fault] += 1
            handler.close_connection = True
            return
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", answer.getheader("Content-Length") or str(len(data)))
        handler.end_headers()
        self._send(handler, data, fault)

    def _send(self, handler: BaseHTTPRequestHandler, data: bytes, fault: Fault) -> None:
        self.struck[fault] += fault in (Fault.FLIP, Fault.TRUNCATE, Fault.DRIP) and bool(data)
        if fault is Fault.FLIP:
            data = _flipped(data)
        elif fault is Fault.TRUNCATE:
            data = data[: len(data) // 2]
            handler.close_connection = True
        elif fault is Fault.DRIP:
            for start in range(0, len(data), 64):
                handler.wfile.write(data[start : start + 64])
                time.sleep(0.05)
            return
        handler.wfile.write(data)


def _turn_away(handler: BaseHTTPRequestHandler, fault: Fault) -> None:
    handler.close_connection = True
    if fault is Fault.SLOW_DOWN:
        handler.send_response(503)
        handler.send_header("Content-Length", "0")
        handler.end_headers()
    elif fault is Fault.SWALLOW:
        handler.rfile.read(1)  # until the client gives up


def _flipped(data: bytes) -> bytes:
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
