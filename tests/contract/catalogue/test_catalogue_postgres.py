"""What only PostgreSQL can do to a catalogue: connections that break, servers that die, clients that stand still."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.pool import PoolProxiedConnection

from tests.support.postgres_server import PostgresServer
from tests.support.registrations import draft, register, upload
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect, translate_errors
from vlibrary.domain.card import Status
from vlibrary.domain.errors import CatalogueUnavailable
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Amendment

pytestmark = pytest.mark.real

HOLD = text("SELECT n FROM log_head FOR UPDATE")
END_ALL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}' AND pid <> pg_backend_pid()"


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    engine = connect(postgres_url)
    yield engine
    engine.dispose()


@pytest.fixture
def catalogue(engine: Engine) -> Catalogue:
    return sql_catalogue(engine)


def break_next_commit(engine: Engine, patch: pytest.MonkeyPatch, *, committed: bool) -> None:
    """The connection breaks at the next commit, just before or just after the server keeps it."""
    commit = engine.dialect.do_commit
    broken: list[bool] = []

    def do_commit(connection: PoolProxiedConnection) -> None:
        if broken:
            commit(connection)
            return
        broken.append(True)
        if committed:
            commit(connection)
        assert connection.driver_connection is not None
        connection.driver_connection.close()
        raise psycopg.OperationalError("the connection was lost")

    patch.setattr(engine.dialect, "do_commit", do_commit)


# Writes that cannot simply be repeated, with what they answer for the first vector of a catalogue.
WRITES: dict[str, tuple[Callable[[Catalogue, str], object], object]] = {
    "update": (
        lambda catalogue, vector: catalogue.vectors.update(vector, Amendment(), expected_revision=1)[0].revision,
        2,
    ),
    "delete": (lambda catalogue, vector: catalogue.vectors.delete(vector, expected_revision=1), 2),
    "set_alias": (
        lambda catalogue, vector: catalogue.aliases.set("colours", "best", vector, expected=0).revision,
        2,
    ),
    "renew_epoch": (lambda catalogue, vector: catalogue.change_log.renew_epoch().seq, 1),
    "note": (lambda catalogue, vector: catalogue.audit_log.append("library.collect", "all", {}, actor="gc"), None),
}


class TestLostConnections:
    @pytest.mark.parametrize("committed", [True, False])
    @pytest.mark.parametrize("write", WRITES)
    def test_a_write_with_a_lost_commit_answer_happens_once(
        self, catalogue: Catalogue, engine: Engine, monkeypatch: pytest.MonkeyPatch, write: str, committed: bool
    ) -> None:
        record = register(catalogue)
        act, expected = WRITES[write]
        break_next_commit(engine, monkeypatch, committed=committed)
        assert act(catalogue, record.id) == expected
        assert len(catalogue.audit_log.read(after=0, limit=99)) == 2

    @pytest.mark.parametrize("committed", [True, False])
    def test_a_registration_with_lost_commit_answers_happens_once(
        self, catalogue: Catalogue, engine: Engine, committed: bool
    ) -> None:
        new = upload("key")
        with pytest.MonkeyPatch.context() as patch:
            break_next_commit(engine, patch, committed=committed)
            assert catalogue.registrations.reserve(new) is None
        with pytest.MonkeyPatch.context() as patch:
            break_next_commit(engine, patch, committed=committed)
            assert catalogue.registrations.publish(new, draft(new)).version == 1
        assert catalogue.vectors.get(new.vector_id).version == 1
        assert catalogue.change_log.position().seq == 1

    def test_a_lost_commit_answer_of_a_long_transaction_is_resolved(
        self, catalogue: Catalogue, engine: Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vlibrary.adapters.sql.transactions.RETRY_S", 0.0)
        record = register(catalogue)
        break_next_commit(engine, monkeypatch, committed=True)
        assert catalogue.vectors.delete(record.id) == 2

    def test_connections_that_the_server_closed_are_replaced(
        self, catalogue: Catalogue, engine: Engine, postgres: PostgresServer
    ) -> None:
        record = register(catalogue)
        for ask in (
            lambda: catalogue.vectors.get(record.id),
            lambda: catalogue.vectors.ids(Filter(status=Status.ACTIVE)),
            lambda: register(catalogue),
        ):
            postgres.execute(END_ALL.format(engine.url.database))
            ask()
        assert catalogue.change_log.position().seq == 2


class TestServers:
    def test_acknowledged_writes_survive_server_kills_once_and_gapless(
        self, catalogue: Catalogue, postgres: PostgresServer
    ) -> None:
        acknowledged: list[str] = []
        unknown: list[str] = []
        done = threading.Event()

        def write() -> None:
            while not done.is_set():
                new = upload()
                try:
                    catalogue.registrations.reserve(new)
                    acknowledged.append(catalogue.registrations.publish(new, draft(new)).id)
                except CatalogueUnavailable:
                    unknown.append(new.vector_id)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(3):
                threading.Event().wait(0.3)
                postgres.kill()
                postgres.start()
        finally:
            done.set()
            for writer in writers:
                writer.join()
        log = catalogue.change_log.read(after=0, limit=100_000)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        published = [entry.vector_id for entry in log]
        assert len(set(published)) == len(published)
        assert set(acknowledged) <= set(published) <= set(acknowledged) | set(unknown)
        versions = [record.version for record in catalogue.vectors.page(limit=100_000).records]
        assert versions == list(range(len(published), 0, -1))
        assert len(acknowledged) > 20

    def test_an_unreachable_server_is_reported_quickly(self, postgres: PostgresServer) -> None:
        away = connect("postgresql+psycopg://postgres@/none?host=/nowhere")
        with pytest.raises(CatalogueUnavailable):
            sql_catalogue(away).change_log.position()
        away.dispose()

    def test_an_ordinary_database_user_suffices(self, postgres: PostgresServer, postgres_url: str) -> None:
        owner = connect(postgres_url)
        with owner.begin() as connection:
            connection.execute(text("DROP ROLE IF EXISTS plain"))
            connection.execute(text("CREATE ROLE plain LOGIN"))
            connection.execute(text("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain"))
        plain = connect(postgres.url(str(owner.url.database), user="plain"))
        catalogue = sql_catalogue(plain)
        assert register(catalogue).seq == catalogue.change_log.position().seq == 1
        plain.dispose()
        with owner.begin() as connection:
            connection.execute(text("DROP OWNED BY plain"))
            connection.execute(text("DROP ROLE plain"))
        owner.dispose()


class TestStandingStill:
    def test_an_idle_writer_loses_the_lock(self, catalogue: Catalogue, postgres_url: str) -> None:
        frozen = connect(postgres_url, patience=0.3)
        connection = frozen.connect()
        connection.execute(HOLD)
        assert register(catalogue).seq == 1
        connection.invalidate()
        frozen.dispose()

    def test_a_statement_takes_a_limited_time(self, postgres_url: str) -> None:
        hasty = connect(postgres_url, pool_size=2, statement_s=0.2)
        with pytest.raises(CatalogueUnavailable), translate_errors(), hasty.connect() as connection:
            connection.execute(text("SELECT pg_sleep(20)"))
        hasty.dispose()

    def test_a_writer_waits_a_limited_time_for_the_lock(
        self, catalogue: Catalogue, engine: Engine, postgres_url: str
    ) -> None:
        hasty = connect(postgres_url, patience=0.2)
        catalogue.change_log.position()
        with engine.connect() as connection:
            connection.execute(HOLD)
            with pytest.raises(CatalogueUnavailable):
                sql_catalogue(hasty).registrations.reserve(upload())
            assert sql_catalogue(hasty).change_log.position().seq == 0
        hasty.dispose()


class TestEpochs:
    def move(self, connection: Connection) -> None:
        connection.execute(text("UPDATE log_head SET server = '1/00000001'"))

    def test_a_database_on_another_server_gets_a_new_epoch_once(self, catalogue: Catalogue, engine: Engine) -> None:
        register(catalogue)
        before = catalogue.change_log.position()
        assert catalogue.change_log.position() == before
        with engine.begin() as connection:
            self.move(connection)
        after = catalogue.change_log.position()
        assert after.epoch != before.epoch
        assert after.seq == before.seq
        assert catalogue.change_log.position() == after
        assert [entry.action for entry in catalogue.audit_log.read(after=1, limit=9)] == ["catalogue.renew_epoch"]

    def test_replicas_agree_on_the_new_epoch(self, catalogue: Catalogue, engine: Engine) -> None:
        catalogue.change_log.position()
        with engine.begin() as connection:
            self.move(connection)
        found: list[object] = []
        replicas = [threading.Thread(target=lambda: found.append(catalogue.change_log.position())) for _ in range(8)]
        for replica in replicas:
            replica.start()
        for replica in replicas:
            replica.join()
        assert found == [catalogue.change_log.position()] * 8

    def test_a_promoted_standby_is_another_server(
        self, catalogue: Catalogue, engine: Engine, postgres: PostgresServer
    ) -> None:
        register(catalogue)
        before = catalogue.change_log.position()
        standby = postgres.standby()
        try:
            another = connect(standby.url(str(engine.url.database)))
            replica = sql_catalogue(another)
            assert replica.change_log.position() == before  # a standby only reads, and does not know its own server
            standby.promote()
            after = replica.change_log.position()
            assert after.epoch != before.epoch
            assert register(replica).seq == 2
            another.dispose()
        finally:
            standby.stop()
