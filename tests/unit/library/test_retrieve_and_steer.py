"""Retrieval and steering over in-memory stores."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support.library import memory_library, register
from tests.support.memory.catalogue import MemoryVectors, memory_catalogue
from tests.support.memory.index import MemoryIndex
from tests.support.memory.worker import EMBEDDER, TEXT_LIMIT
from tests.support.scripted_worker import ScriptedWorker, Then
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import InvalidInput, InvalidQuery, ModelNotFound, VectorNotFound, WorkerLost
from vlibrary.domain.filters import Filter
from vlibrary.domain.matching.decision import DEFAULT_THRESHOLD, Match
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import Query
from vlibrary.domain.steering import SteeringReason
from vlibrary.domain.wire import Decoding, Demonstration, Prompt, TextPiece
from vlibrary.library.library import Library
from vlibrary.library.retrieve import retrieve
from vlibrary.library.steer import (
    Answer,
    Auto,
    ByModelName,
    Listed,
    Off,
    Plan,
    Steering,
    VectorAtStrength,
    answer,
    plan,
    stream,
)

COLOUR = "Which colour is the shape?"
SHAPE = "Name the outline, please."


def find(library: Library, text: str, k: int = 5, model_id: str | None = None) -> list[Match]:
    return retrieve(Query(text=text), library, k=k, model_id=model_id).matches


def ask(library: Library, text: str, steering: Steering) -> Answer:
    return asyncio.run(answer(planned(library, text, steering), library.worker))


def reason_code(answer: Answer) -> SteeringReason | None:
    return None if answer.reason is None else answer.reason.code


def planned(library: Library, text: str, steering: Steering) -> Plan:
    return plan(
        Prompt(text),
        steering,
        Decoding(),
        model=None,
        library=library,
    )


def test_a_text_beyond_what_the_embedder_reads_is_reported() -> None:
    library = memory_library()
    register(library, "colour", COLOUR)
    short, long = planned(library, COLOUR, Auto()), planned(library, "other words " * TEXT_LIMIT, Auto())
    assert short.query is not None
    assert long.query is not None
    assert (short.query.text_cut, long.query.text_cut) == (False, True)
    assert long.reason is not None
    assert long.reason.code == SteeringReason.BELOW_THRESHOLD
    assert f"only the first {TEXT_LIMIT} of its {2 * TEXT_LIMIT} tokens were compared" in long.reason.detail
    answered = ask(library, "other words " * TEXT_LIMIT, Auto())
    assert answered.query is not None
    assert answered.query.text_cut
    for steering in (Off(), Listed((VectorAtStrength("colour"),))):
        assert planned(library, COLOUR, steering).query is None


def test_a_newer_version_is_found_instead_of_an_older_one() -> None:
    library = memory_library()
    register(library, "colour", COLOUR)
    newer = register(library, "colour", COLOUR, seed=1)
    assert [match.record.version for match in find(library, COLOUR)] == [2, 1]
    assert ask(library, COLOUR, Auto()).applied[0].record.id == newer.id


def test_the_best_match_comes_first_and_threshold_decides_acceptance() -> None:
    library = memory_library()
    colour = register(library, "colour", COLOUR)
    shape = register(library, "shape", SHAPE, seed=1)
    found = find(library, COLOUR)
    assert [match.record.id for match in found] == [colour.id, shape.id]
    assert found[0].score == pytest.approx(1.0, abs=1e-6)
    assert [match.accepted for match in found] == [True, False]
    assert found[1].threshold == DEFAULT_THRESHOLD


def test_a_deleted_vector_is_not_found_any_more() -> None:
    library = memory_library()
    colour = register(library, "colour", COLOUR)
    library.catalogue.vectors.delete(colour.id)
    assert find(library, COLOUR) == []
    with pytest.raises(VectorNotFound):
        library.catalogue.vectors.delete(colour.id)


class DeletingVectors(MemoryVectors):
    """Deletes the best hit, once, between the search and the read of its record."""

    deleted = False

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        if not self.deleted:
            self.deleted = True
            self.delete(vector_ids[0])
        return super().get_many(vector_ids)


def test_a_hit_deleted_during_the_search_is_replaced_by_the_next_best() -> None:
    library = replace(memory_library(), catalogue=memory_catalogue(vectors=DeletingVectors))
    colour, again = (register(library, "colour", COLOUR, seed=seed) for seed in range(2))
    (match,) = find(library, COLOUR, k=1)
    gone = {colour.id, again.id} - {match.record.id}
    assert [one.id for one in library.catalogue.vectors.page(Filter(status=Status.DELETED), limit=9).records] == list(
        gone
    )


def test_a_search_retries_if_the_index_is_reset_during_it() -> None:
    def begin_to_rebuild(hits: list[str]) -> None:
        library.catalogue.change_log.renew_epoch()
        library.index.reset(library.catalogue.change_log.position().epoch, replacing=library.index.position)

    class Emptied(MemoryIndex):
        """Reset once, just before it is searched."""

        def search(self, *args: Any, **kwargs: Any) -> list[Hit]:
            while acts:
                acts.pop()([])
            return super().search(*args, **kwargs)

    library = replace(memory_library(), index=Emptied(EMBEDDER))
    acts: list[Callable[[list[str]], None]] = []
    colour = register(library, "colour", COLOUR)
    acts.append(begin_to_rebuild)
    assert [match.record.id for match in find(library, COLOUR)] == [colour.id]


def test_the_index_applies_writes_of_another_replica() -> None:
    writer = memory_library()
    reader_index = memory_library().index
    colour = register(writer, "colour", COLOUR)
    found = retrieve(Query(text=COLOUR), replace(writer, index=reader_index), k=1, model_id=None).matches
    assert [match.record.id for match in found] == [colour.id]


@pytest.mark.parametrize("k", [0, -1, 101])
def test_k_out_of_range_is_refused(k: int) -> None:
    with pytest.raises(InvalidInput, match="1 to 100"):
        find(memory_library(), COLOUR, k=k)


def test_an_unknown_model_is_named_in_the_error() -> None:
    with pytest.raises(ModelNotFound, match="memory/echo"):
        find(memory_library(), COLOUR, model_id="gpt-0")


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_query_is_refused(text: str) -> None:
    with pytest.raises(InvalidQuery):
        Query(text=text)


def test_auto_applies_the_match_and_names_it() -> None:
    library = memory_library()
    colour = register(library, "colour", COLOUR)
    answer = ask(library, COLOUR, Auto(strength=0.5))
    (applied,) = answer.applied
    assert (applied.record.id, applied.strength) == (colour.id, 0.5)
    assert applied.score is not None
    assert answer.generation.text == f"{COLOUR} + 0.5·{colour.id}"
    assert answer.reason is None


def test_auto_gives_the_reason_if_nothing_was_applied() -> None:
    library = memory_library()
    assert reason_code(ask(library, COLOUR, Auto())) == SteeringReason.NO_MATCH
    register(library, "colour", COLOUR)
    answer = ask(library, "zzz qqq 123", Auto())
    assert answer.applied == ()
    assert reason_code(answer) == SteeringReason.BELOW_THRESHOLD
    assert answer.generation.text == "zzz qqq 123"


def test_auto_searches_for_a_separate_query() -> None:
    library = memory_library()
    colour = register(library, "colour", COLOUR)
    prompt = f"{SHAPE * 9} {COLOUR}"
    assert ask(library, prompt, Auto()).applied == ()
    assert [one.record.id for one in ask(library, prompt, Auto(query=Query(text=COLOUR))).applied] == [colour.id]


def test_a_streamed_answer_is_its_pieces_then_the_whole() -> None:
    library = memory_library()
    steered = planned(library, COLOUR, Auto(query=Query(text=COLOUR)))

    async def events() -> list[TextPiece | Answer]:
        return [event async for event in stream(steered, library.worker)]

    *pieces, whole = asyncio.run(events())
    assert isinstance(whole, Answer)
    alone = ask(library, COLOUR, Auto())
    assert (whole.applied, whole.generation.text) == (alone.applied, alone.generation.text)
    assert "".join(piece.text for piece in pieces if isinstance(piece, TextPiece)) == whole.generation.text == COLOUR


def test_an_answer_without_its_last_event_is_an_error() -> None:
    library = memory_library(worker=ScriptedWorker(["a", "b"], Then.VANISH))
    with pytest.raises(WorkerLost):
        ask(library, COLOUR, Off())


def test_closing_a_stream_frees_the_worker() -> None:
    worker = ScriptedWorker(["a"], Then.WAIT)
    steered = planned(memory_library(worker=worker), COLOUR, Off())

    async def leave() -> bool:
        events = stream(steered, worker)
        await anext(events)
        held = not worker.closed.is_set()
        await events.aclose()
        return held

    assert asyncio.run(leave())
    assert worker.closed.is_set()


def test_off_applies_nothing() -> None:
    library = memory_library()
    register(library, "colour", COLOUR)
    answer = ask(library, COLOUR, Off())
    assert answer.applied == ()
    assert reason_code(answer) == SteeringReason.OFF


def test_listed_vectors_are_applied_in_order() -> None:
    library = memory_library()
    first, second = register(library, "a", COLOUR), register(library, "b", SHAPE, seed=1)
    answer = ask(library, COLOUR, Listed((VectorAtStrength(second.id), VectorAtStrength(first.id, -2.0))))
    assert answer.generation.text == f"{COLOUR} + 1·{second.id} + -2·{first.id}"
    with pytest.raises(VectorNotFound):
        ask(library, COLOUR, Listed((VectorAtStrength("01ARZ3NDEKTSV4RRFFQ69G5FAV"),)))


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf])
def test_a_non_finite_strength_is_refused(strength: float) -> None:
    library = memory_library()
    colour = register(library, "colour", COLOUR)
    for steering in (Auto(strength), Listed((VectorAtStrength(colour.id, strength),))):
        with pytest.raises(InvalidInput, match="finite"):
            ask(library, COLOUR, steering)


def test_an_empty_list_of_vectors_applies_nothing_and_gives_the_reason() -> None:
    given = ask(memory_library(), COLOUR, Listed(()))
    assert given.applied == ()
    assert reason_code(given) == SteeringReason.NO_VECTORS


def test_auto_leaves_a_prompt_with_demonstrations_alone_unless_asked() -> None:
    library = memory_library()
    colour = register(library, "colour", COLOUR)
    prompt = Prompt(COLOUR, (), (Demonstration(COLOUR, (), "lorp"),))

    def plan_of(steering: Steering) -> Plan:
        return plan(prompt, steering, Decoding(), library, model=None)

    for steering in (Auto(), ByModelName()):
        left = plan_of(steering)
        assert (left.applied, left.reason and left.reason.code) == ((), SteeringReason.OWN_DEMONSTRATIONS)
    assert [one.record.id for one in plan_of(Auto(with_demonstrations=True)).applied] == [colour.id]
    assert [one.record.id for one in plan_of(Listed((VectorAtStrength(colour.id),))).applied] == [colour.id]
