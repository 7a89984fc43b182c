"""A registry: aliases, tags, metadata, lineage, restoring and purging, revisions, the audit log.

Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TEXT = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_TIME = sa.DateTime(timezone=True)
_NEW_IN_VECTORS = ("tags", "metadata", "derived_from", "created_at", "seq", "revision")


def upgrade() -> None:
    with op.batch_alter_table("vectors") as vectors:
        vectors.add_column(sa.Column("tags", sa.JSON()))
        vectors.add_column(sa.Column("metadata", sa.JSON()))
        vectors.add_column(sa.Column("derived_from", sa.JSON()))
        vectors.add_column(sa.Column("created_at", _TIME))
        vectors.add_column(sa.Column("seq", sa.BigInteger()))
        vectors.add_column(sa.Column("revision", sa.Integer()))
        vectors.add_column(sa.Column("deleted_at", _TIME))
    op.execute(
        """
        UPDATE vectors SET tags = '[]', metadata = '{}', derived_from = '[]',
            created_at = (SELECT at FROM changes WHERE vector_id = vectors.id AND kind = 'published'),
            seq = (SELECT seq FROM changes WHERE vector_id = vectors.id AND kind = 'published'),
            revision = (SELECT count(*) FROM changes WHERE vector_id = vectors.id),
            deleted_at = (SELECT at FROM changes WHERE vector_id = vectors.id AND kind = 'deleted')
        """
    )
    with op.batch_alter_table("vectors") as vectors:
        for name in _NEW_IN_VECTORS:
            vectors.alter_column(name, nullable=False)
        vectors.create_unique_constraint("uq_vectors_seq", ["seq"])
    op.create_table(
        "facets",
        sa.Column("vector_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("text", _TEXT, nullable=True),
        sa.Column("number", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("vector_id", "position", name="pk_facets"),
        sa.ForeignKeyConstraint(["vector_id"], ["vectors.id"], name="fk_facets_vector_id"),
    )
    op.create_index("ix_facets_kind_key_text", "facets", ["kind", "key", "text"])
    op.create_index("ix_facets_kind_key_number", "facets", ["kind", "key", "number"])
    op.create_table(
        "names",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("newest", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_names"),
    )
    op.execute("INSERT INTO names (name, newest) SELECT name, max(version) FROM vectors GROUP BY name")
    op.create_table(
        "aliases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("vector_id", sa.String(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", "alias", name="pk_aliases"),
        sa.ForeignKeyConstraint(["vector_id"], ["vectors.id"], name="fk_aliases_vector_id"),
    )
    op.create_index("ix_aliases_vector_id", "aliases", ["vector_id"])
    op.create_index("ix_uploads_published_deadline", "uploads", ["published", "deadline"])
    # The log outlives purged vectors, and a restored vector is deleted a second time.
    with op.batch_alter_table("changes") as changes:
        changes.drop_constraint("fk_changes_vector_id", type_="foreignkey")
        changes.drop_constraint("uq_changes_vector_id_kind", type_="unique")
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name="pk_audit"),
        sa.UniqueConstraint("token", name="uq_audit_token"),
    )
    # Until now the change log was the audit trail, of actors that were not asked for their names.
    op.execute(
        """
        INSERT INTO audit (seq, at, actor, action, subject, detail, token)
        SELECT seq, at, 'anonymous', CASE kind WHEN 'published' THEN 'vector.publish' ELSE 'vector.delete' END,
            vector_id, '{}', 'migrated-' || seq
        FROM changes
        """
    )
    with op.batch_alter_table("log_head") as log_head:
        log_head.add_column(sa.Column("audited", sa.BigInteger()))
        log_head.add_column(sa.Column("server", sa.String()))
    op.execute("UPDATE log_head SET audited = n")
    with op.batch_alter_table("log_head") as log_head:
        log_head.alter_column("audited", nullable=False)


def downgrade() -> None:
    """Back to what 0001 could say; refused when the log has kinds that it did not know."""
    connection = op.get_bind()
    newer = connection.scalar(sa.text("SELECT count(*) FROM changes WHERE kind NOT IN ('published', 'deleted')"))
    if newer:
        raise CommandError(f"{newer} changes of the log are of kinds that the older version does not know.")
    with op.batch_alter_table("log_head") as log_head:
        log_head.drop_column("server")
        log_head.drop_column("audited")
    op.drop_table("audit")
    with op.batch_alter_table("changes") as changes:
        changes.create_unique_constraint("uq_changes_vector_id_kind", ["vector_id", "kind"])
        changes.create_foreign_key("fk_changes_vector_id", "vectors", ["vector_id"], ["id"])
    op.drop_index("ix_uploads_published_deadline", "uploads")
    for table in ("aliases", "names", "facets"):
        op.drop_table(table)
    with op.batch_alter_table("vectors") as vectors:
        vectors.drop_constraint("uq_vectors_seq", type_="unique")
        for name in (*_NEW_IN_VECTORS, "deleted_at"):
            vectors.drop_column(name)
