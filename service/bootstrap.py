"""Composition root of the stores: reads the settings and opens what they name, for the api and the command line."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.artifacts.open import open_artifacts
from vlibrary.adapters.backup.folder import BackupFolder
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.locations import check_disjoint, create_folder
from vlibrary.adapters.snapshots.open import open_snapshots
from vlibrary.adapters.sql.backup_tables import SqlTables
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.adapters.sql.schema import Revisions, revisions, upgrade
from vlibrary.config import Settings, read_settings
from vlibrary.config_values import mask_passwords
from vlibrary.domain.errors import CatalogueUnavailable
from vlibrary.domain.ports.backup import Backup
from vlibrary.domain.ports.snapshots import PersistentIndex, Snapshots
from vlibrary.domain.query import EmbedderSpec
from vlibrary.upkeep.stores import Stores

# Operator commands can wait longer for other writers than requests can.
OPERATOR_PATIENCE_S = 60.0


@dataclass(frozen=True)
class OpenStores(Stores):
    """The stores that the settings name."""

    settings: Settings

    @cached_property
    def snapshots(self) -> Snapshots:
        """The snapshots of the task index."""
        settings = self.settings
        open_store = partial(open_artifacts, endpoint_url=settings.s3_endpoint_url)
        return open_snapshots(settings.snapshots_place, cache=settings.snapshots_cache, open_store=open_store)


def open_stores(settings: Settings, *, create: bool = False, patience_s: float | None = None) -> OpenStores:
    """Open the stores that the settings name.

    create: create the data folder and the tables, or migrate the tables, where needed. Without it, raises
    CatalogueUnavailable unless the tables are up to date. patience_s: how long to wait for other writers, with
    statements of any length; None for the limits of requests.
    Raises InvalidInput when store locations overlap or the data folder cannot be created.
    """
    check_disjoint(settings.artifacts_place, settings.beside_artifacts)
    if create:
        create_folder(settings.data_dir, "VLIBRARY_DATA_DIR")
        try:
            upgrade(settings.catalogue_url)
        except CatalogueUnavailable as error:
            place = mask_passwords(settings.catalogue_url)
            raise CatalogueUnavailable(
                f"Cannot use VLIBRARY_DATABASE_URL {place!r}. {error.detail}",
                "Check that the database runs, and the user, password and name in the URL.",
            ) from error.__cause__
    elif not (found := revisions(settings.catalogue_url)).current:
        raise CatalogueUnavailable(
            f"The database schema has revision {found.have}; this release needs {found.need}.",
            "Run `vlibrary migrate`, or check VLIBRARY_DATA_DIR and VLIBRARY_DATABASE_URL.",
        )
    engine = connect(
        settings.catalogue_url,
        patience=patience_s or settings.database_timeout_s,
        pool_size=settings.database_pool,
        statement_s=settings.database_timeout_s if patience_s is None else None,
    )
    artifacts = open_artifacts(settings.artifacts_place, endpoint_url=settings.s3_endpoint_url)
    return OpenStores(sql_catalogue(engine), artifacts, SqlTables(engine), settings)


def open_operator_stores(*, create: bool = False) -> OpenStores:
    """Open the stores that the environment names, for an operator command."""
    return open_stores(read_settings(), create=create, patience_s=OPERATOR_PATIENCE_S)


def open_backup(folder: Path) -> Backup:
    """Return the backup in the folder."""
    return BackupFolder(folder, FolderArtifacts)


def check_backup_folder(folder: Path, settings: Settings) -> None:
    """Raise InvalidInput if the folder overlaps with the artifact store."""
    check_disjoint(settings.artifacts_place, [str(folder)])


def new_index(embedder: EmbedderSpec) -> PersistentIndex:
    """Return an empty task index for the keys of the embedder."""
    return FaissIndex(embedder)


def read_revisions(settings: Settings) -> Revisions:
    """Return which schema revisions the database has and needs. Raises CatalogueUnavailable."""
    create_folder(settings.data_dir, "VLIBRARY_DATA_DIR")
    return revisions(settings.catalogue_url)
