"""A worker in another process, over HTTP.

Errors name no address: they are shown to whoever asked, and the log of the fleet tells which worker it was.
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
# A worker that embeds or checks says nothing until it is done.
ANSWER_S = 60.0
BEAT_S = 2.0
# For calls without a time limit of their own; others get this much more than the worker, which should speak first.
LONGEST_S = 3_600.0
GRACE_S = 5.0
_CURE = "Try again; if it stays so, check that a worker is up (`vlibrary work`) and that VLIBRARY_WORKERS names it."


class HttpWorker(Worker):
    """A worker in another process, reached over HTTP: the client of service/worker/app.py; safe for many threads.

    url: where it listens, such as http://10.0.0.7:9000; token: the one it was started with. beat_s: how long status()
    waits. Settings of proxies are not looked at: workers are neighbours.
    """

    def __init__(self, url: str, token: str | None = None, *, beat_s: float = BEAT_S) -> None:
        self._beat_s = beat_s
        self._options: dict[str, Any] = {
            "base_url": url,
            "headers": {} if token is None else {"Authorization": f"Bearer {token}"},
            "trust_env": False,
            "verify": httpx.create_ssl_context(),  # made once, since it takes 20 ms
        }
        self._http = httpx.Client(**self._options, timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S))

    def status(self) -> WorkerStatus:
        body = self._ask("GET", "/status", timeout=self._beat_s)
        return _read(STATUS.from_json, body)

    def models(self) -> tuple[WorkerInfo, ...]:
        return (self.status().info,)

    def check(self, vector: SteeringVector) -> None:
        self._ask("POST", "/check", content=encode(vector))

    def embed(self, query: Query) -> TaskEmbedding:
        body = self._ask("POST", "/embed", content=QUERY.to_json(query))
        return _read(parse_embedding, body)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        started = False
        try:
            async with aclosing(_within(_seconds(call), self._events(call))) as events:
                async for event in events:
                    started = True
                    yield event
                    if isinstance(event, Generation):
                        return
        except httpx.HTTPError as error:
            raise _silent(error, started=started) from error
        raise _silent(None, started=started)

    def close(self) -> None:
        self._http.close()

    async def _events(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        # One client a call: an answer lasts far longer than connecting takes, and a kept connection would belong to
        # one event loop, could die unnoticed, and would wait in a pool behind other answers.
        timeout = httpx.Timeout(None, connect=CONNECT_S)
        async with (
            httpx.AsyncClient(**self._options, timeout=timeout) as http,
            http.stream("POST", "/generate", content=await _written(call)) as response,
        ):
            if response.is_error:
                raise _refusal(response.status_code, await response.aread())
            async for line in _lines(response.aiter_raw()):
                event = _read(parse_event, line)
                if isinstance(event, VLibraryError):
                    raise event
                yield event

    def _ask(self, method: str, path: str, **more: Any) -> bytes:
        try:
            response = self._http.request(method, path, **more)
        except httpx.HTTPError as error:
            raise _silent(error, started=False) from error
        if response.is_error:
            raise _refusal(response.status_code, response.content)
        return response.content


async def _written(call: GenerateCall) -> bytes:
    if sum(map(len, call.prompt.every_image)) > LARGE_BYTES:
        return await asyncio.to_thread(CALL.to_json, call)
    return CALL.to_json(call)


def _seconds(call: GenerateCall) -> float:
    return LONGEST_S if call.timeout_s is None else call.timeout_s + GRACE_S


async def _within(seconds: float, events: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """The events of so many seconds. Raises TimedOut.

    Each wait gets the time that is left; one time-out around all of them would strike the reader between two events.
    """
    until = asyncio.get_running_loop().time() + seconds
    async with aclosing(events):
        while True:
            try:
                async with asyncio.timeout_at(until):
                    event = await anext(events)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise TimedOut(
                    f"The worker did not finish the answer in {seconds:g} seconds.",
                    "Ask for fewer tokens, or wait longer.",
                ) from error
            yield event


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """Whole lines; httpx's own reader also splits at U+2028 and its like, which JSON may hold."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line


def _read(parse: Callable[[bytes], T], data: bytes) -> T:
    try:
        return parse(data)
    except ValueError as error:
        raise WorkerLost(
            f"The worker's answer cannot be read: {error}",
            "Run the same release of VLibrary on the api and its workers.",
        ) from error


def _refusal(status: int, body: bytes) -> VLibraryError:
    """The error in an answer's body; WorkerUnavailable where something else than a worker answered."""
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:  # said by the worker's server, before the worker reads it
        return TooLarge(
            "The request is larger than a worker takes.",
            "Send smaller images, or raise VLIBRARY_MAX_REQUEST_BYTES on the workers, too.",
        )
    try:
        event = parse_event(body)
    except ValueError:
        event = None
    if isinstance(event, VLibraryError):
        return event
    return WorkerUnavailable(f"The worker's address answered HTTP {status}, which no worker says.", _CURE)


def _silent(error: httpx.HTTPError | None, *, started: bool) -> VLibraryError:
    """The worker did not answer, or not to the end. started: whether a part of the answer was passed on already."""
    reason = "the stream ended early" if error is None else type(error).__name__
    if started:
        return WorkerLost(f"The worker went away in the middle of the answer ({reason}).", "Ask again.")
    return WorkerUnavailable(f"The worker does not answer ({reason}).", _CURE)
