"""The change log, the audit log, and the head that numbers both."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, String, bindparam, insert, null, select, update
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.expression import FunctionElement

from vlibrary.adapters.sql import mapping
from vlibrary.adapters.sql.database import database_now
from vlibrary.adapters.sql.tables import AuditRow, ChangeRow, LogHeadRow, table
from vlibrary.adapters.sql.transactions import Writer
from vlibrary.domain.epochs import RENEWED, former, renewal
from vlibrary.domain.ports import AuditEntry, ChangeKind, Position

# The timeline changes when a standby takes over, or a backup is rolled forward to some moment: the log may then have
# lost its end, and grown another one.
_SERVER = """(SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE
    system_identifier || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END FROM pg_control_system())"""


class server_identity(FunctionElement[str]):  # noqa: N801  (reads as the SQL function that it is)
    """Which PostgreSQL cluster and timeline this is; NULL on SQLite and on a standby."""

    type = String()
    inherit_cache = True


@compiles(server_identity)
def _identity(element: server_identity, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return _SERVER


@compiles(server_identity, "sqlite")
def _no_identity(element: server_identity, compiler: SQLCompiler, **options: Any) -> str:  # noqa: ARG001
    return compiler.process(null(), **options)


# Made once and of the tables' own columns, since every search and every writer asks them: to put them together from the
# mapper's attributes takes SQLAlchemy longer than the rest.
_HEAD = table(LogHeadRow).c
_POSITION = select(_HEAD.epoch, _HEAD.n, _HEAD.mark, _HEAD.server, server_identity())
_NEWEST = select(_HEAD.n)
_CHANGE, _ENTRY = {"n": _HEAD.n + 1, "mark": bindparam("token")}, {"audited": _HEAD.audited + 1}
_COUNT_CHANGE = update(table(LogHeadRow)).values(_CHANGE).returning(_HEAD.n)
_COUNT_ENTRY = update(table(LogHeadRow)).values(_ENTRY).returning(_HEAD.audited)
_COUNT_BOTH = update(table(LogHeadRow)).values(_CHANGE | _ENTRY).returning(_HEAD.n, _HEAD.audited)
_ADD_CHANGE, _ADD_ENTRY = (
    insert(log).values({column: bindparam(column.key) for column in log.columns} | {log.c.at: database_now()})
    for log in (table(ChangeRow), table(AuditRow))
)


def position(database: Session | Connection) -> Position | None:
    """The newest place in the log; None when the epoch belongs to another server and must be settled first."""
    epoch, n, mark, settled_on, server = database.execute(_POSITION).one()
    return Position(epoch, n, mark) if server in (None, settled_on) else None


def settle_epoch(writer: Writer) -> Position:
    """The position, with a new epoch if the database was given its epoch on another server."""
    found = position(writer.session)
    if found is not None:
        return found
    head = _head(writer)
    if head.server is None:  # its first day on PostgreSQL
        head.server = writer.session.scalar(select(server_identity()))
        return _position(head)
    return renew_epoch(writer)


def renew_epoch(writer: Writer, replacing: str | None = None, *, replaced: Iterable[str] = ()) -> Position:
    """Give the database a new epoch, bound to the server that it is on now, if its epoch is the one to be replaced.

    replaced: `epochs` of the catalogue in whose place this one was just put.
    """
    head = _head(writer)
    if replacing is not None and head.epoch != replacing:
        return _position(head)
    old, head.epoch = head.epoch, uuid.uuid4().hex
    head.server = writer.session.scalar(select(server_identity()))
    audit(writer, RENEWED, head.epoch, renewal(old, head.n, replaced))
    return _position(head)


def newest(writer: Writer) -> int:
    """The newest change's number: nobody else writes meanwhile."""
    seq: int = writer.connection.scalars(_NEWEST).one()
    return seq


def epochs(session: Session) -> frozenset[str]:
    """The catalogue's epoch and all that it had before."""
    renewals = session.scalars(select(AuditRow.detail).where(AuditRow.action == RENEWED))
    return frozenset(session.scalars(select(LogHeadRow.epoch))).union(*map(former, renewals))


def append(writer: Writer, kind: ChangeKind, vector_id: str) -> int:
    """Log the change and return its number: no gaps, and in the order of the commits, since writers take turns."""
    seq: int = writer.connection.scalars(_COUNT_CHANGE, {"token": writer.token}).one()
    _add_change(writer, seq, kind, vector_id)
    return seq


def append_and_audit(
    writer: Writer, kind: ChangeKind, vector_id: str, action: str, detail: Callable[[int], Mapping[str, Any]]
) -> int:
    """Both in fewer steps, for what there is most of; returns the change's number, of which the detail tells."""
    seq, entry = writer.connection.execute(_COUNT_BOTH, {"token": writer.token}).one()
    _add_change(writer, seq, kind, vector_id)
    _add_entry(writer, entry, action, vector_id, detail(seq))
    return int(seq)


def audit(writer: Writer, action: str, subject: str, detail: Mapping[str, Any]) -> int:
    """Log what the actor does, once a transaction, since the entry carries its token; returns the entry's number."""
    seq: int = writer.connection.scalars(_COUNT_ENTRY).one()
    _add_entry(writer, seq, action, subject, detail)
    return seq


def audit_entries(session: Session, after: int, limit: int) -> list[AuditEntry]:
    entries = select(AuditRow).where(AuditRow.seq > after).order_by(AuditRow.seq).limit(limit)
    return [mapping.audit_entry(entry) for entry in session.scalars(entries)]


def _add_change(writer: Writer, seq: int, kind: ChangeKind, vector_id: str) -> None:
    change = {"seq": seq, "kind": kind, "vector_id": vector_id, "mark": writer.token}
    writer.connection.execute(_ADD_CHANGE, change)


def _add_entry(writer: Writer, seq: int, action: str, subject: str, detail: Mapping[str, Any]) -> None:
    entry = {"seq": seq, "actor": writer.actor, "action": action, "subject": subject, "token": writer.token}
    writer.connection.execute(_ADD_ENTRY, entry | {"detail": dict(detail)})


def _position(head: LogHeadRow) -> Position:
    return Position(head.epoch, head.n, head.mark)


def _head(writer: Writer) -> LogHeadRow:
    return writer.session.scalars(select(LogHeadRow)).one()
