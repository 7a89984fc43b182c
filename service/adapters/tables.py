"""The catalogue's tables. A change here needs a migration (migrations/versions); `alembic check` is a test."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, LargeBinary, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from service.adapters.database import UtcTime


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
    """A registered vector. Only its status ever changes; rows stay, so that versions are never given twice."""

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

    keys: Mapped[list[KeyRow]] = relationship(order_by="KeyRow.number", lazy="raise")


class KeyRow(Base):
    """One task key of a vector: its parts as little-endian float32, NULL where a part is missing."""

    __tablename__ = "task_keys"

    vector_id: Mapped[str] = mapped_column(ForeignKey("vectors.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    image: Mapped[bytes | None] = mapped_column(LargeBinary)
    text: Mapped[bytes | None] = mapped_column(LargeBinary)


class UploadRow(Base):
    """A reservation. Unpublished it is void after its deadline; published it answers its idempotency key for ever."""

    __tablename__ = "uploads"

    idempotency_key: Mapped[str] = mapped_column(primary_key=True)
    request_sha256: Mapped[str]
    vector_id: Mapped[str] = mapped_column(unique=True)
    object_key: Mapped[str] = mapped_column(unique=True)
    deadline: Mapped[datetime] = mapped_column(UtcTime)
    published: Mapped[bool]


class ChangeRow(Base):
    """One entry of the change log, which is also the audit trail: what happened to which vector, and when."""

    __tablename__ = "changes"
    __table_args__ = (UniqueConstraint("vector_id", "kind"),)

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    kind: Mapped[str]
    vector_id: Mapped[str] = mapped_column(ForeignKey("vectors.id"))
    at: Mapped[datetime] = mapped_column(UtcTime)

    vector: Mapped[VectorRow] = relationship(lazy="raise")


class LogHeadRow(Base):
    """The one row that numbers the change log. epoch is new for every database and every restored backup."""

    __tablename__ = "log_head"
    __table_args__ = (CheckConstraint("id = 1", name="only_one"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[str]
    n: Mapped[int] = mapped_column(BigInteger)
