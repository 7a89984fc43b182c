"""A worker in this process: concurrency, cancellation, deadlines and limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client import generate_latest

from tests.model.desk import PLAIN, Desk, Open, until
from tests.model.driving import Asked, solo
from tests.model.engine.test_inflight import static
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


def test_concurrent_callers_with_different_vectors_get_their_own_answers(open_desk: Open) -> None:
    desk = open_desk()
    asked = [Asked(number % 4, number % 4, Decoding(4 + number % 5), strength=0.4 + number % 2) for number in range(16)]

    async def together() -> list[Generation]:
        return await asyncio.gather(*(answer(desk.worker.generate(desk.call(one))) for one in asked))

    assert asyncio.run(together()) == [static(desk.lvlm, *one.given(desk.lvlm)) for one in asked]


def test_several_vectors_are_applied_as_their_weighted_sum(open_desk: Open) -> None:
    desk = open_desk()
    one, two = (samples.vector(desk.lvlm.spec, seed) for seed in (1, 2))
    call = desk.call(vectors=(desk.stored(one, 0.5), desk.stored(two, -1.0)))
    wanted = static(desk.lvlm, call.prompt, one * 0.5 + two * -1.0, call.decoding)
    assert asyncio.run(answer(desk.worker.generate(call))) == wanted
    assert wanted != static(desk.lvlm, call.prompt, one * 0.5, call.decoding)


def test_prepared_prompts_are_limited_in_memory(open_desk: Open) -> None:
    """A single request is always admitted, whatever its size; others are refused until memory is free."""
    desk = open_desk(max_prepared_bytes=1, start=False)

    async def scene() -> None:
        first = asyncio.create_task(answer(desk.worker.generate(desk.call())))
        await desk.waiting(1)
        with pytest.raises(Overloaded, match="Prepared prompts take"):
            await answer(desk.worker.generate(desk.call()))
        await stepped(desk, [first])
        second = asyncio.create_task(answer(desk.worker.generate(desk.call())))
        await desk.waiting(1)
        await stepped(desk, [second])

    asyncio.run(scene())


def test_a_request_over_the_limit_is_refused_before_preparation(open_desk: Open) -> None:
    desk = open_desk(max_requests=2, start=False)
    no_picture = desk.call(prompt=Prompt("what?", (b"no picture at all",)))

    async def scene() -> None:
        inside = [asyncio.create_task(answer(desk.worker.generate(desk.call()))) for _ in range(2)]
        await desk.waiting(2)
        assert desk.worker.status().room == 0
        with pytest.raises(Overloaded, match="2 requests"):
            await answer(desk.worker.generate(no_picture))
        await stepped(desk, inside)
        with pytest.raises(InvalidImage):
            await answer(desk.worker.generate(no_picture))
        assert desk.worker.status().room == 2

    asyncio.run(scene())


async def stepped(desk: Desk, tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Run the engine until the requests are done."""
    async with asyncio.timeout(20):
        while not all(task.done() for task in tasks):
            desk.engine.step()
            await asyncio.sleep(0)


def test_an_unknown_model_is_refused(open_desk: Open) -> None:
    desk = open_desk()
    with pytest.raises(ModelNotFound, match="nobody/knows"):
        asyncio.run(answer(desk.worker.generate(desk.call(model_id="nobody/knows"))))


def test_an_invalid_json_schema_is_refused_before_it_reaches_the_queue(open_desk: Open) -> None:
    desk = open_desk()
    decoding = Decoding(json_schema='{"properties": {"a": {"type": "colour"}}}')
    with pytest.raises(InvalidInput, match="/properties/a"):
        asyncio.run(answer(desk.worker.generate(desk.call(decoding=decoding))))
    assert desk.engine.load().waiting == 0


def test_a_slow_reader_does_not_delay_others(open_desk: Open) -> None:
    desk = open_desk()
    wanted, slow_one = solo(desk.lvlm, Asked(2, 2)), solo(desk.lvlm, Asked(0, 1, Decoding(40)))

    async def scene() -> None:
        slow = desk.worker.generate(desk.call(Asked(0, 1, Decoding(40))))
        first = await anext(slow)
        for _ in range(3):
            assert await answer(desk.worker.generate(desk.call(Asked(2, 2)))) == wanted
        await until(lambda: desk.worker.status().running == 0)  # its answer is ready and waits for it
        *pieces, whole = [first, *[event async for event in slow]]
        assert isinstance(whole, Generation)
        assert replace(whole, timings={}) == slow_one
        assert len(pieces) > 1

    asyncio.run(scene())


def test_closing_an_answer_frees_its_row_and_slot(open_desk: Open) -> None:
    desk = open_desk(start=False)

    async def scene() -> None:
        events = desk.worker.generate(desk.call(Asked(0, 1, LONG)))
        reading = asyncio.ensure_future(anext(events))
        await desk.waiting(1)
        await stepped(desk, [reading])
        assert (desk.worker.status().running, desk.lvlm.table.pinned_slots) == (1, 1)
        await events.aclose()
        desk.engine.step()
        assert (desk.worker.status().running, desk.worker.status().waiting) == (0, 0)
        assert desk.lvlm.table.pinned_slots == 0
        assert desk.worker.status().room == 80

    asyncio.run(scene())


def test_cancelling_a_waiting_request_frees_its_place(open_desk: Open) -> None:
    desk = open_desk(start=False)

    async def scene() -> None:
        task = asyncio.create_task(answer(desk.worker.generate(desk.call(Asked(0, 1, LONG)))))
        await desk.waiting(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        desk.engine.step()
        assert (desk.engine.load().waiting, desk.engine.load().running) == (0, 0)
        assert desk.worker.status().room == 80

    asyncio.run(scene())


def test_a_hanging_store_times_out_one_request_only(open_desk: Open) -> None:
    desk = open_desk()
    plain, steered = solo(desk.lvlm, PLAIN), solo(desk.lvlm, Asked(0, 1))
    desk.store.open.clear()

    async def scene() -> None:
        with pytest.raises(TimedOut, match="prepared"):
            await answer(desk.worker.generate(desk.call(Asked(0, 1), timeout_s=0.05)))
        assert desk.worker.status().room == 80
        assert await answer(desk.worker.generate(desk.call())) == plain
        desk.store.open.set()
        assert await answer(desk.worker.generate(desk.call(Asked(0, 1)))) == steered

    asyncio.run(scene())
    assert desk.store.asked == 1


def test_the_deadline_covers_the_whole_answer(open_desk: Open) -> None:
    desk = open_desk(start=False)

    async def scene() -> None:
        task = asyncio.create_task(answer(desk.worker.generate(desk.call(Asked(0, 1, LONG), timeout_s=0.2))))
        await desk.waiting(1)
        desk.engine.step()
        assert desk.worker.status().running == 1
        await asyncio.sleep(0.21)
        await stepped(desk, [task])
        assert isinstance(task.exception(), TimedOut)

    asyncio.run(scene())


def test_the_heartbeat_counts_running_and_waiting_requests(open_desk: Open) -> None:
    desk = open_desk(max_requests=10, start=False, rows=2)

    async def scene() -> None:
        tasks = [asyncio.create_task(answer(desk.worker.generate(desk.call(Asked(1, 0, LONG))))) for _ in range(3)]
        await desk.waiting(3)
        desk.store.open.clear()
        preparing = asyncio.create_task(answer(desk.worker.generate(desk.call(Asked(0, 1)))))
        await until(lambda: desk.store.asked == 1)
        desk.engine.step()
        status = desk.worker.status()
        assert (status.running, status.waiting, status.room) == (2, 2, 6)
        assert status.info == desk.worker.models()[0]
        desk.store.open.set()
        await stepped(desk, [*tasks, preparing])
        assert (desk.worker.status().running, desk.worker.status().waiting, desk.worker.status().room) == (0, 0, 10)

    asyncio.run(scene())


@pytest.mark.parametrize("strength", [1e39, -1e39, 1e300, float("inf"), float("nan")])
def test_a_strength_that_overflows_is_refused(open_desk: Open, strength: float) -> None:
    desk = open_desk()
    with pytest.raises(UnsupportedEdit):
        asyncio.run(answer(desk.worker.generate(desk.call(Asked(0, 1, strength=strength)))))


def test_a_lost_artifact_fails_only_its_own_request(open_desk: Open) -> None:
    desk = open_desk()
    lost = desk.call(vectors=(ArtifactAtStrength("v", "v/gone", "0" * 64),))

    async def scene() -> list[Generation | BaseException]:
        return await outcomes([answer(desk.worker.generate(one)) for one in (desk.call(Asked(2, 1)), lost)])

    fine, failed = asyncio.run(scene())
    assert fine == solo(desk.lvlm, Asked(2, 1))
    assert isinstance(failed, ArtifactLost)


def test_close_ends_every_request_with_an_error(open_desk: Open) -> None:
    desk = open_desk(rows=1)
    desk.store.open.clear()

    async def scene() -> list[Generation | BaseException]:
        plain, steered = desk.call(Asked(1, 0, LONG)), desk.call(Asked(0, 1))
        running = asyncio.create_task(answer(desk.worker.generate(plain)))
        await until(lambda: desk.engine.load().running == 1)
        waiting = asyncio.create_task(answer(desk.worker.generate(plain)))
        await desk.waiting(1)
        preparing = [
            asyncio.create_task(answer(desk.worker.generate(steered))) for _ in range(8)
        ]  # 4 of them at a time
        await until(lambda: desk.store.asked == 1)
        closing = asyncio.get_running_loop().run_in_executor(None, desk.worker.close)
        await until(lambda: desk.engine.load().room == 0)
        desk.store.open.set()
        await closing
        later = asyncio.create_task(answer(desk.worker.generate(plain)))
        return await outcomes([running, waiting, *preparing, later])

    ends = asyncio.run(scene())
    assert [type(end) for end in ends] == [WorkerUnavailable] * 11
    with pytest.raises(WorkerUnavailable):
        desk.worker.status()


def metric(desk: Desk, name: str, **labels: str) -> float | None:
    return desk.registry.get_sample_value(f"vlibrary_worker_{name}", labels)


def test_metrics_count_requests_and_cache_lookups(open_desk: Open) -> None:
    desk = open_desk()

    async def scene() -> list[Generation | BaseException]:
        steered, plain = desk.call(Asked(0, 1)), desk.call(Asked(1))
        lost = desk.call(vectors=(ArtifactAtStrength("v", "v/gone", "0" * 64),))
        ends = [(await outcomes([answer(desk.worker.generate(one))]))[0] for one in (steered, steered, plain, lost)]
        async with aclosing(desk.worker.generate(desk.call(Asked(1, 0, LONG)))) as events:
            await anext(events)
        return ends

    *answers, lost = asyncio.run(scene())
    assert isinstance(lost, VLibraryError)
    written = [one for one in answers if isinstance(one, Generation)]
    assert len(written) == 3
    ends = {(one.finish_reason, steered) for one, steered in zip(written, ("true", "true", "false"), strict=True)}
    assert sum(metric(desk, "requests_total", end=end, steered=steered) or 0 for end, steered in ends) == 3
    assert metric(desk, "requests_total", end="artifact-lost", steered="true") == 1
    assert metric(desk, "requests_total", end="cancelled", steered="false") == 1
    assert metric(desk, "prompt_tokens_total") == sum(one.prompt_tokens for one in written)
    assert metric(desk, "answer_tokens_total") == sum(one.completion_tokens for one in written)
    assert metric(desk, "first_token_seconds_count") == metric(desk, "queue_seconds_count") == 3
    assert metric(desk, "vector_load_seconds_count") == 1
    assert metric(desk, "vectors_on_host") == 1
    assert metric(desk, "waiting") == 0
    assert metric(desk, "image_features_total", outcome="miss") == 3  # the pictures of the one prompt that has some
    assert metric(desk, "image_features_total", outcome="hit") == 3
    desk.worker.embed(Query("which hue?"))
    assert metric(desk, "embeddings_total", outcome="miss") == metric(desk, "embedding_batches_total")
    text = generate_latest(desk.registry).decode()
    assert "vlibrary_worker_running " in text
    assert "vlibrary_worker_cache_columns" in text
