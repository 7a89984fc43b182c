"""State machine of a library on SQLite, a folder and FAISS, including restarts, compared with an oracle."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.faults.model.library import Dying, DyingAfterPut, LaterFolder, Replica
from tests.faults.model.oracle import Known, Oracle, embedding
from tests.faults.processes.shifted_clocks import later_catalogue
from tests.support import samples
from tests.support.memory.worker import MODEL
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.adapters.sql.schema import upgrade
from vlibrary.domain.card import KeyKind, Status, TaskKey
from vlibrary.domain.errors import KeyReused, StaleRevision, StillAliased, VectorNotFound, VectorPurged, VLibraryError
from vlibrary.domain.filters import Filter
from vlibrary.domain.query import Query
from vlibrary.domain.registration import Amendment
from vlibrary.formats.card import parse_card
from vlibrary.library.publish import DEADLINE, Submission
from vlibrary.library.reindex import catch_up
from vlibrary.library.retrieve import retrieve
from vlibrary.upkeep.collector import Rules, collect
from vlibrary.upkeep.collector_guard import allow_collection, list_markers, update_markers

NAMES = st.sampled_from(["hues", "forms"])
TEXTS = st.sampled_from(["red or blue", "blue or red", "how many", "how much", "which way"])
SEEDS = st.integers(0, 2)
KEYS = st.sampled_from([None, None, "a", "b", "c"])
# In memory, where fsync is free; this kind of test cannot observe a power cut of a real disk anyway.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
ALIASES = st.sampled_from(["production", "trial"])


class LibraryMachine(RuleBasedStateMachine):
    """Two processes on the same stores; either runs each operation, and both must always agree with the oracle."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vlibrary-operations-", dir=IN_MEMORY))
        self.ending = ExitStack()
        self.ending.callback(shutil.rmtree, self.folder)
        (self.folder / "catalogue.db").write_bytes(_empty_catalogue())
        self.snapshots = FolderSnapshots(self.folder / "snapshots")
        self.libraries = [Replica(self.folder) for _ in range(2)]
        for library in self.libraries:
            self.ending.callback(library.engine.dispose)
        update_markers(self.libraries[0].catalogue, self.libraries[0].artifacts)
        self.oracle = Oracle()

    def teardown(self) -> None:
        if hasattr(self, "oracle"):
            with self.ending:
                self.everything_is_right()

    @rule(who=st.integers(0, 1), name=NAMES, text=TEXTS, seed=SEEDS, key=KEYS)
    def publish(self, who: int, name: str, text: str, seed: int, key: str | None) -> None:
        sent = (name, text, seed)
        earlier = self.oracle.keys.get(key) if key else None
        act = partial(self.libraries[who].publish, _submission(*sent, key))
        if earlier is None:
            made = act()
            self.oracle.published(made, name, text, seed)
            if key:
                self.oracle.keys[key] = (sent, made)
        elif earlier[0] != sent:
            _refused(KeyReused, act)
        elif self.oracle.vectors[earlier[1]].status is None:
            _refused(VectorPurged, act)
        else:
            assert act() == earlier[1]

    @rule(who=st.integers(0, 1), name=NAMES, text=TEXTS, key=KEYS)
    def publish_and_die(self, who: int, name: str, text: str, key: str | None) -> None:
        """Leave an object without a vector, and an expired reservation."""
        if key and key in self.oracle.keys:
            return
        library = self.libraries[who]
        with pytest.raises(Dying):
            library.publish(_submission(name, text, 9, key), DyingAfterPut(self.folder / "artifacts"), -DEADLINE)

    @rule(who=st.integers(0, 1), data=st.data())
    def delete(self, who: int, data: st.DataObject) -> None:
        known = self.one(data, *Status, None)
        if known is None:
            return
        act = partial(self.libraries[who].catalogue.vectors.delete, known.id)
        if known.status is not Status.ACTIVE:
            _refused(VectorNotFound, act)
        elif self.oracle.aliased(known.id):
            _refused(StillAliased, act)
        else:
            self.oracle.stepped(known, Status.DELETED)
            assert act() == self.oracle.seq

    @rule(who=st.integers(0, 1), data=st.data(), becoming=st.sampled_from([Status.ACTIVE, None]))
    def restore_or_purge(self, who: int, data: st.DataObject, becoming: Status | None) -> None:
        known = self.one(data, Status.DELETED)
        if known is None:
            return
        catalogue = self.libraries[who].catalogue
        act = partial(catalogue.vectors.purge if becoming is None else catalogue.vectors.restore, known.id)
        _refused(StaleRevision, partial(act, expected_revision=known.revision + 1))
        assert act(expected_revision=known.revision) == self.oracle.seq + 1
        self.oracle.stepped(known, becoming)

    @rule(who=st.integers(0, 1), data=st.data(), text=TEXTS, tags=st.sets(st.sampled_from("xyz")))
    def amend(self, who: int, data: st.DataObject, text: str, tags: set[str]) -> None:
        known = self.one(data, Status.ACTIVE)
        if known is None:
            return
        self.oracle.seq += known.description != text
        known.description, known.tags, known.revision = text, tuple(sorted(tags)), known.revision + 1
        key = TaskKey(KeyKind.DESCRIPTION, embedding(text))
        change = Amendment(description=text, tags=known.tags)
        assert (
            self.libraries[who].catalogue.vectors.update(known.id, change, description_key=key)[0].revision
            == known.revision
        )

    @rule(who=st.integers(0, 1), data=st.data(), alias=ALIASES)
    def move_alias(self, who: int, data: st.DataObject, alias: str) -> None:
        known = self.one(data, Status.ACTIVE)
        if known is not None:
            self.oracle.aliases[known.name, alias] = known.id
            catalogue = self.libraries[who].catalogue
            revision = self.revision(who, known.name, alias)
            catalogue.aliases.set(known.name, alias, known.id, expected=revision)

    @rule(who=st.integers(0, 1), name=NAMES, alias=ALIASES)
    def drop_alias(self, who: int, name: str, alias: str) -> None:
        if self.oracle.aliases.pop((name, alias), None):
            self.libraries[who].catalogue.aliases.drop(name, alias, expected=self.revision(who, name, alias))

    @rule(who=st.integers(0, 1), text=TEXTS, k=st.integers(1, 100))
    def find(self, who: int, text: str, k: int) -> None:
        library = self.libraries[who]
        found = retrieve(Query(text=text), library.stores, k=k, model_id=None).matches
        assert [(match.record.id, match.score) for match in found] == self.oracle.best(text, k)

    @rule(who=st.integers(0, 1))
    def save_snapshot(self, who: int) -> None:
        self.libraries[who].index.save(self.snapshots)

    @rule(who=st.integers(0, 1), from_snapshot=st.booleans())
    def restart(self, who: int, from_snapshot: bool) -> None:
        engine = self.libraries[who].engine
        engine.dispose()
        library = self.libraries[who] = Replica(self.folder, engine)
        if from_snapshot:
            library.index.load(self.snapshots, library.catalogue.change_log.position().epoch)
        assert catch_up(library.catalogue.change_log, library.index).seq == self.oracle.seq

    @precondition(lambda self: self.oracle.seq > 0)
    @rule(who=st.integers(0, 1))
    def restore_earlier_state(self, who: int) -> None:
        """Give the database a new epoch, so that every index and snapshot belongs to another one."""
        library = self.libraries[who]
        known = list_markers(library.artifacts)
        # As doctor does when it finds nothing wrong.
        allow_collection(library.artifacts, library.catalogue.change_log.renew_epoch(), instead_of=known)

    def everything_is_right(self) -> None:
        """Check that a collection leaves exactly the referenced objects, undamaged."""
        catalogue, artifacts = self.libraries[0].catalogue, LaterFolder(self.folder / "artifacts")
        records = {record.id: record for record in catalogue.vectors.page(Filter(status=None), limit=10_000).records}
        assert set(records) == {known.id for known in self.oracle.with_status(*Status)}
        for known in self.oracle.with_status(*Status):
            record = records[known.id]
            seen = (record.name, record.version, record.status, record.revision, record.card.description, record.tags)
            assert seen == (known.name, known.version, known.status, known.revision, known.description, known.tags)
        aliases = {(alias.name, alias.alias): alias.vector_id for alias in catalogue.aliases.list()}
        assert aliases == self.oracle.aliases
        assert [change.seq for change in catalogue.change_log.read(0, 10**6)] == list(range(1, self.oracle.seq + 1))
        later = later_catalogue(catalogue)
        list(collect(later, artifacts, Rules(grace=DEADLINE), actor="operations"))
        kept = {
            stored.key for stored in artifacts.list() if "/" in stored.key and not stored.key.startswith("collector")
        }
        assert kept == {record.object_key for record in records.values()}
        for known in self.oracle.with_status(*Status):
            record = records[known.id]
            assert artifacts.get(record.object_key, record.sha256) == samples.artifact(MODEL, known.seed)

    def one(self, data: st.DataObject, *statuses: Status | None) -> Known | None:
        """Return one of the vectors with these statuses, if there is one."""
        fitting = self.oracle.with_status(*statuses)
        return data.draw(st.sampled_from(fitting)) if fitting else None

    def revision(self, who: int, name: str, alias: str) -> int:
        """Return the alias's revision; 0 if it does not exist."""
        found = {one.alias: one.revision for one in self.libraries[who].catalogue.aliases.list(name)}
        return found.get(alias, 0)


@cache
def _empty_catalogue() -> bytes:
    """Return the file of an empty catalogue; creating one for every history would take a tenth of the time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "catalogue.db"
        upgrade(f"sqlite:///{path}")
        return path.read_bytes()


def _submission(name: str, text: str, seed: int, key: str | None) -> Submission:
    return Submission(samples.artifact(MODEL, seed), parse_card(samples.card(name, text)), key)


def _refused(kind: type[VLibraryError], act: Callable[[], object]) -> None:
    with pytest.raises(kind):
        act()
