"""What only a SQL catalogue can get wrong: foreign errors, a lost commit; and what only SQLite can: a busy file."""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from sqlalchemy import Engine, event, text
from sqlalchemy.pool import PoolProxiedConnection

from tests.support.registrations import draft, register, upload
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.adapters.sql.schema import upgrade
from vlibrary.domain.errors import CatalogueUnavailable, InvalidInput

# All errors of SQLAlchemy. EmulatedDBAPIException replaces a driver's error, which SQLAlchemy wraps.
FOREIGN = [
    error
    for _, error in inspect.getmembers(sqlalchemy.exc, inspect.isclass)
    if issubclass(error, Exception)
    and not issubclass(error, Warning)
    and error.__module__ == "sqlalchemy.exc"
    and error.__name__ != "EmulatedDBAPIException"
]


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    engine = connect(sqlite_url, patience=0.2)
    yield engine
    engine.dispose()


class TestErrors:
    @pytest.mark.parametrize("error", FOREIGN, ids=lambda error: error.__name__)
    def test_sqlalchemy_errors_are_translated(self, engine: Engine, error: type[Exception]) -> None:
        @event.listens_for(engine, "before_cursor_execute")
        def fail(*_: Any) -> None:
            raise error.__new__(error)

        expected = InvalidInput if issubclass(error, sqlalchemy.exc.DataError) else CatalogueUnavailable
        catalogue = sql_catalogue(engine)
        for ask in (catalogue.change_log.position, lambda: catalogue.registrations.reserve(upload())):
            with pytest.raises(expected):
                ask()

    def test_a_database_without_tables_is_unavailable(self, tmp_path: Path) -> None:
        engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
        with pytest.raises(CatalogueUnavailable):
            sql_catalogue(engine).change_log.position()
        engine.dispose()

    def test_a_file_that_is_not_a_database_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "garbage.db").write_bytes(b"not a database" * 999)
        for path in (tmp_path / "garbage.db", tmp_path, tmp_path / "no" / "such.db"):
            engine = connect(f"sqlite:///{path}")
            with pytest.raises(CatalogueUnavailable):
                sql_catalogue(engine).change_log.position()
            with pytest.raises(CatalogueUnavailable):
                upgrade(f"sqlite:///{path}")
            engine.dispose()

    @pytest.mark.parametrize(
        "url", ["", "nonsense", "oracle9000://x", "mysql://me@here/x", "postgresql+psycopg://me:secret/x"]
    )
    def test_an_invalid_url_is_refused_without_being_quoted(self, url: str) -> None:
        with pytest.raises(CatalogueUnavailable) as caught:
            connect(url)
        assert not url or url not in str(caught.value)
        assert caught.value.__suppress_context__

    def test_an_unstorable_value_is_invalid_input(self, engine: Engine) -> None:
        with pytest.raises(InvalidInput):
            sql_catalogue(engine).registrations.reserve(upload("\ud800"))
        with pytest.raises(InvalidInput):
            sql_catalogue(engine).change_log.read(after=2**80, limit=1)


class TestLostAnswers:
    """The driver is made to fail at the commit, as it does when the connection breaks there."""

    def test_a_refused_sqlite_commit_is_reported_and_changes_nothing(self, sqlite_url: str) -> None:
        engine = connect(sqlite_url)
        catalogue = sql_catalogue(engine)
        commit = engine.dialect.do_commit
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.dialect, "do_commit", _full_disk)
            with pytest.raises(CatalogueUnavailable):
                catalogue.registrations.reserve(upload("key"))
        assert engine.dialect.do_commit == commit
        assert register(catalogue, key="key").seq == 1
        engine.dispose()


def test_a_publication_that_commits_after_its_deadline_keeps_its_object(database_url: str) -> None:
    """It read the clock before its deadline and then took long; a concurrent collector waits for it."""
    patient = connect(database_url)
    new, late = upload(seconds=0.5), threading.Event()
    sql_catalogue(patient).registrations.reserve(new)
    commit = patient.dialect.do_commit

    def slow_commit(connection: PoolProxiedConnection) -> None:
        late.wait(1.0)
        commit(connection)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(patient.dialect, "do_commit", slow_commit)
        published = pool.submit(sql_catalogue(patient).registrations.publish, new, draft(new))
        late.wait(0.7)
        assert not published.done()
        collector = connect(database_url)
        assert sql_catalogue(collector).registrations.find_referenced([new.object_key]) == {new.object_key}
        assert published.result().id == new.vector_id
    patient.dispose()
    collector.dispose()


def _full_disk(_: Any) -> None:
    raise sqlite3.OperationalError("database or disk is full")


class TestSqlite:
    def test_readers_run_during_a_write_and_a_second_writer_waits(self, sqlite_engine: Engine, sqlite_url: str) -> None:
        catalogue = sql_catalogue(sqlite_engine)
        record = register(catalogue)
        busy = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")
        assert catalogue.vectors.get(record.id).id == record.id
        with pytest.raises(CatalogueUnavailable):
            catalogue.registrations.reserve(upload())
        busy.execute("COMMIT")
        busy.close()
        assert register(catalogue).seq == 2

    def test_a_writer_runs_during_a_long_read(self, sqlite_engine: Engine, sqlite_url: str) -> None:
        register(sql_catalogue(sqlite_engine))
        reader = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
        reader.execute("BEGIN")
        count = "SELECT count(*) FROM vectors"
        assert reader.execute(count).fetchone() == (1,)
        register(sql_catalogue(sqlite_engine))
        assert reader.execute(count).fetchone() == (1,)
        reader.execute("COMMIT")
        assert reader.execute(count).fetchone() == (2,)
        reader.close()

    def test_foreign_keys_are_enforced(self, sqlite_engine: Engine) -> None:
        with sqlite_engine.connect() as connection, pytest.raises(sqlalchemy.exc.IntegrityError):
            connection.execute(text("INSERT INTO task_keys VALUES ('unknown', 0, 'centroid', NULL, NULL)"))

    def test_acknowledged_writes_survive_a_kill_and_the_log_is_gapless(self, sqlite_url: str) -> None:
        child = (
            "import sys\n"
            "from vlibrary.adapters.sql.catalogue import sql_catalogue\n"
            "from vlibrary.adapters.sql.database import connect\n"
            "from tests.support.registrations import register\n"
            "catalogue = sql_catalogue(connect(sys.argv[1]))\n"
            "while True: print(register(catalogue).id, flush=True)\n"
        )
        root = Path(__file__).parents[3]
        with subprocess.Popen([sys.executable, "-c", child, sqlite_url], stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline().decode().strip() for _ in range(30)]
            process.kill()
            acknowledged += [line.decode().strip() for line in process.stdout if line.endswith(b"\n")]
        engine = connect(sqlite_url)
        catalogue = sql_catalogue(engine)
        log = catalogue.change_log.read(after=0, limit=10_000)
        assert [entry.seq for entry in log] == list(range(1, catalogue.change_log.position().seq + 1))
        assert set(acknowledged) <= {entry.vector_id for entry in log}
        assert register(catalogue).version == len(log) + 1
        engine.dispose()
