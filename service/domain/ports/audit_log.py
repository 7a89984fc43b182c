"""The port of the audit log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from vlibrary.domain.registration import AuditEntry


class AuditLog(Protocol):
    """Who did what to which vector, alias or store."""

    def read(self, after: int, limit: int) -> list[AuditEntry]:
        """Return at most limit entries with seq > after, in order."""
        ...

    def append(self, action: str, subject: str, detail: Mapping[str, Any], *, actor: str) -> None:
        """Record an action outside the catalogue, such as garbage collection or a backup."""
        ...
