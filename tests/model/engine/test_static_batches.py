"""The static engine behind the queue's protocol: whole batches, and each request has its own answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from tests.model.engine.test_inflight import RecordedRequest, answer_statically
from tests.model.engine_runs import RequestSpec, make_requests
from tests.model.samples import PROMPTS, vector
from vlibrary.domain.errors import Overloaded, TimedOut, WrongModel
from vlibrary.domain.wire import Decoding, TextPiece
from vlibrary.engine.static import StaticBatchEngine
from vlibrary.models.lvlm import Lvlm

SHORT, LONG = Decoding(max_new_tokens=3), Decoding(max_new_tokens=9)
MIXED = (
    RequestSpec(0, 1, LONG),
    RequestSpec(1, 0, LONG),
    RequestSpec(2, 2, LONG),
    RequestSpec(3, 1, SHORT),
    RequestSpec(2, 0, LONG),
)


def run_all(engine: StaticBatchEngine, requests: Sequence[RecordedRequest]) -> None:
    for one in requests:
        engine.submit(one.request)
    while engine.load().waiting:
        engine.step()


def test_batches_of_equal_options_have_the_answers_of_single_runs(llava: Lvlm) -> None:
    requests = make_requests(llava, *MIXED)
    engine = StaticBatchEngine(llava, rows=2)
    run_all(engine, requests)
    assert [one.generation for one in requests] == [answer_statically(llava, *one.resolve(llava)) for one in MIXED]
    assert all(len(one.events) == 2 and isinstance(one.events[0], TextPiece) for one in requests)
    assert engine.steps == 9 + 9 + 3 + 9  # two together, one before other options, one with these, and the last one
    assert engine.load().running == 0


def test_an_invalid_request_does_not_fail_its_batch(llava: Lvlm) -> None:
    requests = make_requests(llava, *MIXED)
    foreign = vector(replace(llava.spec, fingerprint="0" * 64), 1)
    invalid = RecordedRequest(llava, PROMPTS[2], foreign, LONG)
    run_all(StaticBatchEngine(llava), [requests[0], invalid, requests[1]])
    assert [type(event) for event in invalid.events] == [WrongModel]
    assert [one.generation for one in requests[:2]] == [
        answer_statically(llava, *one.resolve(llava)) for one in MIXED[:2]
    ]


@pytest.fixture
def one_slot(llava: Lvlm) -> Iterator[Lvlm]:
    lvlm = Lvlm(llava.model, llava.processor, model_id=llava.spec.model_id, slots=1)
    yield lvlm
    lvlm.injector.close()


def test_more_different_vectors_than_slots_are_answered_one_by_one(one_slot: Lvlm, llava: Lvlm) -> None:
    requests = make_requests(one_slot, *MIXED[:3])
    run_all(StaticBatchEngine(one_slot), requests)
    assert [one.generation for one in requests] == [answer_statically(llava, *one.resolve(llava)) for one in MIXED[:3]]


def test_cancelled_and_expired_requests_are_not_answered(llava: Lvlm) -> None:
    engine, (cancelled, expired, valid) = StaticBatchEngine(llava, waiting=3), make_requests(llava, *MIXED[:3])
    for one in (cancelled, expired, valid):
        engine.submit(one.request)
    with pytest.raises(Overloaded):
        engine.submit(make_requests(llava, MIXED[0])[0].request)
    engine.cancel(cancelled.request)
    expired.request.deadline = time.monotonic()
    engine.step()
    assert cancelled.events == []
    assert [type(event) for event in expired.events] == [TimedOut]
    assert valid.generation == answer_statically(llava, *MIXED[2].resolve(llava))
