"""The worker: this is where a vector becomes tokens. One object serves the Inference port in the same process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress

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
from vlibrary.worker.metrics import Answers, Parts
from vlibrary.worker.residency import Residency

# Vectors kept in host memory, about 1 MB each for an 8 B model.
HOST_VECTORS = 256
# Threads that fetch vectors and prepare pictures; decoding a picture leaves the interpreter to the others.
PREPARERS = 4


class LocalWorker(Worker):
    """A worker with its models in this process; safe for many callers.

    A request is prepared (vector fetched, prompt encoded) on a small pool of threads, and answered by the engine on the
    model's thread. No more requests are inside than the engine runs and queues; others are refused at once.
    """

    def __init__(
        self,
        lvlm: Lvlm,
        embedder: Embedder,
        artifacts: Artifacts,
        engine: Engine,
        *,
        most_inside: int,
        most_held: int = 2**31,
        registry: CollectorRegistry | None = None,
    ) -> None:
        """engine: started, on this lvlm. registry: where its metrics go.

        most_inside: requests under way or waiting; most_held: bytes of their prepared prompts.
        """
        registry = registry or CollectorRegistry()
        self._lvlm = lvlm
        self._embedder = embedder
        self._engine = engine
        self._most_inside = most_inside
        self._inside = 0
        self._most_held = most_held
        self._held = 0
        self._counting = threading.Lock()
        self._preparers = ThreadPoolExecutor(PREPARERS, thread_name_prefix="prepare")
        self._answers = Answers(registry)
        self._residency = Residency(artifacts, self.check, HOST_VECTORS, self._answers.load.observe)
        registry.register(Parts(engine, lvlm.table, self._residency))

    def models(self) -> tuple[WorkerInfo, ...]:
        if not self._engine.is_open:
            raise WorkerUnavailable("The model's thread has ended.", "Restart the worker; its log says why.")
        return (WorkerInfo(self._lvlm.spec, self._embedder.spec, self._lvlm.context_length),)

    def status(self) -> WorkerStatus:
        """The heartbeat; requests that are being prepared count as waiting.

        Raises WorkerUnavailable when the model's thread has ended.
        """
        info = self.models()[0]
        running, inside = self._engine.load().running, self._inside
        return WorkerStatus(info, running, max(0, inside - running), max(0, self._most_inside - inside))

    def close(self) -> None:
        """Stop the threads; requests under way, and later ones, end with WorkerUnavailable."""
        self._engine.close()
        self._preparers.shutdown()

    def check(self, vector: SteeringVector) -> None:
        self._lvlm.table.check(vector)

    def embed(self, query: Query) -> TaskEmbedding:
        return self._embedder.embed(query)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        self.find(call.model_id)
        steered = bool(call.vectors)
        end = "cancelled"
        try:
            with self._admitted():
                async with aclosing(self._answer(call)) as events:
                    async for event in events:
                        if isinstance(event, Generation):
                            self._answers.answered(event, steered=steered)
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
                self._answers.ended(end, steered=steered)

    async def _answer(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        deadline = None if call.timeout_s is None else time.monotonic() + call.timeout_s
        events: asyncio.Queue[Event] = asyncio.Queue()
        request = await self._prepared(call, _into(events), deadline)
        with self._holding(request.prompt.bytes):
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

    async def _prepared(self, call: GenerateCall, emit: Callable[[Event], None], deadline: float | None) -> Request:
        def prepare() -> Request:
            submitted = time.monotonic()
            vector, key = self._residency.get(call.vectors)
            prompt = encode_prompt(self._lvlm, call.prompt, call.decoding.max_new_tokens)
            return Request(prompt, call.decoding, emit, vector, key, deadline, submitted)

        try:
            prepared = asyncio.wrap_future(self._preparers.submit(prepare))
        except RuntimeError as error:  # the pool is shut down
            raise WorkerUnavailable("The worker is stopping.", "Try again.") from error
        try:
            async with asyncio.timeout(call.timeout_s):
                return await prepared
        except TimeoutError as error:
            raise TimedOut("The request could not be prepared in time.", "Allow more time, or try later.") from error

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        with self._counting:
            if self._inside >= self._most_inside:
                raise Overloaded(f"{self._inside} requests are under way or waiting already.", "Try again later.")
            self._inside += 1
        try:
            yield
        finally:
            with self._counting:
                self._inside -= 1

    @contextmanager
    def _holding(self, size: int) -> Iterator[None]:
        """Room for a prepared prompt in host memory; the only one there always has it."""
        with self._counting:
            if self._held and self._held + size > self._most_held:
                raise Overloaded(f"Prepared prompts hold {self._held:,} bytes already.", "Try again later.")
            self._held += size
        try:
            yield
        finally:
            with self._counting:
                self._held -= size


def _into(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """Hands events from the model's thread to the loop that runs here."""
    loop = asyncio.get_running_loop()

    def emit(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed, the process is ending: nobody is left to tell
            loop.call_soon_threadsafe(events.put_nowait, event)

    return emit
