"""Migrate a database to the schema of this release."""

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
    """Migrate the database to the newest schema.

    Raises CatalogueUnavailable, also for the database of a newer release.
    """
    with translate_errors():
        try:
            command.upgrade(alembic_config(url), "head")
        except CommandError as error:
            raise CatalogueUnavailable(
                f"The database cannot be migrated ({error}).",
                "Run a release at least as new as the database, or restore a backup.",
            ) from error


@dataclass(frozen=True)
class Revisions:
    """Schema revisions of a database: its own (None: no tables) and the one that this release needs."""

    have: str | None
    need: str

    @property
    def current(self) -> bool:
        return self.have == self.need


def revisions(url: str) -> Revisions:
    """Return the revisions that the database has and needs.

    Raises CatalogueUnavailable, also for the database of a newer release.
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
            f"The database has the schema revision {have!r}, which this release does not know.",
            "Run a release at least as new as the database, or restore a backup.",
        )
    return Revisions(have, script.get_current_head() or "")


def alembic_config(url: str) -> Config:
    """Return Alembic's settings for this database. The URL is an attribute, because % is special in options."""
    config = Config()
    config.set_main_option("script_location", str(files("vlibrary.migrations")).replace("%", "%%"))
    config.attributes[URL_ATTRIBUTE] = url
    return config
