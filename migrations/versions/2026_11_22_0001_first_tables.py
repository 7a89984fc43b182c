"""First tables: vectors with their keys, uploads, the change log and its head.

Revises: nothing
"""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vectors",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("embedder", sa.String(), nullable=True),
        sa.Column("thresholds", sa.JSON(), nullable=False),
        sa.Column("results", sa.JSON(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("model_fingerprint", sa.String(), nullable=False),
        sa.Column("model_architecture", sa.String(), nullable=False),
        sa.Column("model_layers", sa.Integer(), nullable=False),
        sa.Column("model_hidden_size", sa.Integer(), nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("positions", sa.String(), nullable=False),
        sa.Column("training", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("object_key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_vectors"),
        sa.UniqueConstraint("name", "version", name="uq_vectors_name_version"),
        sa.UniqueConstraint("object_key", name="uq_vectors_object_key"),
    )
    op.create_index("ix_vectors_model_id", "vectors", ["model_id"])
    op.create_table(
        "task_keys",
        sa.Column("vector_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("image", sa.LargeBinary(), nullable=True),
        sa.Column("text", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("vector_id", "number", name="pk_task_keys"),
        sa.ForeignKeyConstraint(["vector_id"], ["vectors.id"], name="fk_task_keys_vector_id"),
    )
    op.create_table(
        "uploads",
        sa.Column("idempotency_key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("vector_id", sa.String(), nullable=False),
        sa.Column("object_key", sa.String(), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("idempotency_key", name="pk_uploads"),
        sa.UniqueConstraint("vector_id", name="uq_uploads_vector_id"),
        sa.UniqueConstraint("object_key", name="uq_uploads_object_key"),
    )
    op.create_table(
        "changes",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("vector_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_changes"),
        sa.ForeignKeyConstraint(["vector_id"], ["vectors.id"], name="fk_changes_vector_id"),
        sa.UniqueConstraint("vector_id", "kind", name="uq_changes_vector_id_kind"),
    )
    log_head = op.create_table(
        "log_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.String(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_log_head"),
        sa.CheckConstraint("id = 1", name="ck_log_head_only_one"),
    )
    # The log has a head from the start, so that no writer has to make it.
    op.bulk_insert(log_head, [{"id": 1, "epoch": uuid.uuid4().hex, "n": 0}])


def downgrade() -> None:
    for table in ("log_head", "changes", "uploads", "task_keys", "vectors"):
        op.drop_table(table)
