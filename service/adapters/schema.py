"""Brings a database to the schema that this version of the code needs."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

import service
from service.adapters.database import connect, our_errors
from service.domain.errors import CatalogueUnavailable

URL_ATTRIBUTE = "sqlalchemy.url"


def upgrade(url: str) -> None:
    """Bring the database up to date, keeping its data; one that is up to date is left alone.

    Raises CatalogueUnavailable, also for a database that a newer version of this service made.
    """
    with our_errors():
        try:
            command.upgrade(alembic_config(url), "head")
        except CommandError as error:
            raise CatalogueUnavailable(
                f"The database cannot be brought up to date ({error}).",
                "Run a version of this service that is at least as new as the database, or restore a backup.",
            ) from error


def is_current(url: str) -> bool:
    """Whether the database has exactly the schema of this version. Raises CatalogueUnavailable."""
    newest = ScriptDirectory.from_config(alembic_config(url)).get_heads()
    engine = connect(url)
    try:
        with our_errors(), engine.connect() as connection:
            return set(MigrationContext.configure(connection).get_current_heads()) == set(newest)
    finally:
        engine.dispose()


def alembic_config(url: str) -> Config:
    """Alembic's settings for this database. The URL goes in as an attribute: as an option, % would be special."""
    config = Config()
    # The migrations lie beside the package, in a checkout as well as where a wheel puts them.
    config.set_main_option(
        "script_location", str(Path(service.__file__).resolve().parents[1] / "migrations").replace("%", "%%")
    )
    config.attributes[URL_ATTRIBUTE] = url
    return config
