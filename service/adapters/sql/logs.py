"""The change log and the audit log in a SQL database, and the head row that numbers both."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, String, bindparam, insert, null, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from vlibrary.adapters.sql.database import database_now
from vlibrary.adapters.sql.mapping import read_keys
from vlibrary.adapters.sql.tables import AUDIT, CHANGES, LOG_HEAD, VECTORS
from vlibrary.adapters.sql.transactions import NOW, Transactions, Writer
from vlibrary.domain.changes import EPOCH_RENEWED, Change, ChangeKind, LogPosition, former_epochs, renewal_detail
from vlibrary.domain.registration import ANONYMOUS, SYSTEM, AuditEntry

# The timeline changes when a standby is promoted or a backup is rolled forward to a point in time: the log may then
# have lost its end and continued differently.
_SERVER = """(SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE
    system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END FROM pg_control_system())"""


class server_identity(FunctionElement[str]):  # noqa: N801  (reads as the SQL function that it is)
    """The PostgreSQL cluster and timeline; NULL on SQLite and on a standby."""

    type = String()
    inherit_cache = True


@compiles(server_identity)
def _identity(element: server_identity, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return _SERVER


@compiles(server_identity, "sqlite")
def _no_identity(element: server_identity, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return compiler.process(null(), **options)


# Built once, because every search and every writer executes them, and building takes longer than executing.
_HEAD = LOG_HEAD.c
_POSITION = select(_HEAD.epoch, _HEAD.n, _HEAD.mark, _HEAD.server, server_identity().label("current"))
_CHANGES = (
    select(
        CHANGES.c.seq,
        CHANGES.c.kind,
        CHANGES.c.vector_id,
        VECTORS.c.model_fingerprint,
        VECTORS.c.embedder,
        CHANGES.c.mark,
        VECTORS.c.seq.label("registered"),
    )
    .outerjoin_from(CHANGES, VECTORS, VECTORS.c.id == CHANGES.c.vector_id)
    .where(CHANGES.c.seq > bindparam("after"))
    .order_by(CHANGES.c.seq)
    .limit(bindparam("limit"))
)
_NEXT_CHANGE, _NEXT_ENTRY = {"n": _HEAD.n + 1, "mark": bindparam("token")}, {"audited": _HEAD.audited + 1}
_NUMBER_CHANGE = update(LOG_HEAD).values(_NEXT_CHANGE).returning(_HEAD.n)
_NUMBER_ENTRY = update(LOG_HEAD).values(_NEXT_ENTRY).returning(_HEAD.audited)
_NUMBER_BOTH = update(LOG_HEAD).values(_NEXT_CHANGE | _NEXT_ENTRY).returning(_HEAD.n, _HEAD.audited)
_ADD_CHANGE, _ADD_ENTRY = (
    insert(log).values({column: bindparam(column.key) for column in log.columns} | {log.c.at: database_now()})
    for log in (CHANGES, AUDIT)
)


class SqlChangeLog:
    """Implements ports.change_log.ChangeLog."""

    def __init__(self, db: Transactions) -> None:
        self._db = db

    def position(self) -> LogPosition:
        head = self._db.read(_head)
        if head.current in (None, head.server):
            return _position(head)
        return self._db.write(_bind_epoch, actor=SYSTEM)

    def read(self, after: int, limit: int) -> list[Change]:
        def act(connection: Connection) -> list[Change]:
            rows = connection.execute(_CHANGES, {"after": after, "limit": limit}).all()
            keys = read_keys(connection, {row.vector_id for row in rows if ChangeKind(row.kind).findable})
            return [
                Change(seq, ChangeKind(kind), vector_id, model, keys.get(vector_id, ()), embedder, mark, registered)
                if model is not None and ChangeKind(kind).findable  # None: purged since
                else Change(seq, ChangeKind(kind), vector_id, token=mark)
                for seq, kind, vector_id, model, embedder, mark, registered in rows
            ]

        return self._db.read(act)

    def renew_epoch(self, *, replacing: str | None = None, actor: str = ANONYMOUS) -> LogPosition:
        return self._db.write(lambda writer: renew_epoch(writer, replacing), actor=actor)

    def now(self) -> datetime:
        return self._db.read(lambda connection: connection.scalars(NOW).one())


class SqlAuditLog:
    """Implements ports.audit_log.AuditLog."""

    def __init__(self, db: Transactions) -> None:
        self._db = db

    def read(self, after: int, limit: int) -> list[AuditEntry]:
        entries = select(*AUDIT.c[:6]).where(AUDIT.c.seq > after).order_by(AUDIT.c.seq).limit(limit)
        return self._db.read(lambda connection: [AuditEntry(*row) for row in connection.execute(entries)])

    def append(self, action: str, subject: str, detail: Mapping[str, Any], *, actor: str) -> None:
        self._db.write(lambda writer: append_audit(writer, action, subject, detail), actor=actor)


def renew_epoch(writer: Writer, replacing: str | None = None, *, replaced: Iterable[str] = ()) -> LogPosition:
    """Give the database a new epoch, bound to its current server; return the position.

    replacing: do nothing unless this is the current epoch. replaced: `read_epochs` of the catalogue that a restore has
    just overwritten.
    """
    head = _head(writer.connection)
    if replacing is not None and head.epoch != replacing:
        return _position(head)
    epoch = uuid.uuid4().hex
    writer.connection.execute(update(LOG_HEAD).values(epoch=epoch, server=head.current))
    append_audit(writer, EPOCH_RENEWED, epoch, renewal_detail(head.epoch, head.n, replaced))
    return LogPosition(epoch, head.n, head.mark)


def read_epochs(connection: Connection) -> frozenset[str]:
    """Return the catalogue's epoch and all earlier ones."""
    renewals = connection.scalars(select(AUDIT.c.detail).where(AUDIT.c.action == EPOCH_RENEWED))
    return frozenset(connection.scalars(select(_HEAD.epoch))).union(*map(former_epochs, renewals))


def read_seq(connection: Connection) -> int:
    """Return the number of the newest change."""
    seq: int = connection.scalars(select(_HEAD.n)).one()
    return seq


def append_change(writer: Writer, kind: ChangeKind, vector_id: str) -> int:
    """Log the change; return its number. A single writer makes the numbers gapless and in commit order."""
    seq: int = writer.connection.scalars(_NUMBER_CHANGE, {"token": writer.token}).one()
    _insert_change(writer, seq, kind, vector_id)
    return seq


def append_audit(writer: Writer, action: str, subject: str, detail: Mapping[str, Any]) -> int:
    """Log the actor's action, once per transaction because the entry carries its token; return the entry's number."""
    seq: int = writer.connection.scalars(_NUMBER_ENTRY).one()
    _insert_entry(writer, seq, action, subject, detail)
    return seq


def append_change_and_audit(
    writer: Writer, kind: ChangeKind, vector_id: str, action: str, detail: Callable[[int], Mapping[str, Any]]
) -> int:
    """Do both with one statement less, for publications; return the change's number, which detail receives."""
    seq, entry = writer.connection.execute(_NUMBER_BOTH, {"token": writer.token}).one()
    _insert_change(writer, seq, kind, vector_id)
    _insert_entry(writer, entry, action, vector_id, detail(seq))
    return int(seq)


def _insert_change(writer: Writer, seq: int, kind: ChangeKind, vector_id: str) -> None:
    change = {"seq": seq, "kind": kind, "vector_id": vector_id, "mark": writer.token}
    writer.connection.execute(_ADD_CHANGE, change)


def _insert_entry(writer: Writer, seq: int, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    entry = {"seq": seq, "actor": writer.actor, "action": action, "subject": subject, "token": writer.token}
    writer.connection.execute(_ADD_ENTRY, entry | {"detail": dict(detail)})


def _bind_epoch(writer: Writer) -> LogPosition:
    """Return the position after binding the epoch to this server: a new one if it was bound to another server."""
    head = _head(writer.connection)
    if head.current in (None, head.server):
        return _position(head)
    if head.server is not None:
        return renew_epoch(writer)
    writer.connection.execute(update(LOG_HEAD).values(server=head.current))
    return _position(head)


def _head(connection: Connection) -> Row[Any]:
    return connection.execute(_POSITION).one()


def _position(head: Row[Any]) -> LogPosition:
    return LogPosition(head.epoch, head.n, head.mark)
