"""Run by Alembic for every command. The URL comes from the caller (vlibrary.adapters.sql.schema) or the environment."""

from __future__ import annotations

import os

from alembic import context

from vlibrary.adapters.sql.database import connect, migrating
from vlibrary.adapters.sql.tables import METADATA


def run() -> None:
    """Run all steps in one exclusive transaction, so that several processes can start at the same time."""
    engine = connect(context.config.attributes.get("sqlalchemy.url") or os.environ["VLIBRARY_DATABASE_URL"])
    try:
        with migrating(engine) as connection:
            # render_as_batch: SQLite alters a table by rewriting it.
            context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
            context.run_migrations()
    finally:
        engine.dispose()


run()
