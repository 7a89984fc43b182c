"""The catalogue: its five ports as one value."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.domain.ports.aliases import Aliases
from vlibrary.domain.ports.audit_log import AuditLog
from vlibrary.domain.ports.change_log import ChangeLog
from vlibrary.domain.ports.registrations import Registrations
from vlibrary.domain.ports.vectors import Vectors


@dataclass(frozen=True)
class Catalogue:
    """The source of truth about vectors, seen through five ports on one database.

    Every method of a port is one transaction and raises CatalogueUnavailable if the database cannot be reached. Write
    transactions run one at a time and write to the audit log as `actor`. A write that raises has changed nothing,
    except after CatalogueUnavailable, when the outcome is unknown.
    """

    registrations: Registrations
    vectors: Vectors
    aliases: Aliases
    change_log: ChangeLog
    audit_log: AuditLog
