"""One worker of a fleet and its heartbeats."""

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
    """A worker whose status is polled in a separate thread, so that a slow worker delays no other.

    It is dead after `misses` failed heartbeats in a row, and alive again after a successful one. admit: returns whether
    the fleet accepts what the worker serves; called whenever that changes. problem: the error of the last failed
    heartbeat.
    """

    def __init__(
        self, name: str, worker: Worker, admit: Callable[[WorkerInfo], bool], *, heartbeat_s: float, misses: int
    ) -> None:
        self.name = name
        self.worker = worker
        self.problem: VLibraryError | None = None
        self._admit = admit
        self._heartbeat_s = heartbeat_s
        self._misses = misses
        self._missed = misses
        self._admitted = False
        self._status: WorkerStatus | None = None
        self._numbers = itertools.count(1)
        self._in_flight: set[int] = set()
        self._counted = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run_heartbeat, name=f"heartbeat {name}", daemon=True)
        self._thread.start()

    @property
    def status(self) -> WorkerStatus | None:
        """The last heartbeat; None if the worker is dead, is shutting down or was not admitted."""
        with self._lock:
            status = self._status if self._admitted and not self._is_dead else None
            return None if status is None or status.leaving else status

    @property
    def info(self) -> WorkerInfo | None:
        """What the worker serves, or served when it was last alive; None if it was not admitted."""
        with self._lock:
            return self._status.info if self._status is not None and self._admitted else None

    @property
    def load(self) -> tuple[bool, int]:
        """Whether it is full, and its number of requests: as of the last heartbeat, plus those sent since."""
        with self._lock:
            sent = sum(number > self._counted for number in self._in_flight)
            if self._status is None:
                return False, sent
            return sent >= self._status.room, self._status.running + self._status.waiting + sent

    def call(self, request: Callable[[Worker], T]) -> T:
        """Return the worker's answer. Raises WorkerUnavailable if the worker dies before it answers."""
        answer: Future[T] = Future()
        # Not a pool: a frozen worker may block its thread for a minute.
        threading.Thread(target=_resolve, args=(answer, request, self.worker), name="worker call", daemon=True).start()
        while not wait((answer,), timeout=self._heartbeat_s).done:
            if self._is_dead:
                raise WorkerUnavailable("The worker's heartbeat stopped before it answered.", "Retry.")
        return answer.result()

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        """Yield the worker's answer, counted as load; stop if the worker dies.

        Raises WorkerUnavailable if it dies before the first event, WorkerLost afterwards.
        """
        started = False
        with self._track():
            async with aclosing(self.worker.generate(call)) as events:
                while (event := await self._next(events, started=started)) is not None:
                    started = True
                    yield event

    def stop(self) -> None:
        """Stop the heartbeats."""
        self._stop.set()

    def join(self) -> None:
        """Wait until the heartbeat thread has ended."""
        self._thread.join()

    async def _next(
        self, events: AsyncGenerator[TextPiece | Generation], *, started: bool
    ) -> TextPiece | Generation | None:
        """Return the next event, or None after the last."""
        step = asyncio.ensure_future(anext(events, None))
        try:
            while not step.done():
                await asyncio.wait((step,), timeout=self._heartbeat_s)
                if not step.done() and self._is_dead:
                    kind = WorkerLost if started else WorkerUnavailable
                    raise kind("The worker's heartbeat stopped during the answer.", "Retry.")
        finally:
            if not step.done():
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
        return step.result()

    @property
    def _is_dead(self) -> bool:
        """Whether the worker is dead. One that shuts down is not, because it finishes its running requests."""
        return self._missed >= self._misses

    @contextmanager
    def _track(self) -> Iterator[None]:
        with self._lock:
            number = next(self._numbers)
            self._in_flight.add(number)
        try:
            yield
        finally:
            with self._lock:
                self._in_flight.discard(number)

    def _run_heartbeat(self) -> None:
        while True:
            try:
                self._poll()
            except VLibraryError as error:
                self._record_miss(error)
            except Exception as error:  # noqa: BLE001  this thread must go on, or the last status would count forever
                self._record_miss(
                    WorkerUnavailable(f"The heartbeat failed: {error!r}.", "Report it with the service's log.")
                )
            if self._stop.wait(self._heartbeat_s):
                return

    def _poll(self) -> None:
        with self._lock:
            before = max(self._in_flight, default=self._counted)
        status = self.worker.status()
        if self._status is not None and self._status.info == status.info:
            admitted = self._admitted
        else:
            admitted = self._admit(status.info)
            if not admitted:
                log.warning("fleet.worker_refused", worker=self.name, embedder=status.info.embedder.embedder_id)
        with self._lock:
            back = self._is_dead
            self._status, self._missed, self._counted, self._admitted = status, 0, before, admitted
            self.problem = None
        if back:
            log.info("fleet.worker_alive", worker=self.name, model=status.info.model.model_id)

    def _record_miss(self, error: VLibraryError) -> None:
        with self._lock:
            self._missed += 1
            self.problem = error
            died = self._missed == self._misses
        if died:
            log.warning("fleet.worker_dead", worker=self.name, detail=error.detail, cause=repr(error.__cause__))


def _resolve(answer: Future[T], request: Callable[[Worker], T], worker: Worker) -> None:
    try:
        answer.set_result(request(worker))
    except BaseException as error:  # noqa: BLE001  raised in the waiting thread
        answer.set_exception(error)
