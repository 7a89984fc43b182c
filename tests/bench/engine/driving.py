"""Drive an engine step by step from the benchmark, so that nothing else runs at the same time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

from tests.bench.engine.subject import BenchRequest
from vlibrary.domain.wire import Decoding, Generation
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.engine.queued_engine import QueuedEngine
from vlibrary.engine.request import Event, Request, encode_prompt
from vlibrary.models.lvlm import Lvlm


class Submitted:
    """A submitted request; its clock starts before the prompt is encoded."""

    def __init__(self, lvlm: Lvlm, request: BenchRequest) -> None:
        self._events: list[Event] = []
        submitted = time.monotonic()
        self.request = Request(
            encode_prompt(lvlm, request.prompt, request.tokens),
            Decoding(max_new_tokens=request.tokens),
            self._events.append,
            request.vector,
            request.vector_key,
            submitted=submitted,
        )

    @property
    def first_token_s(self) -> float:
        timings = self.generation.timings
        return float(timings["queue_s"] + timings["prefill_s"])

    @property
    def generation(self) -> Generation:
        """The whole answer; raises the error that ended it."""
        last = self._events[-1]
        if isinstance(last, Generation):
            return last
        raise last if isinstance(last, Exception) else RuntimeError("the request has not ended")


def open_engine(lvlm: Lvlm, rows: int) -> InFlightEngine:
    """Return an engine with room for every request of the benchmark."""
    return InFlightEngine(lvlm, Budget(rows=rows, waiting=256))


def busy(engine: QueuedEngine) -> bool:
    load = engine.load()
    return bool(load.running or load.waiting)


def submit(engine: QueuedEngine, lvlm: Lvlm, requests: Sequence[BenchRequest]) -> list[Submitted]:
    """Encode and queue the requests, in order."""
    submitted = []
    for request in requests:
        submitted.append(Submitted(lvlm, request))
        engine.submit(submitted[-1].request)
    return submitted


def answer(engine: QueuedEngine, lvlm: Lvlm, requests: Sequence[BenchRequest]) -> list[Submitted]:
    """Submit all requests at once and run until all are answered."""
    submitted = submit(engine, lvlm, requests)
    while busy(engine):
        engine.step()
    for one in submitted:
        if one.generation.completion_tokens != one.request.decoding.max_new_tokens:
            raise RuntimeError("an answer ended early: the runs cannot be compared")
    return submitted


def typical_first_token_s(submitted: Sequence[Submitted]) -> float:
    return median(one.first_token_s for one in submitted)
