"""Migrations of the SQL schema, up and down, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, MetaData, text

from tests.contract.conftest import DATABASES
from tests.support.postgres_server import PostgresServer
from tests.support.registrations import register, upload
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.adapters.sql.schema import alembic_config, revisions, upgrade
from vlibrary.domain.card import Status
from vlibrary.domain.changes import ChangeKind
from vlibrary.domain.errors import CatalogueUnavailable
from vlibrary.domain.filters import Filter, OneOf
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Amendment

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=DATABASES)
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new 100%.db'}"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(server.new_database())


@pytest.fixture
def bare(bare_url: str) -> Iterator[Engine]:
    engine = connect(bare_url)
    yield engine
    engine.dispose()


def test_migrations_create_the_tables_of_the_code(database_url: str) -> None:
    command.check(alembic_config(database_url))


def test_an_upgrade_keeps_data_and_is_idempotent(engine: Engine, database_url: str) -> None:
    record = register(sql_catalogue(engine))
    upgrade(database_url)
    assert sql_catalogue(engine).vectors.get(record.id).version == 1


def test_downgrade_and_upgrade(bare_url: str) -> None:
    assert not revisions(bare_url).current
    upgrade(bare_url)
    assert revisions(bare_url).current
    command.downgrade(alembic_config(bare_url), "base")
    assert not revisions(bare_url).current
    upgrade(bare_url)
    assert revisions(bare_url).current


def test_the_database_of_a_newer_release_is_refused(engine: Engine, database_url: str) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for call in (revisions, upgrade):
        with pytest.raises(CatalogueUnavailable):
            call(database_url)


def test_every_new_database_has_an_epoch_of_its_own(engine: Engine, bare: Engine, bare_url: str) -> None:
    upgrade(bare_url)
    assert sql_catalogue(bare).change_log.position().epoch != sql_catalogue(engine).change_log.position().epoch


def test_concurrent_upgrades_succeed(bare: Engine, bare_url: str) -> None:
    code = "import sys; from vlibrary.adapters.sql.schema import upgrade; upgrade(sys.argv[1])"
    started = [subprocess.Popen([sys.executable, "-c", code, bare_url], cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert revisions(bare_url).current
    assert register(sql_catalogue(bare)).seq == 1


def test_the_command_line_of_alembic_works_for_developers(database_url: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "alembic", "check"],
        cwd=ROOT,
        env={"VLIBRARY_DATABASE_URL": database_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_labels_from_before_are_found_in_their_normal_form(bare: Engine, bare_url: str) -> None:
    old, new = "cafe\u0301", "caf\u00e9"
    upgrade(bare_url)
    catalogue = sql_catalogue(bare)
    kept = register(catalogue, tags=("a", new), metadata={"place": old, "n": 1})
    other = register(catalogue, tags=("a",), metadata={"place": "here"})
    with bare.begin() as connection:  # as revision 0003 stored it
        connection.execute(text("UPDATE facets SET key = :old WHERE key = :new"), {"old": old, "new": new})
        connection.execute(text("UPDATE facets SET text = :old WHERE text = :new"), {"old": old, "new": new})
        tags = json.dumps(["a", old, new])
        connection.execute(text("UPDATE vectors SET tags = :tags WHERE id = :id"), {"tags": tags, "id": kept.id})
    command.downgrade(alembic_config(bare_url), "0003")
    upgrade(bare_url)
    with bare.connect() as connection:
        stored = connection.execute(text("SELECT tags FROM vectors ORDER BY seq")).scalars().all()
    assert [json.loads(one) if isinstance(one, str) else one for one in stored] == [["a", new], ["a"]]
    assert catalogue.vectors.ids(Filter(tags=(new, "a"))) == {kept.id}
    assert catalogue.vectors.ids(Filter(conditions=(OneOf("place", (old,)),))) == {kept.id}
    assert catalogue.vectors.get(kept.id).card == kept.card
    assert catalogue.vectors.ids(Filter(tags=("a",))) == {kept.id, other.id}


class TestFromTheFirstTables:
    """A database as revision 0001 left it: two versions of a name, the second one deleted, and a reservation."""

    @pytest.fixture
    def old(self, bare: Engine, bare_url: str) -> Catalogue:
        command.upgrade(alembic_config(bare_url), "0001")
        with bare.begin() as connection:
            fill(connection)
        self.epoch = self._epoch(bare)
        return sql_catalogue(bare)

    def _epoch(self, engine: Engine) -> str:
        with engine.connect() as connection:
            epoch: str = connection.execute(text("SELECT epoch FROM log_head")).scalar_one()
            return epoch

    def test_nothing_is_lost(self, old: Catalogue, bare_url: str) -> None:
        upgrade(bare_url)
        kept, gone = old.vectors.get("first"), old.vectors.get("second", deleted=True)
        assert (kept.version, kept.seq, kept.revision, kept.status) == (1, 1, 1, Status.ACTIVE)
        assert kept.created_at == at(1)
        assert (kept.tags, dict(kept.metadata), kept.derived_from, kept.deleted_at) == ((), {}, (), None)
        assert kept.card.keys[0].embedding.text is not None
        assert list(kept.card.keys[0].embedding.text) == [1.0]
        assert (gone.version, gone.seq, gone.revision, gone.status) == (2, 2, 2, Status.DELETED)
        assert gone.deleted_at == at(3)
        assert [entry.kind for entry in old.change_log.read(after=0, limit=9)] == [
            ChangeKind.PUBLISHED,
            ChangeKind.PUBLISHED,
            ChangeKind.DELETED,
        ]
        assert [(entry.seq, entry.action, entry.subject) for entry in old.audit_log.read(after=0, limit=9)] == [
            (1, "vector.publish", "first"),
            (2, "vector.publish", "second"),
            (3, "vector.delete", "second"),
        ]
        assert (old.change_log.position().epoch, old.change_log.position().seq) == (self.epoch, 3)
        assert (
            old.change_log.position().token
            == old.change_log.read(after=2, limit=1)[0].token
            != old.change_log.read(after=1, limit=1)[0].token
        )
        assert [one.vector_id for one in old.registrations.list_expired(9)] == ["late"]

    def test_new_features_work_on_the_migrated_database(self, old: Catalogue, bare_url: str) -> None:
        upgrade(bare_url)
        assert old.vectors.restore("second") == 4
        assert old.vectors.delete("second") == 5
        assert old.vectors.purge("second") == 6
        assert register(old, "a").version == 3
        old.vectors.update("first", Amendment(tags=("x",)))
        assert old.vectors.ids(Filter(tags=("x",))) == {"first"}
        assert old.aliases.set("a", "best", "first", expected=0).revision == 9
        known = old.registrations.reserve(upload("key-1"))
        assert known is not None
        assert known.id == "first"

    def test_the_database_can_be_downgraded_before_new_features_are_used(
        self, old: Catalogue, bare_url: str, bare: Engine
    ) -> None:
        upgrade(bare_url)
        command.downgrade(alembic_config(bare_url), "0001")
        assert self._epoch(bare) == self.epoch
        upgrade(bare_url)
        assert old.vectors.get("first").created_at == at(1)
        old.vectors.restore("second")
        with pytest.raises(CommandError):
            command.downgrade(alembic_config(bare_url), "0001")
        assert old.vectors.get("second").revision == 3


def fill(connection: Connection) -> None:
    """Rows as revision 0001 wrote them."""
    tables = MetaData()
    tables.reflect(connection)

    def insert(table: str, **values: object) -> None:
        connection.execute(tables.tables[table].insert().values(values))

    for number, (vector_id, status) in enumerate((("first", "active"), ("second", "deleted")), start=1):
        insert("vectors", **VECTOR, id=vector_id, version=number, status=status, object_key=f"{vector_id}/s")
        insert("task_keys", vector_id=vector_id, number=0, kind="centroid", text=np.ones(1, "<f4").tobytes())
    for number, vector_id in enumerate(("first", "second", "late"), start=1):
        insert(
            "uploads",
            idempotency_key=f"key-{number}",
            request_sha256=upload().request_sha256,
            vector_id=vector_id,
            object_key=f"{vector_id}/s",
            deadline=at(900),
            published=vector_id != "late",
        )
    for seq, (kind, vector_id) in enumerate(
        (("published", "first"), ("published", "second"), ("deleted", "second")), start=1
    ):
        insert("changes", seq=seq, kind=kind, vector_id=vector_id, at=at(seq))
    connection.execute(tables.tables["log_head"].update().values(n=3))


def at(seconds: int) -> datetime:
    return datetime(2026, 11, 22, 12, tzinfo=UTC) + timedelta(seconds=seconds)


VECTOR: dict[str, object] = {
    "name": "a",
    "description": "",
    "thresholds": {"text": 0.5},
    "results": {},
    "model_id": "m",
    "model_fingerprint": "f",
    "model_architecture": "Llava",
    "model_layers": 4,
    "model_hidden_size": 8,
    "method": "m2iv",
    "positions": "all",
    "training": {"shots": 16},
    "sha256": "s",
    "size": 9,
}
