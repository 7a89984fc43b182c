"""A worker in another process, over HTTP.

Errors do not contain the address, since API clients see them; the fleet logs which worker failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import httpx

from vlibrary.domain.errors import TimedOut, TooLarge, VLibraryError, WorkerLost, WorkerUnavailable
from vlibrary.domain.ports.inference import Worker
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo, WorkerStatus
from vlibrary.formats.artifact import encode
from vlibrary.formats.messages import CALL, LARGE_BYTES, QUERY, STATUS, parse_embedding, parse_event

T = TypeVar("T")

CONNECT_S = 2.0
# For requests that are answered at once: /embed and /check.
ANSWER_S = 60.0
HEARTBEAT_S = 2.0
# The time limit of a call without one; a call with one gets GRACE_S more, so that the worker reports the timeout.
MAX_ANSWER_S = 3_600.0
GRACE_S = 5.0
_CURE = "Retry; if it persists, check that `vlibrary work` is running and that VLIBRARY_WORKERS lists its address."


class HttpWorker(Worker):
    """A client of service/worker/app.py; safe for many threads.

    url: the worker's address, such as http://10.0.0.7:9000. token: the one that the worker was started with.
    heartbeat_s: the timeout of status(). Proxy settings are ignored, since workers are on the local network.
    """

    def __init__(self, url: str, token: str | None = None, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._heartbeat_s = heartbeat_s
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
            "trust_env": False,
            "verify": httpx.create_ssl_context(),  # created once, because it takes 20 ms
        }
        self._http = httpx.Client(**self._options, timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S))

    def status(self) -> WorkerStatus:
        body = self._request("GET", "/status", timeout=self._heartbeat_s)
        return _parse(STATUS.from_json, body)

    def models(self) -> tuple[WorkerInfo, ...]:
        return (self.status().info,)

    def check(self, vector: SteeringVector) -> None:
        self._request("POST", "/check", content=encode(vector))

    def embed(self, query: Query) -> TaskEmbedding:
        body = self._request("POST", "/embed", content=QUERY.to_json(query))
        return _parse(parse_embedding, body)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        started = False
        try:
            seconds = MAX_ANSWER_S if call.timeout_s is None else call.timeout_s + GRACE_S
            async with aclosing(_limit_time(self._events(call), seconds)) as events:
                async for event in events:
                    started = True
                    yield event
                    if isinstance(event, Generation):
                        return
        except httpx.HTTPError as error:
            raise _no_answer(error, started=started) from error
        raise _no_answer(None, started=started)

    def close(self) -> None:
        self._http.close()

    async def _events(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        # One client per call: connecting is short compared to an answer. A pooled connection would belong to one event
        # loop, could break unnoticed, and would queue behind other answers.
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        is_large = sum(map(len, call.prompt.every_image)) > LARGE_BYTES
        content = await asyncio.to_thread(CALL.to_json, call) if is_large else CALL.to_json(call)
        async with (
            httpx.AsyncClient(**self._options, timeout=timeout) as http,
            http.stream("POST", "/generate", content=content) as response,
        ):
            if response.is_error:
                raise _error_in(response.status_code, await response.aread())
            async for line in _lines(response.aiter_raw()):
                event = _parse(parse_event, line)
                if isinstance(event, VLibraryError):
                    raise event
                yield event

    def _request(self, method: str, path: str, **options: Any) -> bytes:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise _no_answer(error, started=False) from error
        if response.is_error:
            raise _error_in(response.status_code, response.content)
        return response.content


async def _limit_time(events: AsyncGenerator[T], seconds: float) -> AsyncGenerator[T]:
    """Yield the events. Raises TimedOut after so many seconds in all.

    Each wait has its own timeout of the remaining time: one around the whole loop would also interrupt the consumer.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise TimedOut(
                    f"The worker did not finish the answer in {seconds:g} seconds.",
                    "Request fewer tokens, or allow more time.",
                ) from error
            yield event


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Yield complete lines; httpx's aiter_lines also splits at U+2028 and the like, which JSON may contain."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _parse(parse: Callable[[bytes], T], data: bytes) -> T:
    try:
        return parse(data)
    except ValueError as error:
        raise WorkerLost(
            f"Invalid answer from the worker: {error}",
            "Run the same release of VLibrary for the API and its workers.",
        ) from error


def _error_in(status: int, body: bytes) -> VLibraryError:
    """Return the error in a response's body; WorkerUnavailable if the response is not from a worker."""
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:  # from the HTTP server, which does not know our errors
        return TooLarge(
            "The request exceeds the size limit of the worker.",
            "Send smaller images, or raise VLIBRARY_MAX_REQUEST_BYTES for the workers too.",
        )
    try:
        event = parse_event(body)
    except ValueError:
        event = None
    if isinstance(event, VLibraryError):
        return event
    return WorkerUnavailable(f"Unexpected response from the worker's address: HTTP {status}.", _CURE)


def _no_answer(error: httpx.HTTPError | None, *, started: bool) -> VLibraryError:
    """Return the error for a missing or incomplete answer. started: whether a part of it was already yielded."""
    reason = "the stream ended early" if error is None else type(error).__name__
    if started:
        return WorkerLost(f"The connection to the worker was lost during the answer ({reason}).", "Retry.")
    return WorkerUnavailable(f"The worker does not respond ({reason}).", _CURE)
