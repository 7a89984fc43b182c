"""One worker of a fleet, as its heartbeats show it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import aclosing, contextmanager
from typing import TypeVar

import structlog

from vlibrary.domain.errors import VLibraryError, WorkerLost, WorkerUnavailable
from vlibrary.domain.ports.inference import Worker
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo, WorkerStatus

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Member:
    """Asks its worker's status in a thread of its own, so that one slow worker delays no other.

    It is dead after `misses` beats without an answer, and alive again at the next good one. admit: says whether a
    worker may serve what it serves; asked again whenever that changes. problem: what the last missed beat said.
    """

    def __init__(
        self, name: str, worker: Worker, admit: Callable[[WorkerInfo], bool], *, beat_s: float, misses: int
    ) -> None:
        self.name = name
        self.worker = worker
        self.problem: VLibraryError | None = None
        self._admit = admit
        self._beat_s = beat_s
        self._misses = misses
        self._missed = misses
        self._admitted = False
        self._status: WorkerStatus | None = None
        self._numbers = itertools.count(1)
        self._flying: set[int] = set()
        self._counted = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name=f"beat {name}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> WorkerStatus | None:
        """The last heartbeat of a worker that takes requests; None when it is dead or leaves, or was not admitted."""
        with self._lock:
            status = self._status if self._admitted and not self._silent else None
            return None if status is None or status.leaving else status

    @property
    def info(self) -> WorkerInfo | None:
        """What the worker serves, or served when it was last alive; None when it was not admitted."""
        with self._lock:
            return self._status.info if self._status is not None and self._admitted else None

    @property
    def burden(self) -> tuple[bool, int]:
        """Whether it is full, and its requests: those of the last beat, and what we sent since and still wait for."""
        with self._lock:
            sent = sum(number > self._counted for number in self._flying)
            if self._status is None:
                return False, sent
            return sent >= self._status.room, self._status.running + self._status.waiting + sent

    def ask(self, question: Callable[[Worker], T]) -> T:
        """What the worker answers; waits in this thread. Raises WorkerUnavailable when the worker dies meanwhile."""
        answer: Future[T] = Future()
        # Not a pool: a frozen worker may keep the thread for a minute, when the next question is another one's.
        threading.Thread(target=_settle, args=(answer, question, self.worker), name="ask", daemon=True).start()
        while not wait((answer,), timeout=self._beat_s).done:
            if self._silent:
                raise WorkerUnavailable("The worker's heartbeat stopped while it worked.", "Ask again.")
        return answer.result()

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        """The worker's answer, counted as load, and given up when the worker dies.

        Raises WorkerUnavailable for a death before the first event, WorkerLost after.
        """
        started = False
        with self._flight():
            async with aclosing(self.worker.generate(call)) as events:
                while (event := await self._next(events, started=started)) is not None:
                    started = True
                    yield event

    def stop(self) -> None:
        """Ask for no more heartbeats."""
        self._stop.set()

    def join(self) -> None:
        """Wait for the last heartbeat."""
        self._thread.join()

    async def _next(
        self, events: AsyncGenerator[TextPiece | Generation], *, started: bool
    ) -> TextPiece | Generation | None:
        """The next event, None after the last."""
        step = asyncio.create_task(_step(events))
        try:
            while not step.done():
                await asyncio.wait((step,), timeout=self._beat_s)
                if not step.done() and self._silent:
                    kind = WorkerLost if started else WorkerUnavailable
                    raise kind("The worker's heartbeat stopped while it answered.", "Ask again.")
        finally:
            if not step.done():
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
        return step.result()

    @property
    def _silent(self) -> bool:
        """Whether the worker is dead. One that leaves is not: it finishes what runs."""
        return self._missed >= self._misses

    @contextmanager
    def _flight(self) -> Iterator[None]:
        with self._lock:
            number = next(self._numbers)
            self._flying.add(number)
        try:
            yield
        finally:
            with self._lock:
                self._flying.discard(number)

    def _beat_on(self) -> None:
        while True:
            try:
                self._beat()
            except VLibraryError as error:
                self._miss(error)
            except Exception as error:  # noqa: BLE001  without this thread the last good beat would count for ever
                self._miss(WorkerUnavailable(f"Its heartbeat failed: {error!r}.", "Report it with the service's log."))
            if self._stop.wait(self._beat_s):
                return

    def _beat(self) -> None:
        with self._lock:
            before = max(self._flying, default=self._counted)
        status = self.worker.status()
        admitted = self._admitted if self._serves(status.info) else self._ask_admission(status.info)
        with self._lock:
            back = self._silent
            self._status, self._missed, self._counted, self._admitted = status, 0, before, admitted
            self.problem = None
        if back:
            log.info("fleet.worker_alive", worker=self.name, model=status.info.model.model_id)

    def _miss(self, error: VLibraryError) -> None:
        with self._lock:
            self._missed += 1
            self.problem = error
            died = self._missed == self._misses
        if died:
            log.warning("fleet.worker_dead", worker=self.name, detail=error.detail, cause=repr(error.__cause__))

    def _serves(self, info: WorkerInfo) -> bool:
        return self._status is not None and self._status.info == info

    def _ask_admission(self, info: WorkerInfo) -> bool:
        admitted = self._admit(info)
        if not admitted:
            log.warning("fleet.worker_left_out", worker=self.name, embedder=info.embedder.embedder_id)
        return admitted


def _settle(answer: Future[T], question: Callable[[Worker], T], worker: Worker) -> None:
    try:
        answer.set_result(question(worker))
    except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
        answer.set_exception(error)


async def _step(events: AsyncGenerator[TextPiece | Generation]) -> TextPiece | Generation | None:
    return await anext(events, None)
