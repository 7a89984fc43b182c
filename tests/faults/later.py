"""The stores as a collector sees them long after: its grace cannot be made as short as a cycle is."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from vlibrary.domain.ports import Artifacts, Catalogue


class LaterStore:
    """The artifact store, whose clock is ahead: objects reach the collector's grace as soon as it is over for them."""

    def __init__(self, artifacts: Artifacts, ahead: timedelta) -> None:
        self._artifacts = artifacts
        self._ahead = ahead

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._artifacts, attribute)

    def now(self) -> datetime:
        return self._artifacts.now() + self._ahead


class LaterCatalogue:
    """The catalogue, which knows only of vectors that were purged within this time, whatever grace it is asked for."""

    def __init__(self, catalogue: Catalogue, grace: timedelta = timedelta(0)) -> None:
        self._catalogue = catalogue
        self._grace = grace

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._catalogue, attribute)

    def references(self, object_keys: Collection[str], *, purged_within: timedelta) -> frozenset[str]:
        return self._catalogue.references(object_keys, purged_within=min(purged_within, self._grace))
