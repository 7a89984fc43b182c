"""The running batch under faults: what happens to one request does not change the answers of the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs
from torch import Tensor

from tests.model import tiny
from tests.model.engine.test_inflight import RecordedRequest, answer_statically, run
from tests.model.engine_runs import (
    Fault,
    RequestSpec,
    answer_alone,
    inject_errors,
    inject_nan,
    is_decode_step,
    make_requests,
    run_to_end,
    start_all,
)
from tests.support import samples
from tests.support.scarce_memory import ScarceMemory
from vlibrary.domain.errors import (
    OutOfMemory,
    Overloaded,
    PromptTooLong,
    TimedOut,
    Unavailable,
    UnsupportedEdit,
    UnsupportedModel,
    VLibraryError,
    WorkerUnavailable,
    WrongModel,
)
from vlibrary.domain.wire import Decoding, Generation, TextPiece
from vlibrary.engine.decoder import BatchDecoder
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.models.lvlm import Lvlm

LONG = Decoding(max_new_tokens=14)
THREE = (RequestSpec(0, 1, LONG), RequestSpec(1, 0, LONG), RequestSpec(2, 2, LONG))


@pytest.fixture(autouse=True)
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    """Capture the log, because rendering an error with its local variables would take seconds."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def engine(llava: Lvlm) -> Iterator[InFlightEngine]:
    """An engine; checks that every slot is free after the test."""
    yield InFlightEngine(llava)
    assert llava.table.pinned_slots == 0


def answers(requests: list[RecordedRequest]) -> list[Generation]:
    return [one.generation for one in requests]


def error_of(one: RecordedRequest) -> VLibraryError:
    """Return the error that ended the request; no event comes after it."""
    *before, last = one.events
    assert all(isinstance(event, TextPiece) for event in before)
    assert isinstance(last, VLibraryError)
    assert last.detail
    assert last.cure
    return last


# Cancelling and deadlines


def test_a_request_cancelled_in_the_queue_is_never_answered(llava: Lvlm) -> None:
    engine, requests = InFlightEngine(llava, Budget(rows=1)), make_requests(llava, *THREE)
    for one in requests:
        engine.submit(one.request)
    engine.step()
    engine.cancel(requests[1].request)
    run_to_end(engine)
    assert requests[1].events == []
    assert answers([requests[0], requests[2]]) == [answer_alone(llava, THREE[0]), answer_alone(llava, THREE[2])]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_cancelled_row_leaves_at_the_next_step_without_another_event(
    engine: InFlightEngine, llava: Lvlm, place: int
) -> None:
    requests = make_requests(llava, *THREE)
    start_all(engine, requests)
    pinned, events = llava.table.pinned_slots, list(requests[place].events)
    assert events
    engine.cancel(requests[place].request)
    engine.step()
    assert requests[place].request not in engine.running
    assert llava.table.pinned_slots == pinned - (THREE[place].vector > 0)
    run_to_end(engine)
    assert requests[place].events == events
    del requests[place]
    assert answers(requests) == [answer_alone(llava, spec) for number, spec in enumerate(THREE) if number != place]


def test_cancelling_after_the_end_keeps_the_answer(engine: InFlightEngine, llava: Lvlm) -> None:
    (one,) = make_requests(llava, THREE[0])
    run(engine, [one], steps_between=0)
    engine.cancel(one.request)
    engine.step()
    assert one.generation == answer_alone(llava, THREE[0])


def test_the_deadline_ends_a_request_in_the_queue(llava: Lvlm) -> None:
    engine, requests = InFlightEngine(llava, Budget(rows=1)), make_requests(llava, *THREE[:2])
    requests[1].request.deadline = time.monotonic()
    run(engine, requests, steps_between=0)
    assert isinstance(error_of(requests[1]), TimedOut)
    assert len(requests[1].events) == 1
    assert requests[0].generation == answer_alone(llava, THREE[0])


def test_the_deadline_ends_a_row_after_its_last_piece(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = make_requests(llava, *THREE)
    start_all(engine, requests)
    requests[0].request.deadline = time.monotonic()
    run_to_end(engine)
    assert isinstance(error_of(requests[0]), TimedOut)
    assert len(requests[0].events) > 1
    assert answers(requests[1:]) == [answer_alone(llava, spec) for spec in THREE[1:]]


def test_a_cancelled_request_gets_no_deadline_error(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = make_requests(llava, *THREE[:2])
    start_all(engine, requests[:1])
    engine.submit(requests[1].request)
    events = list(requests[0].events)
    for one in requests:
        one.request.deadline = time.monotonic()
        engine.cancel(one.request)
    run_to_end(engine)
    assert (requests[0].events, requests[1].events) == (events, [])


# What fits


def test_a_full_queue_refuses_requests_until_it_has_room(llava: Lvlm) -> None:
    engine, requests = InFlightEngine(llava, Budget(rows=1, waiting=2)), make_requests(llava, *[RequestSpec()] * 4)
    for one in requests[:2]:
        engine.submit(one.request)
    assert (engine.load().waiting, engine.load().room) == (2, 0)
    with pytest.raises(Overloaded, match="2 requests are already waiting") as refusal:
        engine.submit(requests[2].request)
    assert refusal.value.cure
    engine.step()
    assert (engine.load().running, engine.load().waiting, engine.load().room) == (1, 1, 1)
    engine.submit(requests[3].request)
    run_to_end(engine)
    assert requests[2].events == []
    assert answers([requests[0], requests[1], requests[3]]) == [answer_alone(llava, RequestSpec())] * 3


def test_a_request_larger_than_the_cache_is_refused_at_once(llava: Lvlm) -> None:
    (one,) = make_requests(llava, RequestSpec())
    needed = one.request.max_tokens
    with pytest.raises(PromptTooLong, match=f"context length is {needed - 1} tokens.*requested {needed} tokens"):
        InFlightEngine(llava, Budget(columns=needed - 1)).submit(one.request)
    run(InFlightEngine(llava, Budget(columns=needed)), [one], steps_between=0)
    assert one.generation == answer_alone(llava, RequestSpec())


def test_the_cache_never_holds_more_than_its_budget(llava: Lvlm) -> None:
    specs = [*THREE, *THREE]
    requests = make_requests(llava, *specs)
    columns = 2 * max(one.request.max_tokens for one in requests)
    engine = InFlightEngine(llava, Budget(columns=columns))
    assert isinstance(engine.decoder, BatchDecoder)
    for one in requests:
        engine.submit(one.request)
    most = 0
    while engine.load().running or engine.load().waiting:
        engine.step()
        most = max(most, engine.load().running)
        assert engine.decoder.columns <= columns
    assert most == 2
    assert answers(requests) == [answer_alone(llava, one) for one in specs]


def test_a_prefill_stays_within_its_budget_except_for_one_larger_prompt(llava: Lvlm) -> None:
    specs = [*THREE, *THREE]
    requests = make_requests(llava, *specs)
    lengths = [one.request.prompt.length for one in requests]
    budget = 2 * lengths[1]
    assert max(lengths) > budget
    passes = list[torch.Size]()

    def note(tokens: Tensor) -> None:
        if not is_decode_step(tokens):
            passes.append(tokens.shape)

    with inject_errors(llava, note):
        run(InFlightEngine(llava, Budget(prefill=budget)), requests, steps_between=0)
    assert all(one.numel() <= budget or one[0] == 1 for one in passes)
    assert answers(requests) == [answer_alone(llava, one) for one in specs]


# Slots


@pytest.fixture(params=[1, 2])
def few_slots(llava: Lvlm, request: pytest.FixtureRequest) -> Iterator[Lvlm]:
    lvlm = Lvlm(llava.model, llava.processor, model_id=llava.spec.model_id, slots=request.param)
    yield lvlm
    assert lvlm.table.pinned_slots == 0
    lvlm.injector.close()


@pytest.mark.parametrize("steps_between", [0, 2])
def test_more_vectors_than_slots_wait_and_are_all_applied(few_slots: Lvlm, llava: Lvlm, steps_between: int) -> None:
    specs = [
        RequestSpec(number % 4, vector, Decoding(max_new_tokens=3 + number))
        for number, vector in enumerate((1, 2, 3, 1, 4, 5, 2))
    ]
    requests = make_requests(few_slots, *specs)
    run(InFlightEngine(few_slots), requests, steps_between=steps_between)
    assert answers(requests) == [answer_statically(llava, *one.resolve(llava)) for one in specs]


def test_a_vector_in_a_reused_slot_is_applied_from_the_first_token(few_slots: Lvlm, llava: Lvlm) -> None:
    """The slot numbers of the running rows stay the same while the contents change."""
    engine = InFlightEngine(few_slots)
    for vector in (1, 2, 3, 4):
        spec = RequestSpec(2, vector, LONG)
        requests = make_requests(few_slots, spec)
        run(engine, requests, steps_between=0)
        assert answers(requests) == [answer_statically(llava, *spec.resolve(llava))]


def test_a_new_request_can_take_the_slot_of_a_row_that_just_left(few_slots: Lvlm, llava: Lvlm) -> None:
    specs = [
        RequestSpec(1, 1, LONG),
        RequestSpec(2, 2, Decoding(max_new_tokens=4)),
        RequestSpec(2, 3, Decoding(max_new_tokens=8)),
    ]
    requests = make_requests(few_slots, *specs)
    run(InFlightEngine(few_slots), requests, steps_between=0)
    assert answers(requests) == [answer_statically(llava, *one.resolve(llava)) for one in specs]


def test_a_vector_that_cannot_be_applied_fails_only_its_request(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = make_requests(llava, *THREE)
    other_model = samples.vector(replace(llava.spec, fingerprint="0" * 64), 1)
    requests[1] = RecordedRequest(llava, THREE[1].resolve(llava)[0], other_model, LONG)
    run(engine, requests, steps_between=0)
    assert isinstance(error_of(requests[1]), WrongModel)
    assert answers([requests[0], requests[2]]) == [answer_alone(llava, THREE[0]), answer_alone(llava, THREE[2])]


# Failures of the model


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory, injected by the test")


def with_prompt(marked: RecordedRequest, error: Exception) -> Fault:
    """Return a fault that raises the error whenever this prompt is prefilled."""
    own = marked.request.prompt.inputs["input_ids"][0]

    def fault(tokens: Tensor) -> Exception | None:
        seen = any(torch.equal(row[-len(own) :], own) for row in tokens)
        return error if seen and not is_decode_step(tokens) else None

    return fault


def once(error: Exception) -> Fault:
    """Return a fault that raises the error at the first step of the running batch."""
    left = [error]
    return lambda tokens: left.pop() if is_decode_step(tokens) and left else None


@pytest.mark.parametrize(
    ("error", "expected_error"),
    [(out_of_memory(), OutOfMemory), (MemoryError(), OutOfMemory), (ZeroDivisionError(), Unavailable)],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_prompt_that_fails_in_prefill_does_not_fail_the_others(
    engine: InFlightEngine, llava: Lvlm, place: int, error: Exception, expected_error: type[VLibraryError]
) -> None:
    requests = make_requests(llava, *THREE)
    with inject_errors(llava, with_prompt(requests[place], error)):
        run(engine, requests, steps_between=0)
    assert type(error_of(requests[place])) is expected_error
    assert len(requests[place].events) == 1
    del requests[place]
    assert answers(requests) == [answer_alone(llava, one) for number, one in enumerate(THREE) if number != place]


def test_running_out_of_memory_in_a_step_ends_only_the_newest_row(engine: InFlightEngine, llava: Lvlm) -> None:
    first, *others = make_requests(llava, RequestSpec(3, 3, Decoding(max_new_tokens=4)), *THREE)
    engine.submit(first.request)
    for one in others:
        engine.submit(one.request)
        engine.step()
    while first.request in engine.running:  # then the newest row takes its place
        engine.step()
    assert {one.request for one in others} == set(engine.running)
    with inject_errors(llava, once(out_of_memory())):
        run_to_end(engine)
    assert isinstance(error_of(others[2]), OutOfMemory)
    assert answers(others[:2]) == [answer_alone(llava, one) for one in THREE[:2]]


@pytest.mark.parametrize("failing_block", [1, 6, 7, 9, 12, 14, 20, 25, 28, 30])
def test_running_out_of_memory_anywhere_ends_at_most_one_request(
    engine: InFlightEngine, llava: Lvlm, failing_block: int
) -> None:
    """While the cache grows for new requests, which can be retried, or during an answer."""
    grown = Decoding(max_new_tokens=70)
    specs = [RequestSpec(1, 1, grown), RequestSpec(2, 0, grown), RequestSpec(0, 2, LONG), RequestSpec(3, 3, LONG)]
    requests = make_requests(llava, *specs)
    expected = [answer_alone(llava, one) for one in specs]
    with ScarceMemory(failing_block) as memory:
        run(engine, requests, steps_between=1)
    assert memory.ended
    failed = [one for one in requests if isinstance(one.events[-1], OutOfMemory)]
    assert len(failed) <= 1
    assert all(one in failed or one.generation == answer for one, answer in zip(requests, expected, strict=True))


def test_the_engine_recovers_after_all_rows_ran_out_of_memory(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = make_requests(llava, *THREE)
    start_all(engine, requests)
    with inject_errors(llava, lambda _tokens: out_of_memory()):
        run_to_end(engine)
    assert all(isinstance(error_of(one), OutOfMemory) for one in requests)
    requests = make_requests(llava, *THREE)
    run(engine, requests, steps_between=0)
    assert answers(requests) == [answer_alone(llava, one) for one in THREE]


def test_an_unexpected_error_in_a_step_ends_all_rows_but_not_the_engine(
    engine: InFlightEngine, llava: Lvlm, log: list[MutableMapping[str, Any]]
) -> None:
    requests = make_requests(llava, *THREE)
    start_all(engine, requests)
    with inject_errors(llava, once(ZeroDivisionError("injected by the test"))):
        run_to_end(engine)
    for one in requests:
        assert type(error_of(one)) is Unavailable
        assert "ZeroDivisionError" in error_of(one).detail
    assert {entry["event"] for entry in log} == {"engine.failed"}
    again = make_requests(llava, *THREE)
    run(engine, again, steps_between=1)
    assert answers(again) == [answer_alone(llava, one) for one in THREE]


# Numbers that overflow

TOO_STRONG = 1e38


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_vector_that_overflows_fails_only_its_request(
    engine: InFlightEngine, llava: Lvlm, temperature: float
) -> None:
    strong = RequestSpec(3, 3, Decoding(max_new_tokens=14, temperature=temperature), strength=TOO_STRONG)
    requests, later = make_requests(llava, THREE[0], strong, *THREE[1:]), make_requests(llava, *THREE)
    run(engine, [*requests, *later], steps_between=2)
    error = error_of(requests.pop(1))
    assert isinstance(error, UnsupportedEdit)
    assert "overflow" in error.detail
    assert answers([*requests, *later]) == [answer_alone(llava, one) for one in THREE] * 2


@pytest.mark.parametrize(("vector", "expected_error"), [(0, UnsupportedModel), (2, UnsupportedEdit)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_that_becomes_nan_leaves_no_trace(
    engine: InFlightEngine,
    llava: Lvlm,
    place: int,
    temperature: float,
    vector: int,
    expected_error: type[VLibraryError],
) -> None:
    specs = list(THREE)
    specs[place] = RequestSpec(2, vector, Decoding(max_new_tokens=14, temperature=temperature, ignore_eos=True))
    requests = make_requests(llava, *specs)
    start_all(engine, requests)
    row = engine.running.index(requests[place].request)
    with inject_nan(llava, row):
        engine.step()
    assert type(error_of(requests[place])) is expected_error
    # One takes its place; then a longer prompt makes unused columns part of the window.
    new_requests = make_requests(llava, THREE[1], RequestSpec(0, 3, LONG), THREE[2])
    run(engine, new_requests, steps_between=1)
    del requests[place], specs[place]
    assert answers(requests) == [answer_alone(llava, one) for one in specs]
    assert answers(new_requests) == [answer_alone(llava, one) for one in (THREE[1], RequestSpec(0, 3, LONG), THREE[2])]


def test_cache_columns_of_a_nan_row_are_clean_when_reused(engine: InFlightEngine, llava: Lvlm) -> None:
    """They leave the window with all rows of that time; then a long prompt makes them part of it again."""
    long, short = RequestSpec(0, 1, Decoding(60)), RequestSpec(1, 0, Decoding(60))
    first, second, nan_row, last = make_requests(llava, long, short, short, short)
    start_all(engine, [first, second, nan_row, last], steps=1)
    engine.cancel(last.request)
    engine.step()
    with inject_nan(llava, row=2):
        engine.step()
    assert isinstance(error_of(nan_row), UnsupportedModel)
    engine.cancel(first.request)
    for _ in range(second.request.prompt.length + 2):
        engine.step()
    (bridge,) = make_requests(llava, short)
    engine.submit(bridge.request)
    engine.step()
    engine.cancel(second.request)
    new_requests = make_requests(llava, THREE[1], THREE[1], THREE[0])  # the second one in the NaN row's place
    run(engine, new_requests, steps_between=1)
    assert answers([bridge, *new_requests]) == [
        answer_alone(llava, one) for one in (short, THREE[1], THREE[1], THREE[0])
    ]


# Ends of answers


def test_an_answer_ends_before_a_stop_string(engine: InFlightEngine, llava: Lvlm) -> None:
    text = answer_alone(llava, THREE[0]).text
    stop = text[3:6]
    stopping = THREE[0]._replace(decoding=Decoding(max_new_tokens=14, stop=("\x00", stop)))
    requests = make_requests(llava, stopping, *THREE)
    run(engine, requests, steps_between=1)
    stopped = requests[0].generation
    assert stopped.text == text[: text.index(stop)].rstrip()
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < 14
    assert stopped == answer_statically(llava, *stopping.resolve(llava))
    assert answers(requests[1:]) == [answer_alone(llava, one) for one in THREE]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_answer_has_at_most_max_new_tokens(engine: InFlightEngine, llava: Lvlm, most: int) -> None:
    spec = THREE[0]._replace(decoding=Decoding(max_new_tokens=most))
    requests = make_requests(llava, spec, THREE[1])
    run(engine, requests, steps_between=0)
    assert (requests[0].generation.completion_tokens, requests[0].generation.finish_reason) == (most, "length")
    assert answers(requests) == [answer_statically(llava, *one.resolve(llava)) for one in (spec, THREE[1])]
    drawn = [event.tokens for event in requests[0].events if isinstance(event, TextPiece)]
    assert all(before < after for before, after in pairwise(drawn))


def test_every_row_samples_with_its_own_options_and_seed(engine: InFlightEngine, llava: Lvlm) -> None:
    options = [
        Decoding(12, temperature=2.0, seed=1),
        Decoding(9, temperature=2.0, seed=2),
        Decoding(12),
        Decoding(10, temperature=0.8, top_p=0.7, seed=1),
        Decoding(12, temperature=2.0, seed=1),
    ]
    specs = [RequestSpec(1, 1, one) for one in options]
    requests = make_requests(llava, *specs)
    run(engine, requests, steps_between=1)
    assert answers(requests) == [answer_alone(llava, one) for one in specs]
    assert len({one.generation.text for one in requests}) == 4


def test_timings_are_in_order(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = make_requests(llava, *THREE)
    run(engine, requests, steps_between=1)
    for one in requests:
        last = one.events[-1]
        assert isinstance(last, Generation)
        times = last.timings
        assert 0 <= times["queue_s"] <= times["queue_s"] + times["prefill_s"] <= times["total_s"]


def test_answers_can_exceed_a_sliding_window(tmp_path: Path) -> None:
    lvlm = Lvlm.load(tiny.save(*tiny.FAMILIES["gemma3"](), tmp_path))
    window = lvlm.model.config.get_text_config().sliding_window
    specs = [
        RequestSpec(number, number % 3, Decoding(max_new_tokens=length))
        for number, length in enumerate((40, 30, 35, 25))
    ]
    requests = make_requests(lvlm, *specs)
    assert window < 25
    run(InFlightEngine(lvlm, Budget(rows=3)), requests, steps_between=7)
    assert answers(requests) == [answer_statically(lvlm, *one.resolve(lvlm)) for one in specs]


# The thread


def model_threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "model"}


def test_closing_ends_the_thread_and_all_requests(llava: Lvlm) -> None:
    before = model_threads()
    engine = InFlightEngine(llava, Budget(rows=1))
    endless = RequestSpec(1, 1, Decoding(max_new_tokens=400))
    requests, cancelled = make_requests(llava, endless, endless), make_requests(llava, endless)
    for one in (*requests, *cancelled):
        engine.submit(one.request)
    engine.step()
    engine.start()
    cancelled[0].request.cancelled = True
    engine.close()
    assert model_threads() == before
    assert all(isinstance(error_of(one), WorkerUnavailable) for one in requests)
    assert cancelled[0].events == []
    assert (engine.load().running, engine.load().waiting, engine.load().room) == (0, 0, 0)
    assert llava.table.pinned_slots == 0
    with pytest.raises(WorkerUnavailable):
        engine.submit(make_requests(llava, RequestSpec())[0].request)
    engine.close()


def test_the_thread_answers_concurrent_callers(llava: Lvlm) -> None:
    specs = [THREE[number % 3] for number in range(12)]
    requests = make_requests(llava, *specs)
    engine = InFlightEngine(llava, Budget(rows=4)).start()
    try:
        callers = [threading.Thread(target=engine.submit, args=[one.request]) for one in requests]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        deadline = time.monotonic() + 20
        while (
            not all(one.events and isinstance(one.events[-1], Generation) for one in requests)
            and time.monotonic() < deadline
        ):
            time.sleep(0.002)
    finally:
        engine.close()
    assert answers(requests) == [answer_alone(llava, one) for one in specs]
