"""The benefit of in-flight batching: decode steps against static batches, time against one request at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tests.bench.engine.driving import answer, busy, open_engine, submit
from tests.bench.engine.size import QUICK
from tests.bench.engine.subject import (
    BenchRequest,
    Subject,
    build,
    disable_stop_tokens,
    mixed_lengths,
    questions,
    steered,
)
from tests.bench.spread import Spread, in_turn, speedup
from vlibrary.domain.wire import Decoding
from vlibrary.engine.static import StaticBatchEngine, StaticGenerator
from vlibrary.models.lvlm import Lvlm

Trace = Sequence[tuple[int, BenchRequest]]  # arrival times and requests

ROWS = 8


@dataclass(frozen=True)
class Pattern:
    """Simulated traffic. gap: decode steps between arrivals. skewed: most answers are short."""

    gap: int
    skewed: bool


# With a gap of 2 there is always a request waiting; with 4 there seldom is.
PATTERNS = {
    "steps_ratio": Pattern(gap=2, skewed=True),
    "steps_uniform": Pattern(gap=2, skewed=False),
    "steps_sparse": Pattern(gap=4, skewed=True),
}


def steps_against_static(subject: Subject) -> Mapping[str, Spread]:
    """Compare both kinds of batching for requests that arrive one by one, with answers of very different lengths.

    Steps are counted, not timed, so the smallest model is enough.
    """
    size, lvlm = subject.size, Lvlm.load(build(QUICK.shape, subject.scratch / "least"), slots=ROWS)
    disable_stop_tokens(lvlm)

    def ratio(pattern: Pattern, seed: int) -> float:
        plain = steered(lvlm, questions(size.arrivals, tokens=0, seed=seed), ROWS)
        requests = mixed_lengths(plain, size.longest, seed, skewed=pattern.skewed)
        trace = [(place * pattern.gap, request) for place, request in enumerate(requests)]
        return in_flight_steps(lvlm, trace) / static_steps(lvlm, trace)

    return {
        name: Spread.of([ratio(pattern, seed) for seed in range(size.traces)]) for name, pattern in PATTERNS.items()
    }


def in_flight_steps(lvlm: Lvlm, trace: Trace) -> int:
    """Return the decode steps until all requests are answered; arrival times are in decode steps."""
    engine, coming, clock = open_engine(lvlm, ROWS), deque(trace), 0
    while coming or busy(engine):
        before = engine.steps
        submit(engine, lvlm, _arrived(coming, clock, len(coming)))
        engine.step()
        clock += max(1, engine.steps - before)
    return engine.steps


def static_steps(lvlm: Lvlm, trace: Trace) -> int:
    """Return the decode steps of static batches.

    The requests waiting when a batch ends form the next one, which runs as long as its longest row.
    """
    engine, coming, clock, batches = StaticBatchEngine(lvlm, rows=ROWS), deque(trace), 0, 0
    while coming:
        batch = _arrived(coming, clock, ROWS)
        if not batch:
            clock += 1
            continue
        # One length for all, as the engine joins equal options only; it would run to the longest all the same.
        longest = max(request.tokens for request in batch)
        answer(engine, lvlm, [replace(request, tokens=longest) for request in batch])
        batches += 1
        clock += longest - 1
    return engine.steps - batches  # it counts each batch's prefill, which in flight is not a decode step either


def _arrived(coming: deque[tuple[int, BenchRequest]], clock: int, most: int) -> list[BenchRequest]:
    """Remove and return the requests at the front that have arrived."""
    arrived: list[BenchRequest] = []
    while coming and len(arrived) < most and coming[0][0] <= clock:
        arrived.append(coming.popleft()[1])
    return arrived


def throughput_against_sequential(subject: Subject) -> Mapping[str, Spread]:
    """Compare a burst of requests of different images, vectors and lengths with generate() on one at a time."""
    lvlm, size = subject.lvlm, subject.size
    plain = questions(size.requests, tokens=0, seed=5)
    lengths = [size.longest // 4 + n * (3 * size.longest // 4) // (size.requests - 1) for n in range(size.requests)]
    requests = [
        replace(request, tokens=length)
        for request, length in zip(steered(lvlm, plain, size.requests), lengths, strict=True)
    ]
    sequential = StaticGenerator(lvlm)

    def one_at_a_time() -> None:
        for request in requests:
            sequential.generate([(request.prompt, request.vector)], Decoding(max_new_tokens=request.tokens))

    def together() -> None:
        answer(open_engine(lvlm, size.requests), lvlm, requests)

    together()  # every shape once, before the clock runs
    return {"vs_sequential": speedup(in_turn(together, one_at_a_time, size.runs))}
