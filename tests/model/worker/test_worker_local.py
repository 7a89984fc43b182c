"""A worker in this process: concurrency, cancellation, deadlines and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import generate_latest

from tests.model.engine.test_inflight import answer_statically
from tests.model.engine_runs import RequestSpec, answer_alone
from tests.model.worker_setup import PLAIN, OpenWorker, WorkerSetup, wait_until
from tests.support import samples
from vlibrary.domain.errors import (
    ArtifactLost,
    InvalidImage,
    InvalidInput,
    ModelNotFound,
    Overloaded,
    TimedOut,
    UnsupportedEdit,
    VLibraryError,
    WorkerUnavailable,
)
from vlibrary.domain.query import Query
from vlibrary.domain.wire import ArtifactAtStrength, Decoding, Generation, Prompt, TextPiece

LONG = Decoding(max_new_tokens=300)
Events = AsyncGenerator[TextPiece | Generation]


async def answer(events: Events) -> Generation:
    async with aclosing(events):
        *pieces, whole = [event async for event in events]
    assert isinstance(whole, Generation)
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)) == whole.text
    return replace(whole, timings={})


async def outcomes(answers: Sequence[Awaitable[Generation]]) -> list[Generation | BaseException]:
    return list(await asyncio.gather(*answers, return_exceptions=True))


def test_concurrent_callers_with_different_vectors_get_their_own_answers(open_worker: OpenWorker) -> None:
    setup = open_worker()
    specs = [
        RequestSpec(number % 4, number % 4, Decoding(4 + number % 5), strength=0.4 + number % 2) for number in range(16)
    ]

    async def together() -> list[Generation]:
        return await asyncio.gather(*(answer(setup.worker.generate(setup.call(one))) for one in specs))

    assert asyncio.run(together()) == [answer_statically(setup.lvlm, *one.resolve(setup.lvlm)) for one in specs]


def test_several_vectors_are_applied_as_their_weighted_sum(open_worker: OpenWorker) -> None:
    setup = open_worker()
    one, two = (samples.vector(setup.lvlm.spec, seed) for seed in (1, 2))
    call = setup.call(vectors=(setup.store_vector(one, 0.5), setup.store_vector(two, -1.0)))
    expected = answer_statically(setup.lvlm, call.prompt, one * 0.5 + two * -1.0, call.decoding)
    assert asyncio.run(answer(setup.worker.generate(call))) == expected
    assert expected != answer_statically(setup.lvlm, call.prompt, one * 0.5, call.decoding)


def test_prepared_prompts_are_limited_in_memory(open_worker: OpenWorker) -> None:
    """A single request is always admitted, whatever its size; others are refused until memory is free."""
    setup = open_worker(max_prepared_bytes=1, start=False)

    async def scene() -> None:
        first = asyncio.create_task(answer(setup.worker.generate(setup.call())))
        await setup.wait_for_queue(1)
        with pytest.raises(Overloaded, match="Prepared prompts take"):
            await answer(setup.worker.generate(setup.call()))
        await step_until_done(setup, [first])
        second = asyncio.create_task(answer(setup.worker.generate(setup.call())))
        await setup.wait_for_queue(1)
        await step_until_done(setup, [second])

    asyncio.run(scene())


def test_a_request_over_the_limit_is_refused_before_preparation(open_worker: OpenWorker) -> None:
    setup = open_worker(max_requests=2, start=False)
    no_picture = setup.call(prompt=Prompt("what?", (b"no picture at all",)))

    async def scene() -> None:
        inside = [asyncio.create_task(answer(setup.worker.generate(setup.call()))) for _ in range(2)]
        await setup.wait_for_queue(2)
        assert setup.worker.status().room == 0
        with pytest.raises(Overloaded, match="2 requests"):
            await answer(setup.worker.generate(no_picture))
        await step_until_done(setup, inside)
        with pytest.raises(InvalidImage):
            await answer(setup.worker.generate(no_picture))
        assert setup.worker.status().room == 2

    asyncio.run(scene())


async def step_until_done(setup: WorkerSetup, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Run the engine until the requests are done."""
    async with asyncio.timeout(20):
        while not all(task.done() for task in tasks):
            setup.engine.step()
            await asyncio.sleep(0)


def test_an_unknown_model_is_refused(open_worker: OpenWorker) -> None:
    setup = open_worker()
    with pytest.raises(ModelNotFound, match="unknown/model"):
        asyncio.run(answer(setup.worker.generate(setup.call(model_id="unknown/model"))))


def test_an_invalid_json_schema_is_refused_before_it_reaches_the_queue(open_worker: OpenWorker) -> None:
    setup = open_worker()
    decoding = Decoding(json_schema='{"properties": {"a": {"type": "colour"}}}')
    with pytest.raises(InvalidInput, match="/properties/a"):
        asyncio.run(answer(setup.worker.generate(setup.call(decoding=decoding))))
    assert setup.engine.load().waiting == 0


def test_a_slow_reader_does_not_delay_others(open_worker: OpenWorker) -> None:
    setup = open_worker()
    expected, slow_one = (
        answer_alone(setup.lvlm, RequestSpec(2, 2)),
        answer_alone(setup.lvlm, RequestSpec(0, 1, Decoding(40))),
    )

    async def scene() -> None:
        slow = setup.worker.generate(setup.call(RequestSpec(0, 1, Decoding(40))))
        first = await anext(slow)
        for _ in range(3):
            assert await answer(setup.worker.generate(setup.call(RequestSpec(2, 2)))) == expected
        await wait_until(lambda: setup.worker.status().running == 0)  # its answer is ready and waits for it
        *pieces, whole = [first, *[event async for event in slow]]
        assert isinstance(whole, Generation)
        assert replace(whole, timings={}) == slow_one
        assert len(pieces) > 1

    asyncio.run(scene())


def test_closing_an_answer_frees_its_row_and_slot(open_worker: OpenWorker) -> None:
    setup = open_worker(start=False)

    async def scene() -> None:
        events = setup.worker.generate(setup.call(RequestSpec(0, 1, LONG)))
        reading = asyncio.ensure_future(anext(events))
        await setup.wait_for_queue(1)
        await step_until_done(setup, [reading])
        assert (setup.worker.status().running, setup.lvlm.table.pinned_slots) == (1, 1)
        await events.aclose()
        setup.engine.step()
        assert (setup.worker.status().running, setup.worker.status().waiting) == (0, 0)
        assert setup.lvlm.table.pinned_slots == 0
        assert setup.worker.status().room == 80

    asyncio.run(scene())


def test_cancelling_a_waiting_request_frees_its_place(open_worker: OpenWorker) -> None:
    setup = open_worker(start=False)

    async def scene() -> None:
        task = asyncio.create_task(answer(setup.worker.generate(setup.call(RequestSpec(0, 1, LONG)))))
        await setup.wait_for_queue(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        setup.engine.step()
        assert (setup.engine.load().waiting, setup.engine.load().running) == (0, 0)
        assert setup.worker.status().room == 80

    asyncio.run(scene())


def test_a_hanging_store_times_out_one_request_only(open_worker: OpenWorker) -> None:
    setup = open_worker()
    plain, steered = answer_alone(setup.lvlm, PLAIN), answer_alone(setup.lvlm, RequestSpec(0, 1))
    setup.store.released.clear()

    async def scene() -> None:
        with pytest.raises(TimedOut, match="prepared"):
            await answer(setup.worker.generate(setup.call(RequestSpec(0, 1), timeout_s=0.05)))
        assert setup.worker.status().room == 80
        assert await answer(setup.worker.generate(setup.call())) == plain
        setup.store.released.set()
        assert await answer(setup.worker.generate(setup.call(RequestSpec(0, 1)))) == steered

    asyncio.run(scene())
    assert setup.store.reads == 1


def test_the_deadline_covers_the_whole_answer(open_worker: OpenWorker) -> None:
    setup = open_worker(start=False)

    async def scene() -> None:
        task = asyncio.create_task(answer(setup.worker.generate(setup.call(RequestSpec(0, 1, LONG), timeout_s=0.2))))
        await setup.wait_for_queue(1)
        setup.engine.step()
        assert setup.worker.status().running == 1
        await asyncio.sleep(0.21)
        await step_until_done(setup, [task])
        assert isinstance(task.exception(), TimedOut)

    asyncio.run(scene())


def test_the_heartbeat_counts_running_and_waiting_requests(open_worker: OpenWorker) -> None:
    setup = open_worker(max_requests=10, start=False, rows=2)

    async def scene() -> None:
        tasks = [
            asyncio.create_task(answer(setup.worker.generate(setup.call(RequestSpec(1, 0, LONG))))) for _ in range(3)
        ]
        await setup.wait_for_queue(3)
        setup.store.released.clear()
        preparing = asyncio.create_task(answer(setup.worker.generate(setup.call(RequestSpec(0, 1)))))
        await wait_until(lambda: setup.store.reads == 1)
        setup.engine.step()
        status = setup.worker.status()
        assert (status.running, status.waiting, status.room) == (2, 2, 6)
        assert status.info == setup.worker.models()[0]
        setup.store.released.set()
        await step_until_done(setup, [*tasks, preparing])
        assert (setup.worker.status().running, setup.worker.status().waiting, setup.worker.status().room) == (0, 0, 10)

    asyncio.run(scene())


@pytest.mark.parametrize("strength", [1e39, -1e39, 1e300, float("inf"), float("nan")])
def test_a_strength_that_overflows_is_refused(open_worker: OpenWorker, strength: float) -> None:
    setup = open_worker()
    with pytest.raises(UnsupportedEdit):
        asyncio.run(answer(setup.worker.generate(setup.call(RequestSpec(0, 1, strength=strength)))))


def test_a_lost_artifact_fails_only_its_own_request(open_worker: OpenWorker) -> None:
    setup = open_worker()
    lost = setup.call(vectors=(ArtifactAtStrength("v", "v/gone", "0" * 64),))

    async def scene() -> list[Generation | BaseException]:
        return await outcomes([answer(setup.worker.generate(one)) for one in (setup.call(RequestSpec(2, 1)), lost)])

    answered, failed = asyncio.run(scene())
    assert answered == answer_alone(setup.lvlm, RequestSpec(2, 1))
    assert isinstance(failed, ArtifactLost)


def test_close_ends_every_request_with_an_error(open_worker: OpenWorker) -> None:
    setup = open_worker(rows=1)
    setup.store.released.clear()

    async def scene() -> list[Generation | BaseException]:
        plain, steered = setup.call(RequestSpec(1, 0, LONG)), setup.call(RequestSpec(0, 1))
        running = asyncio.create_task(answer(setup.worker.generate(plain)))
        await wait_until(lambda: setup.engine.load().running == 1)
        waiting = asyncio.create_task(answer(setup.worker.generate(plain)))
        await setup.wait_for_queue(1)
        preparing = [
            asyncio.create_task(answer(setup.worker.generate(steered))) for _ in range(8)
        ]  # 4 of them at a time
        await wait_until(lambda: setup.store.reads == 1)
        closing = asyncio.get_running_loop().run_in_executor(None, setup.worker.close)
        await wait_until(lambda: setup.engine.load().room == 0)
        setup.store.released.set()
        await closing
        later = asyncio.create_task(answer(setup.worker.generate(plain)))
        return await outcomes([running, waiting, *preparing, later])

    ends = asyncio.run(scene())
    assert [type(end) for end in ends] == [WorkerUnavailable] * 11
    with pytest.raises(WorkerUnavailable):
        setup.worker.status()


def metric(setup: WorkerSetup, name: str, **labels: str) -> float | None:
    return setup.registry.get_sample_value(f"vlibrary_worker_{name}", labels)


def test_metrics_count_requests_and_cache_lookups(open_worker: OpenWorker) -> None:
    setup = open_worker()

    async def scene() -> list[Generation | BaseException]:
        steered, plain = setup.call(RequestSpec(0, 1)), setup.call(RequestSpec(1))
        lost = setup.call(vectors=(ArtifactAtStrength("v", "v/gone", "0" * 64),))
        ends = [(await outcomes([answer(setup.worker.generate(one))]))[0] for one in (steered, steered, plain, lost)]
        async with aclosing(setup.worker.generate(setup.call(RequestSpec(1, 0, LONG)))) as events:
            await anext(events)
        return ends

    *answers, lost = asyncio.run(scene())
    assert isinstance(lost, VLibraryError)
    written = [one for one in answers if isinstance(one, Generation)]
    assert len(written) == 3
    ends = {(one.finish_reason, steered) for one, steered in zip(written, ("true", "true", "false"), strict=True)}
    assert sum(metric(setup, "requests_total", end=end, steered=steered) or 0 for end, steered in ends) == 3
    assert metric(setup, "requests_total", end="artifact-lost", steered="true") == 1
    assert metric(setup, "requests_total", end="cancelled", steered="false") == 1
    assert metric(setup, "prompt_tokens_total") == sum(one.prompt_tokens for one in written)
    assert metric(setup, "answer_tokens_total") == sum(one.completion_tokens for one in written)
    assert metric(setup, "first_token_seconds_count") == metric(setup, "queue_seconds_count") == 3
    assert metric(setup, "vector_load_seconds_count") == 1
    assert metric(setup, "vectors_on_host") == 1
    assert metric(setup, "waiting") == 0
    assert metric(setup, "image_features_total", outcome="miss") == 3  # the pictures of the one prompt that has some
    assert metric(setup, "image_features_total", outcome="hit") == 3
    setup.worker.embed(Query("which hue?"))
    assert metric(setup, "embeddings_total", outcome="miss") == metric(setup, "embedding_batches_total")
    text = generate_latest(setup.registry).decode()
    assert "vlibrary_worker_running " in text
    assert "vlibrary_worker_cache_columns" in text
