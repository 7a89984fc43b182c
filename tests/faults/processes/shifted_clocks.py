"""Stores with shifted clocks: grace periods cannot be as short as a cycle, so collectors run in the future."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.registrations import Registrations


class LaterStore:
    """The artifact store with a clock that is ahead, so that objects reach the grace period sooner."""

    def __init__(self, artifacts: Artifacts, ahead: timedelta) -> None:
        self._artifacts = artifacts
        self._ahead = ahead

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._artifacts, attribute)

    def now(self) -> datetime:
        return self._artifacts.now() + self._ahead


class LaterRegistrations:
    """Registrations that reference vectors purged within this time only, whatever grace period is requested."""

    def __init__(self, registrations: Registrations, grace: timedelta) -> None:
        self._registrations = registrations
        self._grace = grace

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._registrations, attribute)

    def find_referenced(self, object_keys: Collection[str], *, purged_within: timedelta) -> frozenset[str]:
        return self._registrations.find_referenced(object_keys, purged_within=min(purged_within, self._grace))


def later_catalogue(catalogue: Catalogue, grace: timedelta = timedelta(0)) -> Catalogue:
    """The catalogue with LaterRegistrations."""
    later = LaterRegistrations(catalogue.registrations, grace)
    return replace(catalogue, registrations=cast("Registrations", later))
