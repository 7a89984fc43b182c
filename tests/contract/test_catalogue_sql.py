"""What only the SQL catalogue can get wrong: foreign errors, a busy file, a crash, the schema."""

from __future__ import annotations

import inspect
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy.exc
from alembic import command
from sqlalchemy import Engine, event, text

from service.adapters.catalogue_sql import SqlCatalogue, connect
from service.adapters.schema import alembic_config, is_current, upgrade
from service.domain.errors import CatalogueUnavailable, InvalidInput
from tests.support.registrations import register, upload

# Everything it raises. EmulatedDBAPIException stands in for an error of a driver, which SQLAlchemy wraps.
FOREIGN = [
    error
    for _, error in inspect.getmembers(sqlalchemy.exc, inspect.isclass)
    if issubclass(error, Exception)
    and not issubclass(error, Warning)
    and error.__module__ == "sqlalchemy.exc"
    and error.__name__ != "EmulatedDBAPIException"
]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = connect(database_url, patience=0.2)
    yield engine
    engine.dispose()


class TestErrors:
    @pytest.mark.parametrize("error", FOREIGN, ids=lambda error: error.__name__)
    def test_no_error_of_sqlalchemy_gets_out(self, engine: Engine, error: type[Exception]) -> None:
        @event.listens_for(engine, "before_cursor_execute")
        def fail(*_: Any) -> None:
            raise error.__new__(error)

        expected = InvalidInput if issubclass(error, sqlalchemy.exc.DataError) else CatalogueUnavailable
        catalogue = SqlCatalogue(engine)
        for ask in (catalogue.position, lambda: catalogue.reserve(upload())):
            with pytest.raises(expected):
                ask()

    def test_a_database_without_tables_is_unavailable(self, tmp_path: Path) -> None:
        engine = connect(f"sqlite:///{tmp_path / 'empty.db'}")
        with pytest.raises(CatalogueUnavailable):
            SqlCatalogue(engine).position()
        engine.dispose()

    def test_a_file_that_is_no_database_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "garbage.db").write_bytes(b"not a database" * 999)
        for path in (tmp_path / "garbage.db", tmp_path, tmp_path / "no" / "such.db"):
            engine = connect(f"sqlite:///{path}")
            with pytest.raises(CatalogueUnavailable):
                SqlCatalogue(engine).position()
            with pytest.raises(CatalogueUnavailable):
                upgrade(f"sqlite:///{path}")
            engine.dispose()

    @pytest.mark.parametrize("url", ["", "nonsense", "oracle9000://x"])
    def test_a_url_that_names_no_database_is_refused_without_being_repeated(self, url: str) -> None:
        with pytest.raises(CatalogueUnavailable) as caught:
            connect(url)
        assert not url or url not in str(caught.value)

    def test_a_value_that_cannot_be_stored_is_the_callers_error(self, engine: Engine) -> None:
        with pytest.raises(InvalidInput):
            SqlCatalogue(engine).reserve(upload("\ud800"))
        with pytest.raises(InvalidInput):
            SqlCatalogue(engine).changes(after=2**80, limit=1)


class TestSqlite:
    def test_readers_go_on_beside_a_writer_and_a_second_writer_waits_its_patience(
        self, engine: Engine, database_url: str
    ) -> None:
        catalogue = SqlCatalogue(engine)
        record = register(catalogue)
        busy = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")
        assert catalogue.get(record.id).id == record.id
        with pytest.raises(CatalogueUnavailable):
            catalogue.reserve(upload())
        busy.execute("COMMIT")
        busy.close()
        assert register(catalogue).seq == 2

    def test_a_writer_goes_on_beside_a_reader_that_takes_long(self, engine: Engine, database_url: str) -> None:
        register(SqlCatalogue(engine))
        reader = sqlite3.connect(database_url.removeprefix("sqlite:///"), isolation_level=None)
        reader.execute("BEGIN")
        count = "SELECT count(*) FROM vectors"
        assert reader.execute(count).fetchone() == (1,)
        register(SqlCatalogue(engine))
        assert reader.execute(count).fetchone() == (1,)
        reader.execute("COMMIT")
        assert reader.execute(count).fetchone() == (2,)
        reader.close()

    def test_rows_must_fit_together(self, engine: Engine) -> None:
        with engine.connect() as connection, pytest.raises(sqlalchemy.exc.IntegrityError):
            connection.execute(text("INSERT INTO changes VALUES (1, 'published', 'unknown', '2026-01-01 00:00:00')"))

    def test_what_was_acknowledged_survives_a_kill_and_the_log_has_no_gap(self, database_url: str) -> None:
        child = (
            "import sys\n"
            "from service.adapters.catalogue_sql import SqlCatalogue, connect\n"
            "from tests.support.registrations import register\n"
            "catalogue = SqlCatalogue(connect(sys.argv[1]))\n"
            "while True: print(register(catalogue).id, flush=True)\n"
        )
        root = Path(__file__).parents[2]
        with subprocess.Popen([sys.executable, "-c", child, database_url], stdout=subprocess.PIPE, cwd=root) as process:
            assert process.stdout is not None
            acknowledged = [process.stdout.readline().decode().strip() for _ in range(30)]
            process.kill()
            acknowledged += [line.decode().strip() for line in process.stdout if line.endswith(b"\n")]
        engine = connect(database_url)
        catalogue = SqlCatalogue(engine)
        log = catalogue.changes(after=0, limit=10_000)
        assert [entry.seq for entry in log] == list(range(1, catalogue.position().seq + 1))
        assert set(acknowledged) <= {entry.vector_id for entry in log}
        assert register(catalogue).version == len(log) + 1
        engine.dispose()


class TestSchema:
    def test_the_migrations_make_the_tables_that_the_code_uses(self, database_url: str) -> None:
        command.check(alembic_config(database_url))

    def test_an_upgrade_keeps_the_data_and_can_be_repeated(self, engine: Engine, database_url: str) -> None:
        record = register(SqlCatalogue(engine))
        upgrade(database_url)
        assert SqlCatalogue(engine).get(record.id).version == 1

    def test_down_and_up_again(self, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'new 100%.db'}"
        assert not is_current(url)
        upgrade(url)
        assert is_current(url)
        command.downgrade(alembic_config(url), "base")
        assert not is_current(url)
        upgrade(url)
        assert is_current(url)

    def test_a_newer_versions_database_is_left_alone(self, engine: Engine, database_url: str) -> None:
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        assert not is_current(database_url)
        with pytest.raises(CatalogueUnavailable):
            upgrade(database_url)

    def test_every_new_database_has_an_epoch_of_its_own(self, engine: Engine, tmp_path: Path) -> None:
        url = f"sqlite:///{tmp_path / 'another.db'}"
        upgrade(url)
        another = connect(url)
        assert SqlCatalogue(another).position().epoch != SqlCatalogue(engine).position().epoch
        another.dispose()

    def test_the_command_line_of_alembic_works_for_developers(self, database_url: str) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "alembic", "check"],
            cwd=Path(__file__).parents[2],
            env={"VLIBRARY_DATABASE_URL": database_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
