"""The scales by which a vector's cosines become probabilities; vectors from before keep their thresholds.

Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("vectors") as vectors:
        vectors.add_column(sa.Column("calibration", sa.JSON(), nullable=False, server_default="{}"))


def downgrade() -> None:
    with op.batch_alter_table("vectors") as vectors:
        vectors.drop_column("calibration")
