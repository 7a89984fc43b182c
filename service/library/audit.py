"""Read the audit log, in order and filtered."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.domain.ports.audit_log import AuditLog
from vlibrary.domain.registration import AuditEntry

BATCH = 500
# Filters have no index, so a call that few entries match reads this many and returns a partial page.
MAX_READ = 10_000


@dataclass(frozen=True)
class AuditPage:
    """Entries in order. next: the seq to continue after; None at the end of the log."""

    entries: tuple[AuditEntry, ...]
    next: int | None


def read_audit(
    audit_log: AuditLog, *, after: int, limit: int, subject: str | None = None, actor: str | None = None
) -> AuditPage:
    """Return the first entries with seq > after by this actor and about this subject; None matches any.

    A page can have fewer entries than limit, even none, and still have a next one. Raises CatalogueUnavailable.
    """
    found: list[AuditEntry] = []
    for _ in range(MAX_READ // BATCH):
        batch = audit_log.read(after, BATCH)
        for entry in batch:
            after = entry.seq
            if subject in (None, entry.subject) and actor in (None, entry.actor):
                found.append(entry)
            if len(found) == limit:
                return AuditPage(tuple(found), next=after)
        if len(batch) < BATCH:
            return AuditPage(tuple(found), next=None)
    return AuditPage(tuple(found), next=after)
