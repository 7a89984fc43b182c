"""Who did what: the audit log, read in order and sieved."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import AuditEntry

BATCH = 500
# The log is read in order, so a question that few entries answer is asked in parts of this many.
MOST_READ = 10_000


@dataclass(frozen=True)
class AuditPage:
    """Entries in order. next: the seq to ask on from; None when the log was read to its end."""

    entries: tuple[AuditEntry, ...]
    next: int | None


def read_audit(
    catalogue: Catalogue, *, after: int, limit: int, subject: str | None = None, actor: str | None = None
) -> AuditPage:
    """The first entries beyond `after` that are by this actor and about this subject; None is any.

    A page may have fewer than limit, even none, and yet a next one. Raises CatalogueUnavailable.
    """
    found: list[AuditEntry] = []
    for _ in range(MOST_READ // BATCH):
        batch = catalogue.audit_log.read(after, BATCH)
        for entry in batch:
            after = entry.seq
            if subject in (None, entry.subject) and actor in (None, entry.actor):
                found.append(entry)
            if len(found) == limit:
                return AuditPage(tuple(found), next=after)
        if len(batch) < BATCH:
            return AuditPage(tuple(found), next=None)
    return AuditPage(tuple(found), next=after)
