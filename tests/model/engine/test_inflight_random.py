"""Random arrivals and cancellations: every answer in a running batch is that of a single run."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.engine.test_inflight import RecordedRequest
from tests.model.engine_runs import RequestSpec, answer_alone, make_requests
from vlibrary.domain.wire import Decoding
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.models.lvlm import Lvlm

# Few different requests, so that the answers of single runs are computed once; very different lengths and seeds.
DECODINGS = (
    Decoding(1),
    Decoding(4),
    Decoding(9),
    Decoding(23),
    Decoding(70),  # longer than the columns that the cache allocates ahead
    Decoding(12, temperature=1.5, seed=3),
    Decoding(8, temperature=0.7, top_p=0.6, seed=4),
    Decoding(15, stop=("a", "is")),
)


@dataclass(frozen=True)
class Arrival:
    """A request. pause: steps until the next arrival; patience: steps until its caller cancels it, None for never."""

    spec: RequestSpec
    pause: int
    patience: int | None


SPECS = st.builds(
    RequestSpec,
    prompt=st.integers(0, 3),
    vector=st.integers(0, 3),
    decoding=st.sampled_from(DECODINGS),
    strength=st.sampled_from((0.5, 2.0)),
)
ARRIVALS = st.lists(
    st.builds(Arrival, SPECS, st.integers(0, 6), st.one_of(st.none(), st.none(), st.integers(0, 10))),
    min_size=1,
    max_size=9,
)


class Run:
    """Submits arrivals to one engine and runs it to the end."""

    def __init__(self, lvlm: Lvlm, arrivals: list[Arrival], budget: Budget) -> None:
        self._engine = InFlightEngine(lvlm, budget)
        self._leaving: list[tuple[int, RecordedRequest]] = []
        self._steps = 0
        self.requests: list[RecordedRequest] = []
        for arrival in arrivals:
            self._arrive(lvlm, arrival)
        while self._engine.load().running or self._engine.load().waiting:
            self._step()

    def _arrive(self, lvlm: Lvlm, arrival: Arrival) -> None:
        (request,) = make_requests(lvlm, arrival.spec)
        self.requests.append(request)
        self._engine.submit(request.request)
        if arrival.patience is not None:
            self._leaving.append((self._steps + arrival.patience, request))
        for _ in range(arrival.pause):
            self._step()

    def _step(self) -> None:
        for step, request in self._leaving:
            if step <= self._steps:
                self._engine.cancel(request.request)
        self._engine.step()
        self._steps += 1


@settings(max_examples=25)
@given(ARRIVALS, st.integers(1, 5), st.sampled_from((60, 200, 4096)))
def test_every_complete_answer_is_that_of_a_single_run(
    llava: Lvlm, arrivals: list[Arrival], rows: int, prefill: int
) -> None:
    requests = Run(llava, arrivals, Budget(rows=rows, prefill=prefill)).requests
    for request, arrival in zip(requests, arrivals, strict=True):
        if not request.request.cancelled or arrival.patience is None:
            assert request.generation == answer_alone(llava, arrival.spec)
    assert llava.table.pinned_slots == 0
