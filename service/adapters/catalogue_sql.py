"""The catalogue in a SQL database.

Writers run one after another (SQLite: BEGIN IMMEDIATE; elsewhere the lock on the log head's row), readers beside
them. A publish is a millisecond or two of database time next to an upload of many, and with one writer at a time the
version, the idempotency key and the deadline are decided without a race. A collector that removes an expired
reservation as such a writer is exact for the same reason: of publisher and collector, the second sees the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from sqlalchemy import Engine, Select, and_, func, select, update
from sqlalchemy.orm import Session, joinedload, selectinload

from service.adapters import rows
from service.adapters.cursor import decode_cursor, encode_cursor
from service.adapters.database import connect, database_now, for_writing, our_errors
from service.adapters.tables import ChangeRow, LogHeadRow, UploadRow, VectorRow
from service.adapters.upload_rules import check_used_key, upload_expired, vector_not_found
from service.domain.card import Status, VectorRecord
from service.domain.ports import Change, ChangeKind, Page, Position, Upload

__all__ = ["SqlCatalogue", "connect"]


class SqlCatalogue:
    """ports.Catalogue on a database that service.adapters.schema brought up to date. Threads may share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writing_engine = for_writing(engine)

    def reserve(self, upload: Upload) -> VectorRecord | None:
        with self._writing() as session:
            reserved = session.get(UploadRow, upload.idempotency_key)
            if reserved is not None and (reserved.published or reserved.deadline > _now(session)):
                check_used_key(upload, request_sha256=reserved.request_sha256, published=reserved.published)
                return _published_record(session, reserved.vector_id)
            if reserved is not None:
                session.delete(reserved)
                session.flush()
            session.add(
                UploadRow(
                    idempotency_key=upload.idempotency_key,
                    request_sha256=upload.request_sha256,
                    vector_id=upload.vector_id,
                    object_key=upload.object_key,
                    deadline=upload.deadline,
                    published=False,
                )
            )
            return None

    def publish(self, upload: Upload, record: VectorRecord) -> VectorRecord:
        with self._writing() as session:
            reserved = session.get(UploadRow, upload.idempotency_key)
            if reserved is None or reserved.vector_id != upload.vector_id:
                raise upload_expired(upload)
            if reserved.published:
                return _published_record(session, upload.vector_id)
            if reserved.deadline <= _now(session):
                raise upload_expired(upload)
            newest = session.scalar(select(func.max(VectorRow.version)).where(VectorRow.name == record.name))
            row = rows.vector_row(record, version=(newest or 0) + 1)
            session.add(row)
            reserved.published = True
            return rows.record(row, _append(session, ChangeKind.PUBLISHED, row.id))

    def release(self, upload: Upload) -> None:
        with self._writing() as session:
            reserved = session.get(UploadRow, upload.idempotency_key)
            if reserved is not None and reserved.vector_id == upload.vector_id and not reserved.published:
                session.delete(reserved)

    def get(self, vector_id: str) -> VectorRecord:
        found = self.get_many([vector_id])
        if not found:
            raise vector_not_found(vector_id)
        return found[0]

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        asked = [vector_id for vector_id in vector_ids if _can_be_stored(vector_id)]
        with self._reading() as session:
            found = session.execute(_active().where(VectorRow.id.in_(set(asked))))
            records = {row.id: rows.record(row, change) for row, change in found}
        return [records[vector_id] for vector_id in asked if vector_id in records]

    def page(self, *, name: str | None, model_id: str | None, limit: int, cursor: str | None) -> Page:
        query = _active().order_by(ChangeRow.seq.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(ChangeRow.seq < decode_cursor(cursor))
        for column, wanted in ((VectorRow.name, name), (VectorRow.model_id, model_id)):
            if wanted is not None:
                query = query.where(column == wanted)
        if not all(_can_be_stored(wanted) for wanted in (name, model_id) if wanted is not None):
            return Page(records=(), next=None)
        with self._reading() as session:
            records = [rows.record(row, change) for row, change in session.execute(query)]
        more = len(records) > limit
        return Page(tuple(records[:limit]), next=encode_cursor(records[limit - 1].seq) if more else None)

    def delete(self, vector_id: str) -> int:
        with self._writing() as session:
            row = session.get(VectorRow, vector_id) if _can_be_stored(vector_id) else None
            if row is None or row.status != Status.ACTIVE:
                raise vector_not_found(vector_id)
            row.status = Status.DELETED
            return _append(session, ChangeKind.DELETED, vector_id).seq

    def position(self) -> Position:
        with self._reading() as session:
            epoch, n = session.execute(select(LogHeadRow.epoch, LogHeadRow.n)).one()
        return Position(epoch=epoch, seq=n)

    def changes(self, after: int, limit: int) -> list[Change]:
        entries = (
            select(ChangeRow)
            .where(ChangeRow.seq > after)
            .order_by(ChangeRow.seq)
            .limit(limit)
            .options(joinedload(ChangeRow.vector).selectinload(VectorRow.keys))
        )
        with self._reading() as session:
            return [rows.change(entry) for entry in session.scalars(entries)]

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        with our_errors(), Session(self._engine) as session, session.begin():
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """A transaction that no other writer runs beside."""
        with our_errors(), Session(self._writing_engine, expire_on_commit=False) as session, session.begin():
            session.execute(select(LogHeadRow.n).with_for_update()).one()  # SQLite leaves FOR UPDATE out
            yield session


def _active() -> Select[VectorRow, ChangeRow]:
    return _vectors().where(VectorRow.status == Status.ACTIVE)


def _vectors() -> Select[VectorRow, ChangeRow]:
    """Vectors with the change that published them."""
    publication = and_(ChangeRow.vector_id == VectorRow.id, ChangeRow.kind == ChangeKind.PUBLISHED)
    return select(VectorRow, ChangeRow).join(ChangeRow, publication).options(selectinload(VectorRow.keys))


def _published_record(session: Session, vector_id: str) -> VectorRecord:
    return rows.record(*session.execute(_vectors().where(VectorRow.id == vector_id)).one())


def _append(session: Session, kind: ChangeKind, vector_id: str) -> ChangeRow:
    """Number the change: the last thing a writer does, so that numbers have no gaps and follow the commits."""
    at = _now(session)
    session.flush()
    seq = session.scalars(update(LogHeadRow).values(n=LogHeadRow.n + 1).returning(LogHeadRow.n)).one()
    entry = ChangeRow(seq=seq, kind=kind, vector_id=vector_id, at=at)
    session.add(entry)
    session.flush()
    return entry


def _now(session: Session) -> datetime:
    return session.scalars(select(database_now())).one()


def _can_be_stored(text: str) -> bool:
    """Whether a row can have this text at all: databases choke on the rest (lone surrogates, NUL)."""
    return text.isprintable()
