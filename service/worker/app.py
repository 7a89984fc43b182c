"""The HTTP endpoints of a worker, for the API process only: messages, a shared token, and health checks."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from vlibrary.domain.errors import VLibraryError, WorkerUnavailable
from vlibrary.formats.artifact import decode
from vlibrary.formats.messages import CALL, LARGE_BYTES, QUERY, STATUS, dump_embedding, dump_event
from vlibrary.http_common import status_of
from vlibrary.worker.host import Host
from vlibrary.worker.stream import AnswerStream, unexpected_error

log = structlog.get_logger(__name__)

T = TypeVar("T")
JSON = "application/json"
MAX_BODY_BYTES = 192 * 2**20


def create_app(
    host: Host, registry: CollectorRegistry, *, token: str | None = None, max_body_bytes: int = MAX_BODY_BYTES
) -> Starlette:
    """Return the app, which starts and closes the host. registry: the metrics of /metrics.

    token: callers must send it as `Authorization: Bearer`; None disables authentication.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
        host.start()
        yield
        host.close()

    endpoints = _Endpoints(host, registry)
    guard = [Middleware(TokenGuard, token=token)]
    return Starlette(
        routes=[
            Route("/generate", endpoints.generate, methods=["POST"], middleware=guard),
            Route("/embed", endpoints.embed, methods=["POST"], middleware=guard),
            Route("/check", endpoints.check, methods=["POST"], middleware=guard),
            Route("/status", endpoints.status, middleware=guard),
            Route("/livez", endpoints.live),
            Route("/readyz", endpoints.ready),
            Route("/metrics", endpoints.metrics),
        ],
        exception_handlers={VLibraryError: _handle_error, Exception: _handle_unexpected},
        lifespan=lifespan,
        max_body_size=max_body_bytes,
    )


class TokenGuard:
    """ASGI middleware that answers 401 without the shared token."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = None if token is None else f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = Headers(scope=scope).get("Authorization", "").encode()
        if self._expected is None or secrets.compare_digest(sent, self._expected):
            await self._app(scope, receive, send)
            return
        refused = WorkerUnavailable(
            "The worker rejected the token.",
            "Set the same VLIBRARY_WORKER_TOKEN for the API and its workers.",
        )
        await _error_response(refused, 401)(scope, receive, send)


class _Endpoints:
    def __init__(self, host: Host, registry: CollectorRegistry) -> None:
        self._host = host
        self._registry = registry

    async def generate(self, request: Request) -> AnswerStream:
        call = await _read(CALL.from_json, request)
        return AnswerStream(self._host.worker().generate(call))

    async def embed(self, request: Request) -> Response:
        query = await _read(QUERY.from_json, request)
        embedding = await run_in_threadpool(self._host.worker().embed, query)
        return Response(dump_embedding(embedding), media_type=JSON)

    async def check(self, request: Request) -> Response:
        data = await request.body()
        await run_in_threadpool(lambda: self._host.worker().check(decode(data)))
        return Response(status_code=204)

    async def status(self, _request: Request) -> Response:
        # Not in the thread pool, where it would queue behind embeddings.
        return Response(STATUS.to_json(self._host.status()), media_type=JSON)

    async def live(self, _request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, _request: Request) -> Response:
        try:
            self._host.worker().status()
        except WorkerUnavailable as error:
            return JSONResponse({"ready": False, "detail": error.detail}, status_code=503)
        return JSONResponse({"ready": True})

    async def metrics(self, _request: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _read(parse: Callable[[bytes], T], request: Request) -> T:
    """Parse the request's message. Raises WorkerUnavailable: only another release of the API sends an invalid one."""
    body = await request.body()
    try:
        return await run_in_threadpool(parse, body) if len(body) > LARGE_BYTES else parse(body)
    except ValueError as error:
        raise WorkerUnavailable(
            f"The worker cannot read the message: {error}",
            "Run the same release of VLibrary for the API and its workers.",
        ) from error


async def _handle_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, VLibraryError)
    return _error_response(error, status_of(error))


async def _handle_unexpected(request: Request, error: Exception) -> Response:
    log.error("worker.unexpected_error", path=request.url.path, exc_info=error)
    return _error_response(unexpected_error(), 500)


def _error_response(error: VLibraryError, status: int) -> Response:
    return Response(dump_event(error), status_code=status, media_type=JSON)
