"""The stores that operator procedures work on."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.domain.ports import Artifacts, Catalogue
from vlibrary.domain.ports.backup import Tables


@dataclass(frozen=True)
class Stores:
    """The stores of one library, without index and worker. tables: the catalogue's tables as a whole, for backups."""

    catalogue: Catalogue
    artifacts: Artifacts
    tables: Tables
