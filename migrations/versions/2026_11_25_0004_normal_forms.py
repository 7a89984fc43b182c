"""Tags, and the texts by which metadata is filtered, in Unicode's normal form NFC.

Revises: 0003
"""

from unicodedata import normalize

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

VECTORS = sa.table("vectors", sa.column("id", sa.String), sa.column("tags", sa.JSON))
FACETS = sa.table(
    "facets",
    *(sa.column(name, sa.String) for name in ("vector_id", "kind", "key", "text")),
    sa.column("position", sa.Integer),
)


def upgrade() -> None:
    connection = op.get_bind()
    kinds = FACETS.c.kind.in_(("tag", "text"))
    for facet in connection.execute(sa.select(FACETS).where(kinds)).all():
        text = None if facet.text is None else normalize("NFC", facet.text)
        new = {"key": normalize("NFC", facet.key), "text": text}
        if new != {"key": facet.key, "text": facet.text}:
            place = (FACETS.c.vector_id == facet.vector_id, FACETS.c.position == facet.position)
            connection.execute(sa.update(FACETS).where(*place).values(new))
    for vector in connection.execute(sa.select(VECTORS)).all():
        tags = sorted({normalize("NFC", tag) for tag in vector.tags})
        if tags != vector.tags:
            connection.execute(sa.update(VECTORS).where(VECTORS.c.id == vector.id).values(tags=tags))


def downgrade() -> None:
    pass
