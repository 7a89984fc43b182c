"""The catalogue's tables. A change here needs a migration in migrations/versions; a test runs `alembic check`."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from vlibrary.adapters.sql.database import UtcTime

# Compared by code point, as in Python, whatever the locale of the PostgreSQL database.
PLAIN_TEXT = String().with_variant(String(collation="C"), "postgresql")

# Constraint names are fixed, so that migrations can refer to them on every database.
METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# A registered vector. Its artifact and what training recorded never change; a purged vector's row is deleted.
VECTORS = Table(
    "vectors",
    METADATA,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", String, nullable=False),
    Column("description", String, nullable=False),
    Column("embedder", String),
    Column("calibration", JSON, nullable=False, server_default="{}"),
    Column("thresholds", JSON, nullable=False),
    Column("results", JSON, nullable=False),
    Column("model_id", String, nullable=False),
    Column("model_fingerprint", String, nullable=False),
    Column("model_architecture", String, nullable=False),
    Column("model_layers", Integer, nullable=False),
    Column("model_hidden_size", Integer, nullable=False),
    Column("method", String, nullable=False),
    Column("positions", String, nullable=False),
    Column("training", JSON, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("object_key", String, nullable=False, unique=True),
    Column("tags", JSON, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("derived_from", JSON, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("seq", BigInteger, nullable=False, unique=True),
    Column("revision", Integer, nullable=False),
    Column("deleted_at", UtcTime),
    UniqueConstraint("name", "version"),
    Index(None, "model_id"),
)

# One task key of a vector: its parts as little-endian float32, NULL for a missing part.
TASK_KEYS = Table(
    "task_keys",
    METADATA,
    Column("vector_id", ForeignKey("vectors.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("image", LargeBinary),
    Column("text", LargeBinary),
)

# One property that a vector can be filtered by, from its tags, metadata and derived_from. kind: tag, parent (the key is
# the tag or the parent's id), or the kind of a metadata value, which is in text or number.
FACETS = Table(
    "facets",
    METADATA,
    Column("vector_id", ForeignKey("vectors.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("text", PLAIN_TEXT),
    Column("number", Double),
    Index(None, "kind", "key", "text"),
    Index(None, "kind", "key", "number"),
)

# The newest version ever given to a name, so that no version is reused.
NAMES = Table("names", METADATA, Column("name", String, primary_key=True), Column("newest", Integer, nullable=False))

ALIASES = Table(
    "aliases",
    METADATA,
    Column("name", String, primary_key=True),
    Column("alias", String, primary_key=True),
    Column("vector_id", ForeignKey("vectors.id"), nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("changed_at", UtcTime, nullable=False),
    Index(None, "vector_id"),
)

# A reservation. Unpublished, it is void after its deadline; published, it answers its idempotency key for good.
UPLOADS = Table(
    "uploads",
    METADATA,
    Column("idempotency_key", String, primary_key=True),
    Column("request_sha256", String, nullable=False),
    Column("vector_id", String, nullable=False, unique=True),
    Column("object_key", String, nullable=False, unique=True),
    Column("deadline", UtcTime, nullable=False),
    Column("published", Boolean, nullable=False),
    Index(None, "published", "deadline"),
)

# One entry of the change log; it outlives its vector. mark: the token of the transaction that wrote it.
CHANGES = Table(
    "changes",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String, nullable=False),
    Column("vector_id", String, nullable=False),
    Column("at", UtcTime, nullable=False),
    Column("mark", String, nullable=False),
    Index(None, "kind", "at"),
)

# token: that of the writing transaction, which checks by it whether a commit without an answer succeeded.
AUDIT = Table(
    "audit",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("token", String, nullable=False, unique=True),
)

# The single row that numbers both logs; the transaction that locks it is the only writer. epoch: new for every database
# and every restore. server: the PostgreSQL cluster and timeline of the epoch. mark: that of the newest change.
LOG_HEAD = Table(
    "log_head",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", String, nullable=False),
    Column("n", BigInteger, nullable=False),
    Column("mark", String, nullable=False),
    Column("audited", BigInteger, nullable=False),
    Column("server", String),
    CheckConstraint("id = 1", name="only_one"),
)
