"""Requests through an engine whose steps the bench itself calls, so that nothing else runs at the same time."""

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


class Asked:
    """One request under way; its clock starts before the prompt is encoded."""

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
        """The whole answer; raises the error that it ended with."""
        last = self._events[-1]
        if isinstance(last, Generation):
            return last
        raise last if isinstance(last, Exception) else RuntimeError("the request has not ended")


def open_engine(lvlm: Lvlm, rows: int) -> InFlightEngine:
    """An engine with room for everything that the bench asks."""
    return InFlightEngine(lvlm, Budget(rows=rows, waiting=256))


def busy(engine: QueuedEngine) -> bool:
    load = engine.load()
    return bool(load.running or load.waiting)


def submit(engine: QueuedEngine, lvlm: Lvlm, requests: Sequence[BenchRequest]) -> list[Asked]:
    """Encode and queue them, in order."""
    asked = []
    for request in requests:
        asked.append(Asked(lvlm, request))
        engine.submit(asked[-1].request)
    return asked


def answer(engine: QueuedEngine, lvlm: Lvlm, requests: Sequence[BenchRequest]) -> list[Asked]:
    """All of them, submitted at once, to the end."""
    asked = submit(engine, lvlm, requests)
    while busy(engine):
        engine.step()
    for one in asked:
        if one.generation.completion_tokens != one.request.decoding.max_new_tokens:
            raise RuntimeError("an answer ended early: the runs cannot be compared")
    return asked


def typical_first_token_s(asked: Sequence[Asked]) -> float:
    return median(one.first_token_s for one in asked)
