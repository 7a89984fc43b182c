"""The index follows the change log, and detects that the log has another history."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from tests.support.memory.index import MemoryIndex
from tests.support.registrations import EMBEDDER, MODEL, embedding, key, register
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.adapters.sql.logs import SqlChangeLog
from vlibrary.adapters.sql.transactions import Transactions
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import CatalogueUnavailable, CollectorPaused
from vlibrary.domain.ports.task_index import TaskIndex
from vlibrary.domain.query import EmbedderSpec
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.collector import Rules, collect
from vlibrary.upkeep.collector_guard import update_markers

ANYTHING = embedding(np.random.default_rng(1))


class Database:
    """A SQLite catalogue whose files can be copied and copied back, like a disk snapshot."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.engine = connect(f"sqlite:///{path}")
        self.catalogue = sql_catalogue(self.engine)
        self._rng = np.random.default_rng(2)

    def register(self, count: int) -> list[str]:
        return [register(self.catalogue, keys=(key(embedding(self._rng)),)).id for _ in range(count)]

    def copy(self) -> Path:
        self.engine.dispose()
        return Path(shutil.copy(self.path, self.path.with_suffix(".copy")))

    def revert(self, copy: Path) -> None:
        self.engine.dispose()
        for name in (f"{self.path}-wal", f"{self.path}-shm"):
            Path(name).unlink(missing_ok=True)
        shutil.copy(copy, self.path)


@pytest.fixture
def database(new_sqlite: Callable[[], str]) -> Iterator[Database]:
    database = Database(Path(new_sqlite().removeprefix("sqlite:///")))
    yield database
    database.engine.dispose()


@pytest.fixture(params=[MemoryIndex, FaissIndex])
def index(request: pytest.FixtureRequest) -> TaskIndex:
    make: Callable[[EmbedderSpec], TaskIndex] = request.param
    return make(EMBEDDER)


def found(index: TaskIndex) -> set[str]:
    return {hit.vector_id for hit in index.search(ANYTHING, model=MODEL.fingerprint, k=99)}


def test_registered_vectors_are_found_and_deleted_ones_are_not(database: Database, index: TaskIndex) -> None:
    first, second = database.register(2)
    assert catch_up(database.catalogue.change_log, index).seq == 2
    database.catalogue.vectors.delete(first)
    assert catch_up(database.catalogue.change_log, index).seq == 3
    assert found(index) == {second}
    assert index.position == database.catalogue.change_log.position()


@pytest.mark.parametrize("since", [0, 1, 2, 3, 9])
def test_a_reverted_database_is_detected_at_any_length_of_its_log(
    database: Database, index: TaskIndex, since: int
) -> None:
    """The lost log had three more entries; the new one is shorter, as long, or longer."""
    kept = database.register(2)
    copy = database.copy()
    database.register(3)
    catch_up(database.catalogue.change_log, index)
    epoch = database.catalogue.change_log.position().epoch
    database.revert(copy)
    kept += database.register(since)
    assert catch_up(database.catalogue.change_log, index).seq == 2 + since
    assert found(index) == set(kept)
    assert database.catalogue.change_log.position() == index.position
    assert database.catalogue.change_log.position().epoch != epoch, "other processes would not rebuild"


def test_a_database_reverted_to_the_indexs_position_needs_no_rebuild(database: Database, index: TaskIndex) -> None:
    kept = database.register(2)
    catch_up(database.catalogue.change_log, index)
    before = index.position
    copy = database.copy()
    database.register(1)
    database.revert(copy)
    kept += database.register(2)
    catch_up(database.catalogue.change_log, index)
    assert found(index) == set(kept)
    assert before is not None
    assert database.catalogue.change_log.position().epoch == before.epoch


def test_a_snapshot_of_the_lost_history_is_rebuilt(database: Database, tmp_path: Path) -> None:
    kept = database.register(1)
    copy = database.copy()
    database.register(2)
    index, snapshots = FaissIndex(EMBEDDER), FolderSnapshots(tmp_path / "snapshots")
    catch_up(database.catalogue.change_log, index)
    index.save(snapshots)
    database.revert(copy)
    kept += database.register(5)
    restarted = FaissIndex(EMBEDDER)
    restarted.load(snapshots, database.catalogue.change_log.position().epoch)
    assert restarted.position == index.position
    catch_up(database.catalogue.change_log, restarted)
    assert found(restarted) == set(kept)


@pytest.mark.parametrize("since", [0, 2, 5])
def test_the_collector_pauses_after_its_database_was_reverted(database: Database, tmp_path: Path, since: int) -> None:
    artifacts = FolderArtifacts(tmp_path / "artifacts")
    update_markers(database.catalogue, artifacts)
    database.register(1)
    copy = database.copy()
    database.register(2)
    list(collect(database.catalogue, artifacts, Rules(), actor="tester"))
    list(collect(database.catalogue, artifacts, Rules(), actor="tester"))
    database.revert(copy)
    database.register(since)
    with pytest.raises(CollectorPaused):
        list(collect(database.catalogue, artifacts, Rules(), actor="tester"))


def test_threads_that_detect_it_together_agree_on_one_history(database: Database, index: TaskIndex) -> None:
    kept = database.register(2)
    copy = database.copy()
    database.register(20)
    catch_up(database.catalogue.change_log, index)
    database.revert(copy)
    kept += database.register(30)
    with ThreadPoolExecutor(8) as pool:
        seqs = list(pool.map(lambda _: catch_up(database.catalogue.change_log, index).seq, range(8)))
    assert set(seqs) == {32}
    assert found(index) == set(kept)


def test_of_two_processes_that_detect_it_together_one_renews_the_epoch(database: Database, index: TaskIndex) -> None:
    other = MemoryIndex(EMBEDDER)

    class Overtaken(SqlChangeLog):
        """Another process notices between the two calls of this one."""

        def position(self) -> LogPosition:
            before = super().position()
            catch_up(database.catalogue.change_log, other)
            return before

    kept = database.register(2)
    copy = database.copy()
    database.register(1)
    for one in (index, other):
        catch_up(database.catalogue.change_log, one)
    database.revert(copy)
    kept += database.register(1)
    catch_up(Overtaken(Transactions(database.engine)), index)
    assert found(index) == found(other) == set(kept)
    assert index.position == other.position == database.catalogue.change_log.position()
    renewals = [entry for entry in database.catalogue.audit_log.read(0, 99) if entry.action == "catalogue.renew_epoch"]
    assert [entry.actor for entry in renewals] == ["system"]


def test_a_log_with_a_missing_entry_raises(database: Database, index: TaskIndex) -> None:
    database.register(4)
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM changes WHERE seq = 3"))
    with pytest.raises(CatalogueUnavailable, match="has a gap after"):
        catch_up(database.catalogue.change_log, index)
    with database.engine.begin() as connection:
        connection.execute(text("DELETE FROM changes WHERE seq > 2"))
    with pytest.raises(CatalogueUnavailable, match="has a gap after"):
        catch_up(database.catalogue.change_log, index)


@pytest.mark.parametrize("count", [0, 2])
def test_a_log_head_that_disagrees_with_the_log_raises_without_new_epochs(
    database: Database, index: TaskIndex, count: int
) -> None:
    database.register(count)
    catch_up(database.catalogue.change_log, index)
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE log_head SET mark = 'another'"))
    for _ in range(3):
        with pytest.raises(CatalogueUnavailable, match="lacks its newest entry"):
            catch_up(database.catalogue.change_log, index)
    assert len(database.catalogue.audit_log.read(0, 99)) == count
