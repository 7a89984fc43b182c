"""The running batch on bad days: whatever happens to one request, the others answer as alone."""

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
from tests.model.driving import Asked, Fault, breaking, collected, decoding, failing, finish, solo, started
from tests.model.engine.test_inflight import Collected, run, static
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
THREE = (Asked(0, 1, LONG), Asked(1, 0, LONG), Asked(2, 2, LONG))


@pytest.fixture(autouse=True)
def log() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged; rendering a failure with everything around it would take seconds."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def engine(llava: Lvlm) -> Iterator[InFlightEngine]:
    """One whose slots are all free in the end."""
    yield InFlightEngine(llava)
    assert llava.table.pinned_slots == 0


def answers(requests: list[Collected]) -> list[Generation]:
    return [one.generation for one in requests]


def error_of(one: Collected) -> VLibraryError:
    """The error that a request ended with, told once and last."""
    *before, last = one.events
    assert all(isinstance(event, TextPiece) for event in before)
    assert isinstance(last, VLibraryError)
    assert last.detail
    assert last.cure
    return last


# Cancelling and deadlines


def test_a_cancelled_job_in_the_queue_is_never_answered(llava: Lvlm) -> None:
    engine, requests = InFlightEngine(llava, Budget(rows=1)), collected(llava, *THREE)
    for one in requests:
        engine.submit(one.request)
    engine.step()
    engine.cancel(requests[1].request)
    finish(engine)
    assert requests[1].events == []
    assert answers([requests[0], requests[2]]) == [solo(llava, THREE[0]), solo(llava, THREE[2])]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_cancelled_row_leaves_at_the_next_step_and_says_nothing_more(
    engine: InFlightEngine, llava: Lvlm, place: int
) -> None:
    requests = collected(llava, *THREE)
    started(engine, requests)
    pinned, said = llava.table.pinned_slots, list(requests[place].events)
    assert said
    engine.cancel(requests[place].request)
    engine.step()
    assert requests[place].request not in engine.running
    assert llava.table.pinned_slots == pinned - (THREE[place].vector > 0)
    finish(engine)
    assert requests[place].events == said
    del requests[place]
    assert answers(requests) == [solo(llava, asked) for number, asked in enumerate(THREE) if number != place]


def test_a_job_that_is_cancelled_after_its_end_stays_answered(engine: InFlightEngine, llava: Lvlm) -> None:
    (one,) = collected(llava, THREE[0])
    run(engine, [one], steps_between=0)
    engine.cancel(one.request)
    engine.step()
    assert one.generation == solo(llava, THREE[0])


def test_the_deadline_ends_a_job_in_the_queue(llava: Lvlm) -> None:
    engine, requests = InFlightEngine(llava, Budget(rows=1)), collected(llava, *THREE[:2])
    requests[1].request.deadline = time.monotonic()
    run(engine, requests, steps_between=0)
    assert isinstance(error_of(requests[1]), TimedOut)
    assert len(requests[1].events) == 1
    assert requests[0].generation == solo(llava, THREE[0])


def test_the_deadline_ends_a_row_after_its_last_piece(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = collected(llava, *THREE)
    started(engine, requests)
    requests[0].request.deadline = time.monotonic()
    finish(engine)
    assert isinstance(error_of(requests[0]), TimedOut)
    assert len(requests[0].events) > 1
    assert answers(requests[1:]) == [solo(llava, asked) for asked in THREE[1:]]


def test_a_cancelled_job_is_not_told_of_its_deadline(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = collected(llava, *THREE[:2])
    started(engine, requests[:1])
    engine.submit(requests[1].request)
    said = list(requests[0].events)
    for one in requests:
        one.request.deadline = time.monotonic()
        engine.cancel(one.request)
    finish(engine)
    assert (requests[0].events, requests[1].events) == (said, [])


# What fits


def test_a_full_queue_refuses_and_has_room_again_later(llava: Lvlm) -> None:
    engine, requests = InFlightEngine(llava, Budget(rows=1, waiting=2)), collected(llava, *[Asked()] * 4)
    for one in requests[:2]:
        engine.submit(one.request)
    assert (engine.load().waiting, engine.load().room) == (2, 0)
    with pytest.raises(Overloaded, match="2 requests are already waiting") as refusal:
        engine.submit(requests[2].request)
    assert refusal.value.cure
    engine.step()
    assert (engine.load().running, engine.load().waiting, engine.load().room) == (1, 1, 1)
    engine.submit(requests[3].request)
    finish(engine)
    assert requests[2].events == []
    assert answers([requests[0], requests[1], requests[3]]) == [solo(llava, Asked())] * 3


def test_a_request_that_could_never_fit_is_refused_at_once(llava: Lvlm) -> None:
    (one,) = collected(llava, Asked())
    needed = one.request.max_tokens
    with pytest.raises(PromptTooLong, match=f"context length is {needed - 1} tokens.*requested {needed} tokens"):
        InFlightEngine(llava, Budget(columns=needed - 1)).submit(one.request)
    run(InFlightEngine(llava, Budget(columns=needed)), [one], steps_between=0)
    assert one.generation == solo(llava, Asked())


def test_the_cache_never_holds_more_than_its_budget(llava: Lvlm) -> None:
    asked = [*THREE, *THREE]
    requests = collected(llava, *asked)
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
    assert answers(requests) == [solo(llava, one) for one in asked]


def test_a_prefill_pass_keeps_to_its_budget_and_a_larger_prompt_goes_alone(llava: Lvlm) -> None:
    asked = [*THREE, *THREE]
    requests = collected(llava, *asked)
    lengths = [one.request.prompt.length for one in requests]
    budget = 2 * lengths[1]
    assert max(lengths) > budget
    passes = list[torch.Size]()

    def note(tokens: Tensor) -> None:
        if not decoding(tokens):
            passes.append(tokens.shape)

    with failing(llava, note):
        run(InFlightEngine(llava, Budget(prefill=budget)), requests, steps_between=0)
    assert all(one.numel() <= budget or one[0] == 1 for one in passes)
    assert answers(requests) == [solo(llava, one) for one in asked]


# Slots


@pytest.fixture(params=[1, 2])
def few_slots(llava: Lvlm, request: pytest.FixtureRequest) -> Iterator[Lvlm]:
    lvlm = Lvlm(llava.model, llava.processor, model_id=llava.spec.model_id, slots=request.param)
    yield lvlm
    assert lvlm.table.pinned_slots == 0
    lvlm.injector.close()


@pytest.mark.parametrize("steps_between", [0, 2])
def test_more_different_vectors_than_slots_wait_and_are_all_answered_rightly(
    few_slots: Lvlm, llava: Lvlm, steps_between: int
) -> None:
    asked = [
        Asked(number % 4, vector, Decoding(max_new_tokens=3 + number))
        for number, vector in enumerate((1, 2, 3, 1, 4, 5, 2))
    ]
    requests = collected(few_slots, *asked)
    run(InFlightEngine(few_slots), requests, steps_between=steps_between)
    assert answers(requests) == [static(llava, *one.given(llava)) for one in asked]


def test_a_vector_that_takes_over_a_slot_is_applied_from_its_first_token_on(few_slots: Lvlm, llava: Lvlm) -> None:
    """The slots of the running rows are then the same numbers as before, with another content."""
    engine = InFlightEngine(few_slots)
    for vector in (1, 2, 3, 4):
        asked = Asked(2, vector, LONG)
        requests = collected(few_slots, asked)
        run(engine, requests, steps_between=0)
        assert answers(requests) == [static(llava, *asked.given(llava))]


def test_a_newcomer_in_the_slot_of_a_row_that_has_just_left(few_slots: Lvlm, llava: Lvlm) -> None:
    asked = [Asked(1, 1, LONG), Asked(2, 2, Decoding(max_new_tokens=4)), Asked(2, 3, Decoding(max_new_tokens=8))]
    requests = collected(few_slots, *asked)
    run(InFlightEngine(few_slots), requests, steps_between=0)
    assert answers(requests) == [static(llava, *one.given(llava)) for one in asked]


def test_a_vector_that_cannot_be_applied_ends_its_own_request_only(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = collected(llava, *THREE)
    stranger = samples.vector(replace(llava.spec, fingerprint="0" * 64), 1)
    requests[1] = Collected(llava, THREE[1].given(llava)[0], stranger, LONG)
    run(engine, requests, steps_between=0)
    assert isinstance(error_of(requests[1]), WrongModel)
    assert answers([requests[0], requests[2]]) == [solo(llava, THREE[0]), solo(llava, THREE[2])]


# Failures of the model


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory, as the test asked")


def with_prompt(marked: Collected, error: Exception) -> Fault:
    """An error whenever this prompt is being prefilled."""
    own = marked.request.prompt.inputs["input_ids"][0]

    def fault(tokens: Tensor) -> Exception | None:
        seen = any(torch.equal(row[-len(own) :], own) for row in tokens)
        return error if seen and not decoding(tokens) else None

    return fault


def once(error: Exception) -> Fault:
    """An error at the first step of the running batch."""
    left = [error]
    return lambda tokens: left.pop() if decoding(tokens) and left else None


@pytest.mark.parametrize(
    ("error", "told"),
    [(out_of_memory(), OutOfMemory), (MemoryError(), OutOfMemory), (ZeroDivisionError(), Unavailable)],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_prompt_that_cannot_be_prefilled_does_not_take_its_group_along(
    engine: InFlightEngine, llava: Lvlm, place: int, error: Exception, told: type[VLibraryError]
) -> None:
    requests = collected(llava, *THREE)
    with failing(llava, with_prompt(requests[place], error)):
        run(engine, requests, steps_between=0)
    assert type(error_of(requests[place])) is told
    assert len(requests[place].events) == 1
    del requests[place]
    assert answers(requests) == [solo(llava, one) for number, one in enumerate(THREE) if number != place]


def test_memory_that_ends_in_a_step_costs_the_youngest_row_alone(engine: InFlightEngine, llava: Lvlm) -> None:
    first, *others = collected(llava, Asked(3, 3, Decoding(max_new_tokens=4)), *THREE)
    engine.submit(first.request)
    for one in others:
        engine.submit(one.request)
        engine.step()
    while first.request in engine.running:  # and the youngest takes its place
        engine.step()
    assert {one.request for one in others} == set(engine.running)
    with failing(llava, once(out_of_memory())):
        finish(engine)
    assert isinstance(error_of(others[2]), OutOfMemory)
    assert answers(others[:2]) == [solo(llava, one) for one in THREE[:2]]


@pytest.mark.parametrize("failing_block", [1, 6, 7, 9, 12, 14, 20, 25, 28, 30])
def test_wherever_memory_ends_it_costs_one_request_at_most(
    engine: InFlightEngine, llava: Lvlm, failing_block: int
) -> None:
    """While the cache grows for newcomers, of whom it can be asked again, or in mid-answer."""
    grown = Decoding(max_new_tokens=70)
    asked = [Asked(1, 1, grown), Asked(2, 0, grown), Asked(0, 2, LONG), Asked(3, 3, LONG)]
    requests = collected(llava, *asked)
    wanted = [solo(llava, one) for one in asked]
    with ScarceMemory(failing_block) as memory:
        run(engine, requests, steps_between=1)
    assert memory.ended
    lost = [one for one in requests if isinstance(one.events[-1], OutOfMemory)]
    assert len(lost) <= 1
    assert all(one in lost or one.generation == its for one, its in zip(requests, wanted, strict=True))


def test_memory_that_stays_away_ends_every_row_and_then_the_engine_serves_again(
    engine: InFlightEngine, llava: Lvlm
) -> None:
    requests = collected(llava, *THREE)
    started(engine, requests)
    with failing(llava, lambda _tokens: out_of_memory()):
        finish(engine)
    assert all(isinstance(error_of(one), OutOfMemory) for one in requests)
    requests = collected(llava, *THREE)
    run(engine, requests, steps_between=0)
    assert answers(requests) == [solo(llava, one) for one in THREE]


def test_an_unexpected_failure_in_a_step_is_told_to_all_and_the_engine_goes_on(
    engine: InFlightEngine, llava: Lvlm, log: list[MutableMapping[str, Any]]
) -> None:
    requests = collected(llava, *THREE)
    started(engine, requests)
    with failing(llava, once(ZeroDivisionError("as the test asked"))):
        finish(engine)
    for one in requests:
        assert type(error_of(one)) is Unavailable
        assert "ZeroDivisionError" in error_of(one).detail
    assert {entry["event"] for entry in log} == {"engine.failed"}
    again = collected(llava, *THREE)
    run(engine, again, steps_between=1)
    assert answers(again) == [solo(llava, one) for one in THREE]


# Numbers that overflow

TOO_STRONG = 1e38


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_vector_that_is_too_strong_ends_its_own_request_only(
    engine: InFlightEngine, llava: Lvlm, temperature: float
) -> None:
    strong = Asked(3, 3, Decoding(max_new_tokens=14, temperature=temperature), strength=TOO_STRONG)
    requests, later = collected(llava, THREE[0], strong, *THREE[1:]), collected(llava, *THREE)
    run(engine, [*requests, *later], steps_between=2)
    error = error_of(requests.pop(1))
    assert isinstance(error, UnsupportedEdit)
    assert "overflow" in error.detail
    assert answers([*requests, *later]) == [solo(llava, one) for one in THREE] * 2


@pytest.mark.parametrize(("vector", "told"), [(0, UnsupportedModel), (2, UnsupportedEdit)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_row_whose_numbers_break_in_mid_answer_leaves_nothing_behind(
    engine: InFlightEngine, llava: Lvlm, place: int, temperature: float, vector: int, told: type[VLibraryError]
) -> None:
    asked = list(THREE)
    asked[place] = Asked(2, vector, Decoding(max_new_tokens=14, temperature=temperature, ignore_eos=True))
    requests = collected(llava, *asked)
    started(engine, requests)
    row = engine.running.index(requests[place].request)
    with breaking(llava, row):
        engine.step()
    assert type(error_of(requests[place])) is told
    # One takes its place; then a longer prompt opens columns that were not in use.
    newcomers = collected(llava, THREE[1], Asked(0, 3, LONG), THREE[2])
    run(engine, newcomers, steps_between=1)
    del requests[place], asked[place]
    assert answers(requests) == [solo(llava, one) for one in asked]
    assert answers(newcomers) == [solo(llava, one) for one in (THREE[1], Asked(0, 3, LONG), THREE[2])]


def test_the_columns_of_a_row_that_broke_are_numbers_when_they_are_opened_again(
    engine: InFlightEngine, llava: Lvlm
) -> None:
    """They fall out of the window with all who were there, and a long newcomer opens them again."""
    long, short = Asked(0, 1, Decoding(60)), Asked(1, 0, Decoding(60))
    first, second, broken, last = collected(llava, long, short, short, short)
    started(engine, [first, second, broken, last], steps=1)
    engine.cancel(last.request)
    engine.step()
    with breaking(llava, row=2):
        engine.step()
    assert isinstance(error_of(broken), UnsupportedModel)
    engine.cancel(first.request)
    for _ in range(second.request.prompt.length + 2):
        engine.step()
    (bridge,) = collected(llava, short)
    engine.submit(bridge.request)
    engine.step()
    engine.cancel(second.request)
    newcomers = collected(llava, THREE[1], THREE[1], THREE[0])  # the second of them in the broken row's place
    run(engine, newcomers, steps_between=1)
    assert answers([bridge, *newcomers]) == [solo(llava, one) for one in (short, THREE[1], THREE[1], THREE[0])]


# Ends of answers


def test_a_stop_text_ends_the_answer_before_it(engine: InFlightEngine, llava: Lvlm) -> None:
    text = solo(llava, THREE[0]).text
    stop = text[3:6]
    stopping = THREE[0]._replace(decoding=Decoding(max_new_tokens=14, stop=("\x00", stop)))
    requests = collected(llava, stopping, *THREE)
    run(engine, requests, steps_between=1)
    stopped = requests[0].generation
    assert stopped.text == text[: text.index(stop)].rstrip()
    assert stopped.finish_reason == "stop"
    assert stopped.completion_tokens < 14
    assert stopped == static(llava, *stopping.given(llava))
    assert answers(requests[1:]) == [solo(llava, one) for one in THREE]


@pytest.mark.parametrize("most", [1, 2, 5])
def test_an_answer_has_no_more_tokens_than_asked_for(engine: InFlightEngine, llava: Lvlm, most: int) -> None:
    asked = THREE[0]._replace(decoding=Decoding(max_new_tokens=most))
    requests = collected(llava, asked, THREE[1])
    run(engine, requests, steps_between=0)
    assert (requests[0].generation.completion_tokens, requests[0].generation.finish_reason) == (most, "length")
    assert answers(requests) == [static(llava, *one.given(llava)) for one in (asked, THREE[1])]
    drawn = [event.tokens for event in requests[0].events if isinstance(event, TextPiece)]
    assert all(before < after for before, after in pairwise(drawn))


def test_every_row_draws_by_its_own_options_and_seed(engine: InFlightEngine, llava: Lvlm) -> None:
    options = [
        Decoding(12, temperature=2.0, seed=1),
        Decoding(9, temperature=2.0, seed=2),
        Decoding(12),
        Decoding(10, temperature=0.8, top_p=0.7, seed=1),
        Decoding(12, temperature=2.0, seed=1),
    ]
    asked = [Asked(1, 1, one) for one in options]
    requests = collected(llava, *asked)
    run(engine, requests, steps_between=1)
    assert answers(requests) == [solo(llava, one) for one in asked]
    assert len({one.generation.text for one in requests}) == 4


def test_times_are_told_in_order(engine: InFlightEngine, llava: Lvlm) -> None:
    requests = collected(llava, *THREE)
    run(engine, requests, steps_between=1)
    for one in requests:
        last = one.events[-1]
        assert isinstance(last, Generation)
        times = last.timings
        assert 0 <= times["queue_s"] <= times["queue_s"] + times["prefill_s"] <= times["total_s"]


def test_answers_longer_than_a_sliding_window(tmp_path: Path) -> None:
    lvlm = Lvlm.load(tiny.save(*tiny.FAMILIES["gemma3"](), tmp_path))
    window = lvlm.model.config.get_text_config().sliding_window
    asked = [
        Asked(number, number % 3, Decoding(max_new_tokens=length)) for number, length in enumerate((40, 30, 35, 25))
    ]
    requests = collected(lvlm, *asked)
    assert window < 25
    run(InFlightEngine(lvlm, Budget(rows=3)), requests, steps_between=7)
    assert answers(requests) == [static(lvlm, *one.given(lvlm)) for one in asked]


# The thread


def model_threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "model"}


def test_closing_ends_the_thread_and_everything_under_way(llava: Lvlm) -> None:
    before = model_threads()
    engine = InFlightEngine(llava, Budget(rows=1))
    endless = Asked(1, 1, Decoding(max_new_tokens=400))
    requests, cancelled = collected(llava, endless, endless), collected(llava, endless)
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
        engine.submit(collected(llava, Asked())[0].request)
    engine.close()


def test_the_thread_answers_many_callers_at_once(llava: Lvlm) -> None:
    asked = [THREE[number % 3] for number in range(12)]
    requests = collected(llava, *asked)
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
    assert answers(requests) == [solo(llava, one) for one in asked]
