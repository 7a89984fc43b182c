"""The catalogue's tables. A change here needs a migration (migrations/versions); `alembic check` is a test."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from vlibrary.adapters.sql.database import UtcTime
from vlibrary.domain.labels import MetadataValue

# Compared by code point, as Python does it, whatever the language of the PostgreSQL database.
PLAIN_TEXT = String().with_variant(String(collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Names of constraints are fixed here, so that later migrations can refer to them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class VectorRow(Base):
    """A registered vector. Its file and what was learnt never change; a purged vector's row is gone."""

    __tablename__ = "vectors"
    __table_args__ = (UniqueConstraint("name", "version"), Index(None, "model_id"))

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    status: Mapped[str]
    description: Mapped[str]
    embedder: Mapped[str | None]
    thresholds: Mapped[dict[str, float]] = mapped_column(JSON)
    results: Mapped[dict[str, Any]] = mapped_column(JSON)
    model_id: Mapped[str]
    model_fingerprint: Mapped[str]
    model_architecture: Mapped[str]
    model_layers: Mapped[int]
    model_hidden_size: Mapped[int]
    method: Mapped[str]
    positions: Mapped[str]
    training: Mapped[dict[str, Any]] = mapped_column(JSON)
    sha256: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    object_key: Mapped[str] = mapped_column(unique=True)
    tags: Mapped[list[str]] = mapped_column(JSON)
    facts: Mapped[dict[str, MetadataValue]] = mapped_column("metadata", JSON)
    derived_from: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcTime)
    seq: Mapped[int] = mapped_column(BigInteger, unique=True)
    revision: Mapped[int]
    deleted_at: Mapped[datetime | None] = mapped_column(UtcTime)

    keys: Mapped[list[KeyRow]] = relationship(order_by="KeyRow.number", lazy="raise")


class KeyRow(Base):
    """One task key of a vector: its parts as little-endian float32, NULL where a part is missing."""

    __tablename__ = "task_keys"

    vector_id: Mapped[str] = mapped_column(ForeignKey("vectors.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    image: Mapped[bytes | None] = mapped_column(LargeBinary)
    text: Mapped[bytes | None] = mapped_column(LargeBinary)


class FacetRow(Base):
    """One thing that a vector can be filtered by, drawn from its tags, metadata and derived_from.

    kind: tag and parent (the key is the tag or the id), or the kind of a metadata value, which text or number holds.
    """

    __tablename__ = "facets"
    __table_args__ = (Index(None, "kind", "key", "text"), Index(None, "kind", "key", "number"))

    vector_id: Mapped[str] = mapped_column(ForeignKey("vectors.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    key: Mapped[str]
    text: Mapped[str | None] = mapped_column(PLAIN_TEXT)
    number: Mapped[float | None] = mapped_column(Double)


class NameRow(Base):
    """The newest version of a name that was ever given, so that none is given twice."""

    __tablename__ = "names"

    name: Mapped[str] = mapped_column(primary_key=True)
    newest: Mapped[int]


class AliasRow(Base):
    """A movable pointer from a name to one of its vectors."""

    __tablename__ = "aliases"
    __table_args__ = (Index(None, "vector_id"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(primary_key=True)
    vector_id: Mapped[str] = mapped_column(ForeignKey("vectors.id"))
    revision: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[datetime] = mapped_column(UtcTime)


class UploadRow(Base):
    """A reservation. Unpublished it is void after its deadline; published it answers its idempotency key for ever."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "published", "deadline"),)

    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    vector_id: Mapped[str] = mapped_column(unique=True)
    object_key: Mapped[str] = mapped_column(unique=True)
    deadline: Mapped[datetime] = mapped_column(UtcTime)
    published: Mapped[bool]


class ChangeRow(Base):
    """One entry of the change log: what happened to which vector, and when. It outlives the vector.

    mark: the token of the transaction that wrote it, by which one history is told from another.
    """

    __tablename__ = "changes"
    __table_args__ = (Index(None, "kind", "at"),)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    vector_id: Mapped[str]
    at: Mapped[datetime] = mapped_column(UtcTime)
    mark: Mapped[str]


class AuditRow(Base):
    """Who did what. token: the writer's own mark, by which it finds out whether its lost commit was kept."""

    __tablename__ = "audit"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(UtcTime)
    actor: Mapped[str]
    action: Mapped[str]
    subject: Mapped[str]
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)
    token: Mapped[str] = mapped_column(unique=True)


class LogHeadRow(Base):
    """The one row that numbers both logs; who locks it is the one writer.

    epoch is new for every database and every restored backup. server: which PostgreSQL server and timeline it was
    given on. mark: the newest change's.
    """

    __tablename__ = "log_head"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[str]
    n: Mapped[int] = mapped_column(BigInteger)
    mark: Mapped[str]
    audited: Mapped[int] = mapped_column(BigInteger)
    server: Mapped[str | None]


def table(row: type[Base]) -> Table:
    """The table itself, for statements that can do without the mapper's bookkeeping, which takes longer than they."""
    return Base.metadata.tables[row.__tablename__]
