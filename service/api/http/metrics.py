"""Prometheus metrics of the API.

prometheus-fastapi-instrumentator measures no open streams, and needs a function per metric to keep these names; a
plain middleware is shorter.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Seconds; generations may take up to 600.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_NO_ROUTE = "(none)"


class Metrics:
    """The metrics of one app, in its own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "vlibrary_api_requests", "Requests by route and status", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "vlibrary_api_request_seconds",
            "Seconds from the request to the end of the response",
            ("route",),
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.streams = Gauge("vlibrary_api_streams_open", "Open event streams", registry=self.registry)


class MetricsMiddleware:
    """Counts and times every request by its route template, so that ids and unknown paths add no series."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, is_stream = 500, False  # 500: the status of an error that leaves the app
        started = time.perf_counter()

        async def observe(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                is_stream = dict(message["headers"]).get(b"content-type", b"").startswith(b"text/event-stream")
                self._metrics.streams.inc(is_stream)
            await send(message)

        try:
            await self._app(scope, receive, observe)
        finally:
            route, method = scope.get("route"), scope["method"]
            template = _NO_ROUTE
            if isinstance(route, Route) and method in (route.methods or ()):
                template = f"{method} {route.path}"
            self._metrics.streams.dec(is_stream)
            self._metrics.seconds.labels(template).observe(time.perf_counter() - started)
            self._metrics.requests.labels(template, status).inc()
