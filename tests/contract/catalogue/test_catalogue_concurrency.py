"""The catalogue's contract under concurrent calls, on the reference model, SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.support.registrations import draft, register, upload
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import AliasTaken, InProgress, StaleRevision, StillAliased, VectorNotFound
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Alias, Amendment


def together(count: int, act: Callable[[int], object]) -> list[object]:
    """What `count` threads that start at the same moment return, or the errors that they raise."""
    start = threading.Barrier(count)

    def run(number: int) -> object:
        start.wait()
        try:
            return act(number)
        except Exception as error:  # noqa: BLE001  (the test looks at them)
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_concurrent_writers_of_one_name_get_gapless_versions(catalogue: Catalogue) -> None:
    records = together(64, lambda _: register(catalogue))
    assert sorted(record.version for record in records if isinstance(record, VectorRecord)) == list(range(1, 65))
    log = catalogue.change_log.read(after=0, limit=99)
    assert [entry.seq for entry in log] == list(range(1, 65))
    assert {entry.seq: entry.vector_id for entry in log} == {
        record.seq: record.id for record in records if isinstance(record, VectorRecord)
    }


def test_of_concurrent_equal_requests_exactly_one_publishes(catalogue: Catalogue) -> None:
    def register_once(_: int) -> str:
        new = upload("key")
        earlier = catalogue.registrations.reserve(new)
        return earlier.id if earlier else catalogue.registrations.publish(new, draft(new)).id

    answers = together(64, register_once)
    ids = {answer for answer in answers if isinstance(answer, str)}
    assert len(ids) == 1
    assert all(isinstance(answer, (str, InProgress)) for answer in answers)
    assert catalogue.change_log.position().seq == 1


def test_of_concurrent_deletions_exactly_one_succeeds(catalogue: Catalogue) -> None:
    record = register(catalogue)
    answers = together(8, lambda _: catalogue.vectors.delete(record.id))
    assert sorted(str(type(answer).__name__) for answer in answers) == ["VectorNotFound"] * 7 + ["int"]


def test_of_concurrent_creations_of_an_alias_exactly_one_succeeds(catalogue: Catalogue) -> None:
    records = [register(catalogue) for _ in range(4)]
    answers = together(
        64, lambda number: catalogue.aliases.set("colours", "production", records[number % 4].id, expected=0)
    )
    won = [answer for answer in answers if isinstance(answer, Alias)]
    assert won == [catalogue.aliases.get("colours", "production")]
    assert sum(isinstance(answer, AliasTaken) for answer in answers) == 63


def test_an_alias_moved_concurrently_is_never_lost(catalogue: Catalogue) -> None:
    records = [register(catalogue) for _ in range(2)]
    catalogue.aliases.set("colours", "production", records[0].id, expected=0)

    def move(number: int) -> int:
        moved = 0
        while moved < 4:
            seen = catalogue.aliases.get("colours", "production")
            try:
                catalogue.aliases.set("colours", "production", records[number % 2].id, expected=seen.revision)
            except StaleRevision:
                continue
            moved += 1
        return moved

    assert together(8, move) == [4] * 8
    moves = [entry for entry in catalogue.audit_log.read(after=0, limit=99) if entry.action == "alias.set"]
    assert len(moves) == 33
    # Each move started from what the one before it had set.
    assert [move.detail["before"] for move in moves[1:]] == [move.detail["vector_id"] for move in moves[:-1]]


def _act(acts: Sequence[Callable[[], object]], number: int) -> object:
    return acts[number]()


def test_a_vector_is_not_deleted_while_it_gets_an_alias(catalogue: Catalogue) -> None:
    for _ in range(8):
        record = register(catalogue)
        acts = (
            partial(catalogue.vectors.delete, record.id),
            partial(catalogue.aliases.set, "colours", "now", record.id, expected=0),
        )
        answers = together(2, partial(_act, acts))
        if isinstance(answers[1], Alias):
            assert isinstance(answers[0], StillAliased)
            catalogue.aliases.drop("colours", "now", expected=answers[1].revision)
        else:
            assert isinstance(answers[1], VectorNotFound)
            assert isinstance(answers[0], int)


def test_of_two_amendments_of_one_revision_one_is_refused(catalogue: Catalogue) -> None:
    record = register(catalogue)
    answers = together(
        2, lambda number: catalogue.vectors.update(record.id, Amendment(tags=(str(number),)), expected_revision=1)
    )
    assert sum(isinstance(answer, StaleRevision) for answer in answers) == 1
    assert catalogue.vectors.get(record.id).revision == 2


def test_a_concurrent_reader_never_sees_a_gap(catalogue: Catalogue) -> None:
    done = threading.Event()

    def act(number: int) -> object:
        if number:
            for _ in range(8):
                register(catalogue)
            done.set()
            return None
        seen: list[int] = []
        while not done.is_set() or len(seen) < catalogue.change_log.position().seq:
            seen += [entry.seq for entry in catalogue.change_log.read(after=len(seen), limit=3)]
        return seen

    seen = together(4, act)[0]
    assert seen == list(range(1, len(seen) + 1)) if isinstance(seen, list) else pytest.fail(str(seen))
