"""The stores that operator procedures work on."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.backup import Tables
from vlibrary.domain.ports.catalogue import Catalogue


@dataclass(frozen=True)
class Stores:
    """The stores of one library, without index and worker. tables: the catalogue's tables as a whole, for backups."""

    catalogue: Catalogue
    artifacts: Artifacts
    tables: Tables
