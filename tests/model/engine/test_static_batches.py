"""The other engine behind the same protocol: whole batches, and still everybody's own answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.model.driving import Asked, collected
from tests.model.engine.test_inflight import Collected, static
from tests.model.samples import PROMPTS, vector
from vlibrary.domain.errors import Overloaded, TimedOut, WrongModel
from vlibrary.domain.wire import Decoding, TextPiece
from vlibrary.engine.static import StaticBatchEngine
from vlibrary.models.lvlm import Lvlm

SHORT, LONG = Decoding(max_new_tokens=3), Decoding(max_new_tokens=9)
MIXED = (Asked(0, 1, LONG), Asked(1, 0, LONG), Asked(2, 2, LONG), Asked(3, 1, SHORT), Asked(2, 0, LONG))


def finish(engine: StaticBatchEngine, requests: Sequence[Collected]) -> None:
    for one in requests:
        engine.submit(one.request)
    while engine.load().waiting:
        engine.step()


def test_batches_of_equal_options_answer_each_request_as_alone(llava: Lvlm) -> None:
    requests = collected(llava, *MIXED)
    engine = StaticBatchEngine(llava, rows=2)
    finish(engine, requests)
    assert [one.generation for one in requests] == [static(llava, *one.given(llava)) for one in MIXED]
    assert all(len(one.events) == 2 and isinstance(one.events[0], TextPiece) for one in requests)
    assert engine.steps == 9 + 9 + 3 + 9  # two together, one before other options, those, and the last one
    assert engine.load().running == 0


def test_one_who_cannot_be_answered_does_not_take_the_batch_along(llava: Lvlm) -> None:
    requests = collected(llava, *MIXED)
    foreign = vector(replace(llava.spec, fingerprint="0" * 64), 1)
    stranger = Collected(llava, PROMPTS[2], foreign, LONG)
    finish(StaticBatchEngine(llava), [requests[0], stranger, requests[1]])
    assert [type(event) for event in stranger.events] == [WrongModel]
    assert [one.generation for one in requests[:2]] == [static(llava, *one.given(llava)) for one in MIXED[:2]]


@pytest.fixture
def one_slot(llava: Lvlm) -> Iterator[Lvlm]:
    lvlm = Lvlm(llava.model, llava.processor, model_id=llava.spec.model_id, slots=1)
    yield lvlm
    lvlm.injector.close()


def test_more_different_vectors_than_slots_are_answered_one_by_one(one_slot: Lvlm, llava: Lvlm) -> None:
    requests = collected(one_slot, *MIXED[:3])
    finish(StaticBatchEngine(one_slot), requests)
    assert [one.generation for one in requests] == [static(llava, *one.given(llava)) for one in MIXED[:3]]


def test_who_left_or_is_too_late_is_not_answered(llava: Lvlm) -> None:
    engine, (left, late, fine) = StaticBatchEngine(llava, waiting=3), collected(llava, *MIXED[:3])
    for one in (left, late, fine):
        engine.submit(one.request)
    with pytest.raises(Overloaded):
        engine.submit(collected(llava, MIXED[0])[0].request)
    engine.cancel(left.request)
    late.request.deadline = time.monotonic()
    engine.step()
    assert left.events == []
    assert [type(event) for event in late.events] == [TimedOut]
    assert fine.generation == static(llava, *MIXED[2].given(llava))
