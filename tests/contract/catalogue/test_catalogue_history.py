"""Random histories of calls: a SQL catalogue agrees with the reference model on each, across restarts.

VLIBRARY_TEST_OPERATIONS: how many calls in all (some hundred by default).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from sqlalchemy import Engine

from tests.support.memory.catalogue import memory_catalogue
from tests.support.registrations import EMBEDDER, draft, key, plain, plain_keys
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.domain.card import KeyKind, Status, TaskKey, VectorRecord
from vlibrary.domain.changes import Change
from vlibrary.domain.errors import VLibraryError
from vlibrary.domain.filters import Between, Filter, OneOf
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import TaskEmbedding
from vlibrary.domain.registration import Alias, Amendment, AuditEntry, Page, Upload

OPERATIONS = int(os.environ.get("VLIBRARY_TEST_OPERATIONS", "500"))
STEPS = 50
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)

numbers = st.integers(0, 5)
names = st.sampled_from(["a", "b"])
aliases = st.sampled_from(["best", "production", "latest"])
# The right one, any, or one that may be wrong: drawn blindly, calls would be refused nearly always.
revisions = st.sampled_from(["right", None, 1, 2])
hits = st.sampled_from([True, True, True, False])
tags = st.lists(st.sampled_from(["x", "y", "ä"]), max_size=2, unique=True).map(tuple)
metadata = st.dictionaries(st.sampled_from(["p", "q"]), st.sampled_from([1, 1.0, 1.5, True, "1", "z"]), max_size=2)


class CatalogueMachine(RuleBasedStateMachine):
    """Both catalogues get every call; small numbers make the calls meet."""

    new_database: Callable[[], str]

    @initialize()
    def start(self) -> None:
        self.url = type(self).new_database()
        self.model = memory_catalogue()
        self.open()
        for number, name in enumerate("aab"):  # so that there is something to act upon from the first step on
            self.register(number, name)

    def open(self) -> None:
        self.engine: Engine = connect(self.url)
        self.real = sql_catalogue(self.engine)

    def teardown(self) -> None:
        self.engine.dispose()

    @rule()
    def restart(self) -> None:
        self.engine.dispose()
        self.open()

    @rule(number=numbers, again=st.integers(0, 2), request=st.sampled_from("rs"), late=st.booleans())
    def reserve(self, number: int, again: int, request: str, late: bool) -> None:
        self.both(lambda catalogue: catalogue.registrations.reserve(an_upload(number, again, request, late=late)))

    @rule(number=numbers, again=st.integers(0, 2), late=st.booleans())
    def release(self, number: int, again: int, late: bool) -> None:
        self.both(lambda catalogue: catalogue.registrations.release(an_upload(number, again, "r", late=late)))

    @rule(number=numbers, again=st.integers(0, 2), name=names, tags=tags, metadata=metadata, parent=st.none() | numbers)
    def publish(self, number: int, again: int, name: str, tags: Any, metadata: Any, parent: int | None) -> None:
        upload = an_upload(number, again, "r")
        derived_from = () if parent is None else (vector_id(parent),)
        record = draft(
            upload,
            name,
            keys=(a_key(number),),
            embedder=EMBEDDER.fingerprint,
            tags=tags,
            metadata=metadata,
            derived_from=derived_from,
        )
        self.both(lambda catalogue: catalogue.registrations.publish(upload, record, actor="p"))

    @rule(number=numbers)
    def purge(self, number: int) -> None:
        """Both steps at once, too."""
        self.live_and_die("delete", number, None)
        self.live_and_die("purge", number, None)

    @rule(number=numbers, name=names)
    def register(self, number: int, name: str) -> None:
        """Both steps at once, since alone they seldom meet."""
        self.reserve(number, 0, "r", late=False)
        self.publish(number, 0, name, ("x",), {"p": number}, None)

    @rule(number=numbers, text=st.none() | st.sampled_from(["", "old", "new"]), tags=tags, revision=revisions, hit=hits)
    def update(self, number: int, text: str | None, tags: Any, revision: Any, hit: bool) -> None:
        target, expected = self.target(number, revision, Status.ACTIVE if hit else None)
        change = Amendment(text, tags, {"p": len(tags)})
        key = a_key(number, KeyKind.DESCRIPTION) if text else None
        self.both(
            lambda catalogue: catalogue.vectors.update(target, change, description_key=key, expected_revision=expected)
        )

    @rule(step=st.sampled_from(["delete", "restore", "purge"]), number=numbers, revision=revisions, hit=hits)
    def live_and_die(self, step: str, number: int, revision: Any, hit: bool = True) -> None:
        fitting = Status.ACTIVE if step == "delete" else Status.DELETED
        target, expected = self.target(number, revision, fitting if hit else None)
        self.both(lambda catalogue: getattr(catalogue.vectors, step)(target, expected_revision=expected))

    def target(self, number: int, revision: Any, status: Status | None) -> tuple[str, int | None]:
        """Return a vector with this status, or any id, even an unknown one; and the revision to expect."""
        known = {record.id: record for record in self.model.vectors.page(Filter(status=status), limit=99).records}
        ids = sorted(known) if status else [vector_id(other) for other in range(6)]
        chosen = ids[number % len(ids)] if ids else vector_id(number)
        if revision != "right":
            return chosen, revision
        return chosen, known[chosen].revision if chosen in known else None

    @rule(name=names, alias=aliases, number=numbers, expected=st.integers(0, 1), drop=st.booleans())
    def move_alias(self, name: str, alias: str, number: int, expected: int, drop: bool) -> None:
        """expected: 1 means its current revision."""
        ids = sorted(record.id for record in self.model.vectors.page(Filter(name), limit=99).records)
        target = ids[number % len(ids)] if ids and number else vector_id(number)
        found = [known.revision for known in self.model.aliases.list(name) if known.alias == alias]
        revision = found[0] if found and expected else expected
        if drop:
            self.both(lambda catalogue: catalogue.aliases.drop(name, alias, expected=revision))
        else:
            self.both(lambda catalogue: catalogue.aliases.set(name, alias, target, expected=revision))

    @rule(name=st.none() | names, tags=tags, metadata=metadata, status=st.none() | st.sampled_from(Status))
    def find(self, name: str | None, tags: Any, metadata: Any, status: Status | None) -> None:
        wanted = tuple(OneOf(key, (value,)) for key, value in metadata.items())
        which = Filter(name, tags=tags, conditions=(*wanted, Between("p", least=0)), status=status)
        self.both(lambda catalogue: catalogue.vectors.ids(which))
        self.both(lambda catalogue: catalogue.vectors.page(which, limit=2))

    @rule(number=numbers)
    def look_up(self, number: int) -> None:
        self.both(lambda catalogue: catalogue.vectors.get(vector_id(number), deleted=True))
        self.both(lambda catalogue: catalogue.vectors.ids(Filter(parent=vector_id(number))))
        self.both(lambda catalogue: catalogue.registrations.list_expired(99))
        self.both(lambda catalogue: catalogue.registrations.find_referenced(OBJECT_KEYS))

    @invariant()
    def they_hold_the_same(self) -> None:
        for look in (
            lambda catalogue: catalogue.vectors.page(Filter(status=None), limit=99),
            lambda catalogue: catalogue.aliases.list(),
            lambda catalogue: catalogue.change_log.position().seq,
            lambda catalogue: catalogue.registrations.list_expired(99),
            lambda catalogue: catalogue.registrations.find_referenced(
                [an_upload(n, a, "r").object_key for n in range(12) for a in (0, 1, 2)]
            ),
            lambda catalogue: catalogue.change_log.read(after=self.model.change_log.position().seq - 3, limit=99),
            lambda catalogue: catalogue.audit_log.read(after=self.model.change_log.position().seq - 3, limit=99),
        ):
            self.both(look)

    def both(self, ask: Callable[[Catalogue], object]) -> None:
        assert outcome(ask, self.real) == outcome(ask, self.model)


def vector_id(number: int) -> str:
    """The id of the upload that `register` makes."""
    return f"{number:026}"


def an_upload(number: int, again: int, request: str, *, late: bool = False) -> Upload:
    """again: another upload under the same idempotency key."""
    own_id = f"{number + 100 * again:026}"
    deadline = LONG_AGO if late else LONG_AGO + timedelta(days=365 * 100)
    return Upload(own_id, f"{own_id}/file", f"key-{number}", request, deadline)


def a_key(number: int, kind: KeyKind = KeyKind.CENTROID) -> TaskKey:
    return key(TaskEmbedding(text=np.eye(EMBEDDER.text_size, dtype=np.float32)[number % EMBEDDER.text_size]), kind)


OBJECT_KEYS = [an_upload(number, again, "r").object_key for number in range(6) for again in range(3)]


def outcome(ask: Callable[[Catalogue], object], catalogue: Catalogue) -> object:
    """What the catalogue answers, comparable: an error as its kind and words, and no clock's readings."""
    try:
        return comparable(ask(catalogue))
    except VLibraryError as error:
        return (type(error), error.detail)


def comparable(answer: object) -> object:
    match answer:
        case VectorRecord():
            untimed = replace(answer, created_at=LONG_AGO, deleted_at=LONG_AGO if answer.deleted_at else None)
            return plain(untimed)
        case Alias():
            return replace(answer, changed_at=LONG_AGO)
        case AuditEntry():
            return replace(answer, at=LONG_AGO)
        case Change():
            return (replace(answer, keys=(), token=""), plain_keys(answer.keys))
        case Page():
            return (comparable(list(answer.records)), answer.next)
        case list() | tuple():
            return [comparable(entry) for entry in answer]
        case _:
            return answer


def run(new_database: Callable[[], str], operations: int) -> None:
    machine = type("Machine", (CatalogueMachine,), {"new_database": staticmethod(new_database)})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=max(1, operations // STEPS),
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_sqlite_agrees_with_the_reference_model(new_sqlite: Callable[[], str]) -> None:
    run(new_sqlite, OPERATIONS)


@pytest.mark.real
def test_postgres_agrees_with_the_reference_model(new_postgres: Callable[[], str]) -> None:
    run(new_postgres, OPERATIONS)
