"""What the api counts, for Prometheus to fetch."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds; the last ones are for long answers, which may take up to 600.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_NO_ROUTE = "(none)"


class Metrics:
    """The figures of one app, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vlibrary_api_requests", "Requests answered", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "vlibrary_api_request_seconds",
            "Seconds until the answer was sent whole",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("vlibrary_api_streams_open", "Answers being streamed now", registry=self.registry)


class Measured:
    """ASGI middleware: counts and times every request under its route, so that ids in paths make no new series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        seen = _Seen(self._metrics, send)
        started = time.perf_counter()
        try:
            await self._app(scope, receive, seen.send)
        finally:
            seen.close()
            route = _route(scope)
            self._metrics.seconds.labels(route).observe(time.perf_counter() - started)
            self._metrics.requests.labels(route, seen.status).inc()


def _route(scope: Scope) -> str:
    """Method and path template; clients may make up paths and methods, but no new series with them."""
    route, method = scope.get("route"), scope["method"]
    return f"{method} {route.path}" if isinstance(route, Route) and method in (route.methods or ()) else _NO_ROUTE


class _Seen:
    """What one answer's messages tell. status: 500 until an answer begins, as an error that leaves the app becomes."""

    def __init__(self, metrics: Metrics, send: Send) -> None:
        self.status = 500
        self._metrics = metrics
        self._send = send
        self._streams = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kind = dict(message["headers"]).get(b"content-type", b"")
            if kind.startswith(b"text/event-stream"):
                self._streams = True
                self._metrics.streams.inc()
        await self._send(message)

    def close(self) -> None:
        if self._streams:
            self._metrics.streams.dec()
