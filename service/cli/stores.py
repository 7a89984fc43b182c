"""The library's stores, opened straight from the settings: for work that needs no running service."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine

from vlibrary.adapters.artifacts.open import open_artifacts
from vlibrary.adapters.locations import check_disjoint, create_folder
from vlibrary.adapters.sql.catalogue import SqlCatalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.adapters.sql.schema import revisions, upgrade
from vlibrary.cli.serve import read_settings
from vlibrary.config import Settings
from vlibrary.domain.errors import CatalogueUnavailable
from vlibrary.domain.ports import Artifacts, Catalogue

# These commands can wait longer for other writers than a request can.
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Stores:
    """Catalogue and artifacts of one library, and how the catalogue's tables are reached as a whole."""

    settings: Settings
    engine: Engine
    catalogue: Catalogue
    artifacts: Artifacts


def open_stores(*, create: bool = False) -> Stores:
    """The stores that the settings name.

    create: make the tables, or bring them up to date, if need be. Without it, raises CatalogueUnavailable unless they
    are. Raises InvalidInput when the stores' places are parts of each other, or the data folder cannot be made.
    """
    settings = read_settings()
    check_disjoint(settings.artifacts_place, settings.beside_artifacts)
    if create:
        create_folder(settings.data_dir, "VLIBRARY_DATA_DIR")
        upgrade(settings.catalogue_url)
    else:
        _check_tables(settings.catalogue_url)
    engine = connect(settings.catalogue_url, patience=PATIENCE_S)
    artifacts = open_artifacts(settings.artifacts_place, endpoint_url=settings.s3_endpoint_url)
    return Stores(settings, engine, SqlCatalogue(engine), artifacts)


def _check_tables(url: str) -> None:
    found = revisions(url)
    if not found.current:
        raise CatalogueUnavailable(
            f"The database has tables of revision {found.have}; this release needs {found.need}.",
            "Run `vlibrary migrate`, or check VLIBRARY_DATA_DIR and VLIBRARY_DATABASE_URL.",
        )
