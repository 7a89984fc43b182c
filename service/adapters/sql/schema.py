"""Brings a database to the schema that this version of the code needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from vlibrary.adapters.sql.database import connect, translate_errors
from vlibrary.domain.errors import CatalogueUnavailable

URL_ATTRIBUTE = "sqlalchemy.url"


def upgrade(url: str) -> None:
    """Bring the database up to date, keeping its data; one that is up to date is left alone.

    Raises CatalogueUnavailable, also for a database that a newer version of this service made.
    """
    with translate_errors():
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
        with translate_errors(), engine.connect() as connection:
            return set(MigrationContext.configure(connection).get_current_heads()) == set(newest)
    finally:
        engine.dispose()


@dataclass(frozen=True)
class Revisions:
    """Of a database's tables: what they are (None: there are none), and what this release needs."""

    have: str | None
    need: str

    @property
    def current(self) -> bool:
        return self.have == self.need


def revisions(url: str) -> Revisions:
    """Which revisions the database has and needs.

    Raises CatalogueUnavailable, also for one that a newer version of this service made.
    """
    script = ScriptDirectory.from_config(alembic_config(url))
    engine = connect(url)
    try:
        with translate_errors(), engine.connect() as connection:
            have = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    known = {revision.revision for revision in script.walk_revisions()}
    if have is not None and have not in known:
        raise CatalogueUnavailable(
            f"The database has tables of revision {have!r}, which this release does not know.",
            "Run a release that is at least as new as the database, or restore a backup.",
        )
    return Revisions(have, script.get_current_head() or "")


def alembic_config(url: str) -> Config:
    """Alembic's settings for this database. The URL goes in as an attribute: as an option, % would be special."""
    config = Config()
    config.set_main_option("script_location", str(files("vlibrary.migrations")).replace("%", "%%"))
    config.attributes[URL_ATTRIBUTE] = url
    return config
