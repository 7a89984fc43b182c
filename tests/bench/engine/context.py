"""What a vector saves: the same questions with a vector, and with 16 demonstrations that have an image each."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from tests.bench.engine.driving import Submitted, answer, open_engine, typical_first_token_s
from tests.bench.engine.subject import BenchRequest, Subject, questions, steered, with_demonstrations
from tests.bench.spread import Spread, in_turn, speedup
from vlibrary.models.lvlm import Lvlm

ANSWER = 8


class _Arm:
    """One side of the comparison, with an engine that caches image features between runs."""

    def __init__(self, lvlm: Lvlm, rows: int, batches: Sequence[Sequence[BenchRequest]]) -> None:
        self._lvlm, self._engine = lvlm, open_engine(lvlm, rows)
        self._coming = deque(batches)
        self.runs: list[list[Submitted]] = []

    def ask(self) -> None:
        """Submit the next batch at once and wait for all answers."""
        self.runs.append(answer(self._engine, self._lvlm, self._coming.popleft()))


def against_demonstrations(subject: Subject) -> Mapping[str, Spread]:
    """Measure requests per second under a burst, and the time to the first token under a burst and alone."""
    lvlm, size = subject.lvlm, subject.size
    singles = max(2, size.singles // 3)
    counts = [1, *[size.requests] * size.runs, *[1] * singles]
    plain = [questions(count, ANSWER, seed) for seed, count in enumerate(counts)]  # no picture is submitted about twice
    one = _Arm(lvlm, size.requests, [steered(lvlm, batch, 1) for batch in plain])
    other = _Arm(lvlm, size.requests, [with_demonstrations(batch, size.demonstrations) for batch in plain])
    in_turn(one.ask, other.ask, 1)  # the demonstrations' features are known from now on, as they would be in service
    rush = in_turn(one.ask, other.ask, size.runs)
    in_turn(one.ask, other.ask, singles)
    first_tokens = [
        typical_first_token_s(mine) / typical_first_token_s(theirs)
        for mine, theirs in zip(one.runs, other.runs, strict=True)
    ]
    return {
        "vs_icl_rps": speedup(rush),
        "vs_icl_ttft": Spread.of(first_tokens[1 + size.runs :]),
        "vs_icl_ttft_rush": Spread.of(first_tokens[1 : 1 + size.runs]),
    }
