"""Marks in the change log, by which an index notices another history, and a way to what was purged of late.

Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("changes", "log_head"):
        with op.batch_alter_table(table) as changed:
            changed.add_column(sa.Column("mark", sa.String(), nullable=False, server_default=""))
    # Entries from before get marks of their own too: no two histories share a vector's id at the same place.
    op.execute("UPDATE changes SET mark = vector_id || kind")
    op.execute("UPDATE log_head SET mark = coalesce((SELECT mark FROM changes WHERE seq = log_head.n), '')")
    for table in ("changes", "log_head"):
        with op.batch_alter_table(table) as changed:
            changed.alter_column("mark", server_default=None)
    op.create_index("ix_changes_kind_at", "changes", ["kind", "at"])


def downgrade() -> None:
    op.drop_index("ix_changes_kind_at", "changes")
    for table in ("changes", "log_head"):
        with op.batch_alter_table(table) as changed:
            changed.drop_column("mark")
