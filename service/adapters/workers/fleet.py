"""Many workers behind one face: who is alive, who is asked, and who is asked next when one fails."""

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

BEAT_S = 1.0
MISSES = 3
# What another worker may do better; any other error is about the request itself.
ELSEWHERE = (Overloaded, Unavailable)
_CURE = "Start a worker with `vlibrary work` and name it in VLIBRARY_WORKERS; `vlibrary doctor` tells who answers."


class Fleet(Inference):
    """Several workers, by name, behind the port of one; safe for many threads and event loops.

    All must have the embedder of the one that answers first, since the task index holds its keys; others are left out.
    members: each worker as its heartbeats show it.
    """

    def __init__(self, workers: Mapping[str, Worker], *, beat_s: float = BEAT_S, misses: int = MISSES) -> None:
        self._lock = threading.Lock()
        self._embedder: EmbedderSpec | None = None
        self.members = [
            Member(name, worker, self._admit, beat_s=beat_s, misses=misses) for name, worker in workers.items()
        ]

    def wait(self, seconds: float) -> None:
        """Until the first worker is alive. Raises WorkerUnavailable that tells what each one said."""
        patience = Retrying(
            stop=stop_after_delay(seconds),
            wait=wait_fixed(0.1),
            retry=retry_if_exception_type(WorkerUnavailable),
            reraise=True,
        )
        try:
            patience(self.models)
        except WorkerUnavailable as error:
            heard = "; ".join(f"{member.name}: {_said(member.problem)}" for member in self.members)
            raise WorkerUnavailable(f"No worker was ready within {seconds:g} seconds. {heard}", _CURE) from error

    def models(self) -> tuple[WorkerInfo, ...]:
        models: dict[ModelSpec, WorkerInfo] = {}
        for _member, info in self._living():
            models.setdefault(info.model, info)
        return tuple(models.values())

    def find(self, model_id: str | None) -> WorkerInfo:
        if model_id is not None:
            self._serving(lambda model: model.model_id == model_id)  # tells those that are gone from those never there
        return super().find(model_id)

    def check(self, vector: SteeringVector) -> None:
        serving = self._serving(lambda model: model.fingerprint == vector.model.fingerprint)
        if not serving:
            raise WrongModel(
                f"No worker serves the base model {vector.model.model_id!r} ({vector.model.fingerprint[:12]}).",
                f"Train it on a model that is served: {self._names()}.",
            )
        self._first_answer(serving, lambda worker: worker.check(vector))

    def embed(self, query: Query) -> TaskEmbedding:
        members = _least_loaded(member for member, _info in self._living())
        return self._first_answer(members, lambda worker: worker.embed(query))

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        serving = self._serving(lambda model: model.model_id == call.model_id)
        if not serving:
            super().find(call.model_id)  # raises, and names those there are
        began = asyncio.get_running_loop().time()
        refusals: list[VLibraryError] = []
        for member in serving:
            async with aclosing(member.generate(_shortened(call, began))) as events:
                try:
                    first = await anext(events)
                except ELSEWHERE as error:
                    refusals.append(_try_another(member, error))
                    continue
                yield first
                async for event in events:
                    yield event
                return
        raise _gist(refusals)

    def close(self) -> None:
        """End the heartbeats and close all workers."""
        for member in self.members:
            member.stop()
        for member in self.members:
            member.join()
            member.worker.close()

    def _admit(self, info: WorkerInfo) -> bool:
        with self._lock:
            self._embedder = self._embedder or info.embedder
            return info.embedder == self._embedder

    def _living(self) -> list[tuple[Member, WorkerInfo]]:
        """Members with what they serve. Raises WorkerUnavailable when there is none."""
        beats = [(member, member.status) for member in self.members]
        living = [(member, status.info) for member, status in beats if status is not None]
        if not living:
            raise WorkerUnavailable("No worker answers.", _CURE)
        return living

    def _serving(self, wanted: Callable[[ModelSpec], bool]) -> list[Member]:
        """The living ones with such a model, least loaded first; none when no worker has such a model.

        Raises WorkerUnavailable when those that have it are dead or leave.
        """
        serving = _least_loaded(member for member, info in self._living() if wanted(info.model))
        known = (info.model for member in self.members if (info := member.info) is not None)
        gone = next((model for model in known if wanted(model)), None)
        if not serving and gone is not None:
            raise WorkerUnavailable(f"No worker that serves {gone.model_id!r} answers now.", _CURE)
        return serving

    def _names(self) -> str:
        return ", ".join(repr(info.model.model_id) for info in self.models())

    def _first_answer(self, members: Sequence[Member], ask: Callable[[Worker], T]) -> T:
        refusals: list[VLibraryError] = []
        for member in members:
            try:
                return member.ask(ask)
            except ELSEWHERE as error:
                refusals.append(_try_another(member, error))
        raise _gist(refusals)


def _least_loaded(members: Iterable[Member]) -> list[Member]:
    """Those without room last: they would only refuse."""
    return sorted(members, key=lambda member: member.burden)


def _shortened(call: GenerateCall, began: float) -> GenerateCall:
    """The call with the time that is left of its own, for a second worker."""
    if call.timeout_s is None:
        return call
    spent = asyncio.get_running_loop().time() - began
    return replace(call, timeout_s=max(call.timeout_s - spent, 0.0))


def _try_another(member: Member, error: VLibraryError) -> VLibraryError:
    """The error, noted in the log with the worker's name, which callers are not told."""
    log.warning("fleet.tries_another", worker=member.name, problem=error.code, detail=error.detail)
    return error


def _gist(refusals: Sequence[VLibraryError]) -> VLibraryError:
    """Overloaded if anybody who lives said so, since then waiting helps; else what tells more than that one is away."""
    return min(refusals, key=lambda error: (not isinstance(error, Overloaded), isinstance(error, WorkerUnavailable)))


def _said(problem: VLibraryError | None) -> str:
    return "has not answered yet." if problem is None else str(problem)
