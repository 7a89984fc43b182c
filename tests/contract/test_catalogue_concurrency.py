"""The Catalogue port's contract when many ask at once, on the in-memory twin and on SQLite."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.domain.card import VectorRecord
from service.domain.errors import InProgress
from service.domain.ports import Catalogue
from tests.support.registrations import draft, register, upload


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


def test_sixteen_writers_of_one_name_get_versions_and_numbers_without_gap(catalogue: Catalogue) -> None:
    records = together(16, lambda _: register(catalogue))
    assert sorted(record.version for record in records if isinstance(record, VectorRecord)) == list(range(1, 17))
    log = catalogue.changes(after=0, limit=99)
    assert [entry.seq for entry in log] == list(range(1, 17))
    assert {entry.seq: entry.vector_id for entry in log} == {
        record.seq: record.id for record in records if isinstance(record, VectorRecord)
    }


def test_of_eight_equal_requests_exactly_one_publishes(catalogue: Catalogue) -> None:
    def register_once(_: int) -> str:
        new = upload("key")
        earlier = catalogue.reserve(new)
        return earlier.id if earlier else catalogue.publish(new, draft(new)).id

    answers = together(8, register_once)
    ids = {answer for answer in answers if isinstance(answer, str)}
    assert len(ids) == 1
    assert all(isinstance(answer, (str, InProgress)) for answer in answers)
    assert catalogue.position().seq == 1


def test_of_eight_deleters_one_succeeds(catalogue: Catalogue) -> None:
    record = register(catalogue)
    answers = together(8, lambda _: catalogue.delete(record.id))
    assert sorted(str(type(answer).__name__) for answer in answers) == ["VectorNotFound"] * 7 + ["int"]


def test_a_reader_beside_writers_never_sees_a_gap(catalogue: Catalogue) -> None:
    done = threading.Event()

    def act(number: int) -> object:
        if number:
            for _ in range(8):
                register(catalogue)
            done.set()
            return None
        seen: list[int] = []
        while not done.is_set() or len(seen) < catalogue.position().seq:
            seen += [entry.seq for entry in catalogue.changes(after=len(seen), limit=3)]
        return seen

    seen = together(4, act)[0]
    assert seen == list(range(1, len(seen) + 1)) if isinstance(seen, list) else pytest.fail(str(seen))
