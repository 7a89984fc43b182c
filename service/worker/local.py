"""A worker in this process: it loads the vectors of a request, encodes the prompt and streams the engine's answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace

from prometheus_client import CollectorRegistry

from vlibrary.domain.errors import Overloaded, TimedOut, VLibraryError, WorkerUnavailable
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.inference import Worker
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo, WorkerStatus
from vlibrary.engine.request import Engine, Event, Request, encode_prompt
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.worker.metrics import AnswerMetrics, StateCollector
from vlibrary.worker.residency import Residency

# Vectors cached in host memory, about 1 MB each for a model of 8 B parameters.
HOST_VECTORS = 256
# Threads that load vectors and encode prompts; image decoding releases the GIL.
PREPARATION_THREADS = 4


class LocalWorker(Worker):
    """A worker with its models in this process; safe for many callers.

    A small thread pool prepares requests (loads vectors, encodes prompts); the engine answers them on the model's
    thread. Requests beyond those that the engine runs and queues are refused immediately.
    """

    def __init__(
        self,
        lvlm: Lvlm,
        embedder: Embedder,
        artifacts: Artifacts,
        engine: Engine,
        *,
        max_requests: int,
        max_prepared_bytes: int = 2**31,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """engine: started, for this lvlm. registry: receives the metrics.

        max_requests: running and waiting ones together. max_prepared_bytes: of their encoded prompts in host memory.
        """
        registry = registry or CollectorRegistry()
        self._lvlm = lvlm
        self._embedder = embedder
        self._engine = engine
        self._max_requests = max_requests
        self._requests = 0
        self._max_prepared_bytes = max_prepared_bytes
        self._prepared_bytes = 0
        self._lock = threading.Lock()
        self._preparation = ThreadPoolExecutor(PREPARATION_THREADS, thread_name_prefix="prepare")
        self._metrics = AnswerMetrics(registry)
        self._residency = Residency(artifacts, self.check, HOST_VECTORS, self._metrics.load.observe)
        registry.register(StateCollector(engine, lvlm.table, self._residency, embedder))

    def models(self) -> tuple[WorkerInfo, ...]:
        if not self._engine.is_open:
            raise WorkerUnavailable("The model's thread has ended.", "Restart the worker; its log has the cause.")
        return (WorkerInfo(self._lvlm.spec, self._embedder.spec, self._engine.capacity),)

    def status(self) -> WorkerStatus:
        """Return the heartbeat; requests in preparation count as waiting.

        Raises WorkerUnavailable when the model's thread has ended.
        """
        info = self.models()[0]
        running, admitted = self._engine.load().running, self._requests
        return WorkerStatus(info, running, max(0, admitted - running), max(0, self._max_requests - admitted))

    def close(self) -> None:
        """Stop the threads; running and later requests end with WorkerUnavailable."""
        self._engine.close()
        self._preparation.shutdown()

    def check(self, vector: SteeringVector) -> None:
        self._lvlm.table.check(vector)

    def embed(self, query: Query) -> TaskEmbedding:
        return self._embedder.embed(query)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        self.find(call.model_id)
        steered = bool(call.vectors)
        end = "cancelled"
        try:
            with self._admit():
                async with aclosing(self._answer(call)) as events:
                    async for event in events:
                        if isinstance(event, Generation):
                            self._metrics.record_answer(event, steered=steered)
                            end = ""
                        yield event
        except VLibraryError as error:
            end = error.code
            raise
        except Exception:
            end = "failed"
            raise
        finally:
            if end:
                self._metrics.record_end(end, steered=steered)

    async def _answer(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        deadline = None if call.timeout_s is None else time.monotonic() + call.timeout_s
        events: asyncio.Queue[Event] = asyncio.Queue()
        request = await self._prepare(call, _emit_to(events), deadline)
        with self._reserve(request.prompt.bytes):
            self._engine.submit(request)
            try:
                while True:
                    event = await events.get()
                    if isinstance(event, VLibraryError):
                        raise event
                    yield event
                    if isinstance(event, Generation):
                        return
            finally:
                self._engine.cancel(request)

    async def _prepare(self, call: GenerateCall, emit: Callable[[Event], None], deadline: float | None) -> Request:
        def prepare() -> Request:
            submitted = time.monotonic()
            self._engine.prepare(call.decoding)
            vector, key = self._residency.get(call.vectors)
            prompt = encode_prompt(self._lvlm, call.prompt, min(1, call.decoding.max_new_tokens))
            room = max(1, self._engine.capacity - prompt.length)
            decoding = replace(call.decoding, max_new_tokens=min(call.decoding.max_new_tokens, room))
            return Request(prompt, decoding, emit, vector, key, deadline, submitted)

        try:
            prepared = asyncio.wrap_future(self._preparation.submit(prepare))
        except RuntimeError as error:  # the pool is shut down
            raise WorkerUnavailable("The worker is shutting down.", "Retry.") from error
        try:
            async with asyncio.timeout(call.timeout_s):
                return await prepared
        except TimeoutError as error:
            raise TimedOut("The request was not prepared in time.", "Allow more time, or retry later.") from error

    @contextmanager
    def _admit(self) -> Iterator[None]:
        with self._lock:
            if self._requests >= self._max_requests:
                raise Overloaded(f"{self._requests} requests are running or waiting.", "Retry later.")
            self._requests += 1
        try:
            yield
        finally:
            with self._lock:
                self._requests -= 1

    @contextmanager
    def _reserve(self, size: int) -> Iterator[None]:
        """Reserve host memory for an encoded prompt; the only one is always admitted. Raises Overloaded."""
        with self._lock:
            if self._prepared_bytes and self._prepared_bytes + size > self._max_prepared_bytes:
                raise Overloaded(f"Prepared prompts take {self._prepared_bytes:,} bytes.", "Retry later.")
            self._prepared_bytes += size
        try:
            yield
        finally:
            with self._lock:
                self._prepared_bytes -= size


def _emit_to(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """Return a function that passes events from the model's thread to the queue of this event loop."""
    loop = asyncio.get_running_loop()

    def emit(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed because the process is ending
            loop.call_soon_threadsafe(events.put_nowait, event)

    return emit
