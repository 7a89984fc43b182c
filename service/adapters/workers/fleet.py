"""A fleet of workers behind the port of one: liveness, routing by model and load, and failover."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

import structlog
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from vlibrary.adapters.workers.member import Member
from vlibrary.domain.errors import Overloaded, Unavailable, VLibraryError, WorkerUnavailable, WrongModel
from vlibrary.domain.ports.inference import Inference, Worker
from vlibrary.domain.query import EmbedderSpec, Query, TaskEmbedding
from vlibrary.domain.vector import ModelSpec, SteeringVector
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo

log = structlog.get_logger(__name__)

T = TypeVar("T")

HEARTBEAT_S = 1.0
MISSES = 3
# Errors after which another worker may succeed; any other is about the request itself.
RETRYABLE = (Overloaded, Unavailable)
_CURE = "Start `vlibrary work` and add its address to VLIBRARY_WORKERS; `vlibrary doctor` shows which workers respond."


class Fleet(Inference):
    """Several workers, by name, behind the port of one; safe for many threads and event loops.

    All must have the embedder of the worker that responds first, since the task index holds its keys.
    members: the workers with their heartbeats.
    """

    def __init__(
        self, workers: Mapping[str, Worker], *, heartbeat_s: float = HEARTBEAT_S, misses: int = MISSES
    ) -> None:
        self._lock = threading.Lock()
        self._embedder: EmbedderSpec | None = None
        self.members = [
            Member(name, worker, self._admit, heartbeat_s=heartbeat_s, misses=misses)
            for name, worker in workers.items()
        ]

    def wait(self, seconds: float) -> None:
        """Wait until one worker is alive. Raises WorkerUnavailable with the state of every worker."""
        retrying = Retrying(
            stop=stop_after_delay(seconds),
            wait=wait_fixed(0.1),
            retry=retry_if_exception_type(WorkerUnavailable),
            reraise=True,
        )
        try:
            retrying(self.models)
        except WorkerUnavailable as error:
            states = "; ".join(f"{member.name}: {member.problem or 'No response yet.'}" for member in self.members)
            raise WorkerUnavailable(f"No worker was ready within {seconds:g} seconds. {states}", _CURE) from error

    def models(self) -> tuple[WorkerInfo, ...]:
        models: dict[ModelSpec, WorkerInfo] = {}
        for _member, info in self._alive():
            models.setdefault(info.model, info)
        return tuple(models.values())

    def find(self, model_id: str | None) -> WorkerInfo:
        if model_id is not None:
            self._serving(lambda model: model.model_id == model_id)  # raises if those that served it are gone
        return super().find(model_id)

    def check(self, vector: SteeringVector) -> None:
        serving = self._serving(lambda model: model.fingerprint == vector.model.fingerprint)
        if not serving:
            names = ", ".join(repr(info.model.model_id) for info in self.models())
            raise WrongModel(
                f"No worker serves the base model {vector.model.model_id!r} ({vector.model.fingerprint[:12]}).",
                f"Train it on a model that is served: {names}.",
            )
        self._call_first(serving, lambda worker: worker.check(vector))

    def embed(self, query: Query) -> TaskEmbedding:
        members = _by_load(member for member, _info in self._alive())
        return self._call_first(members, lambda worker: worker.embed(query))

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        serving = self._serving(lambda model: model.model_id == call.model_id)
        if not serving:
            super().find(call.model_id)  # raises ModelNotFound
        began = asyncio.get_running_loop().time()
        failures: list[VLibraryError] = []
        for member in serving:
            async with aclosing(member.generate(_with_remaining_time(call, began))) as events:
                try:
                    first = await anext(events)
                except RETRYABLE as error:
                    failures.append(_log_failover(member, error))
                    continue
                yield first
                async for event in events:
                    yield event
                return
        raise _most_informative(failures)

    def close(self) -> None:
        """Stop the heartbeats and close all workers."""
        for member in self.members:
            member.stop()
        for member in self.members:
            member.join()
            member.worker.close()

    def _admit(self, info: WorkerInfo) -> bool:
        with self._lock:
            self._embedder = self._embedder or info.embedder
            return info.embedder == self._embedder

    def _alive(self) -> list[tuple[Member, WorkerInfo]]:
        """Return the live members with what they serve. Raises WorkerUnavailable if there are none."""
        statuses = [(member, member.status) for member in self.members]
        alive = [(member, status.info) for member, status in statuses if status is not None]
        if not alive:
            # Without addresses, which API clients must not see.
            reasons = dict.fromkeys(member.problem.detail for member in self.members if member.problem is not None)
            raise WorkerUnavailable(" ".join(["No worker responds.", *list(reasons)[:3]]), _CURE)
        return alive

    def _serving(self, wanted: Callable[[ModelSpec], bool]) -> list[Member]:
        """Return the live members with such a model, least loaded first; none if no worker ever served one.

        Raises WorkerUnavailable if all that served one are dead or shutting down.
        """
        serving = _by_load(member for member, info in self._alive() if wanted(info.model))
        known = (info.model for member in self.members if (info := member.info) is not None)
        gone = next((model for model in known if wanted(model)), None)
        if not serving and gone is not None:
            raise WorkerUnavailable(f"No worker that serves {gone.model_id!r} responds.", _CURE)
        return serving

    def _call_first(self, members: Sequence[Member], request: Callable[[Worker], T]) -> T:
        failures: list[VLibraryError] = []
        for member in members:
            try:
                return member.call(request)
            except RETRYABLE as error:
                failures.append(_log_failover(member, error))
        raise _most_informative(failures)


def _by_load(members: Iterable[Member]) -> list[Member]:
    """Sort by load; members without room come last."""
    return sorted(members, key=lambda member: member.load)


def _with_remaining_time(call: GenerateCall, began: float) -> GenerateCall:
    """Return the call with its remaining time, for the next worker."""
    if call.timeout_s is None:
        return call
    spent = asyncio.get_running_loop().time() - began
    return replace(call, timeout_s=max(call.timeout_s - spent, 0.0))


def _log_failover(member: Member, error: VLibraryError) -> VLibraryError:
    """Log the error with the worker's name, which clients do not see, and return it."""
    log.warning("fleet.failover", worker=member.name, problem=error.code, detail=error.detail)
    return error


def _most_informative(failures: Sequence[VLibraryError]) -> VLibraryError:
    """Return the error to report: Overloaded if there is one, since waiting helps; WorkerUnavailable last."""
    return min(failures, key=lambda error: (not isinstance(error, Overloaded), isinstance(error, WorkerUnavailable)))
