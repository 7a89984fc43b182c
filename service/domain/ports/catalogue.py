"""The port of the catalogue and its values. Each docstring is the contract that every adapter is tested against."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from vlibrary.domain.card import TaskKey, VectorRecord, check_description
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.labels import MetadataValue, check_metadata, check_tags

ANONYMOUS = "anonymous"
# Who does what nobody asked for: notices that the database was put back or moved, and gives it a new epoch.
SYSTEM = "system"


@dataclass(frozen=True)
class Upload:
    """An intended registration: recorded before any byte is stored, void after its deadline.

    Once its reservation is gone (released, expired and replaced) it can never be published, so that an object with
    neither record nor reservation may be deleted.

    idempotency_key: the client's, or the upload's own id when the client sent none.
    request_sha256: digest of everything the client sent, to tell a repeat from a reuse of its key.
    """

    vector_id: str
    object_key: str
    idempotency_key: str
    request_sha256: str
    deadline: datetime


class ChangeKind(StrEnum):
    """PUBLISHED, RESTORED, REKEYED: the vector can be found by the entry's keys, and by no others any more.

    DELETED, PURGED: it cannot be found.
    """

    PUBLISHED = "published"
    REKEYED = "rekeyed"
    DELETED = "deleted"
    RESTORED = "restored"
    PURGED = "purged"

    @property
    def findable(self) -> bool:
        """Whether the vector can be found after such a change."""
        return self in (ChangeKind.PUBLISHED, ChangeKind.REKEYED, ChangeKind.RESTORED)


@dataclass(frozen=True)
class Change:
    """One entry of the change log.

    model (fingerprint of the base model), keys and embedder (fingerprint of the embedder that made them) are set for
    findable kinds, to the vector's current values; they are empty when it has been purged since. mark: random, given
    once and for all when the entry was written.
    """

    seq: int
    kind: ChangeKind
    vector_id: str
    model: str = ""
    keys: tuple[TaskKey, ...] = ()
    embedder: str | None = None
    mark: str = ""


@dataclass(frozen=True)
class Position:
    """A place in the change log. epoch changes when the catalogue was replaced or restored: rebuild then.

    mark: that of the entry with this seq; empty at 0. Another one at the same place: another history, since somebody
    put an earlier state of the database back in some other way than ours.
    """

    epoch: str
    seq: int
    mark: str = ""


@dataclass(frozen=True)
class Page:
    """A page of records, newest first. next: cursor of the following page, None on the last."""

    records: tuple[VectorRecord, ...]
    next: str | None


@dataclass(frozen=True)
class Amendment:
    """What shall change of a vector's card; None leaves a field as it is. tags and metadata are replaced as a whole.

    description_key: the new description's key, given together with the description; None: the description has none.
    """

    description: str | None = None
    description_key: TaskKey | None = None
    tags: tuple[str, ...] | None = None
    metadata: Mapping[str, MetadataValue] | None = None

    def __post_init__(self) -> None:
        if self.description is not None:
            check_description(self.description)
        if self.tags is not None:
            object.__setattr__(self, "tags", check_tags(self.tags))
        if self.metadata is not None:
            check_metadata(self.metadata)


@dataclass(frozen=True)
class Alias:
    """A name's movable pointer to one of its vectors. revision: never the same for two settings of an alias."""

    name: str
    alias: str
    vector_id: str
    revision: int
    changed_at: datetime


@dataclass(frozen=True)
class AuditEntry:
    """Who did what to what. action: vector.publish, alias.set, ...; detail: JSON values only. seq has no gaps."""

    seq: int
    at: datetime
    actor: str
    action: str
    subject: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Catalogue(Protocol):
    """The truth about vectors. Every method is one transaction; raises CatalogueUnavailable when it cannot be asked.

    Writers run one after another. What they did is in the audit log under `actor`, in the same transaction. A writer
    that raises has changed nothing, but for CatalogueUnavailable: then nobody knows.
    """

    def reserve(self, upload: Upload) -> VectorRecord | None:
        """Record the upload before its bytes are stored.

        Returns None when the caller shall go on, or the record that the same key with the same request already made (as
        it is now: perhaps deleted since). Reserving the very same upload again is fine. An expired reservation of the
        same key, vector or object is replaced, whatever its request; so is an open one of the same key and vector, as
        when an import that broke off is begun anew: the earlier upload can then not be published any more.
        Raises KeyReused (same key, other request), InProgress (same key, same request, deadline not over), VectorPurged
        (the key's vector is gone for good) or VectorExists (id or object key belong to another registration).
        """
        ...

    def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
        """Make the vector visible; returns the record with its version, created_at and seq filled in.

        Numbers of the change log are gapless and in commit order, since writers take turns. Publishing the same upload
        again returns the record that it made, so a lost answer can be asked for once more.
        Raises UploadExpired when the reservation is gone, its deadline has passed, or another request has taken its
        place; nothing of this one is visible then. The deadline is judged by the catalogue's own clock. Raises
        VectorPurged when it was published and purged before.
        """
        ...

    def release(self, upload: Upload) -> None:
        """Forget a reservation that will not be published; unknown or published ones are left alone."""
        ...

    def references(self, object_keys: Collection[str], *, purged_within: timedelta = timedelta(0)) -> frozenset[str]:
        """Those among the keys that a vector of any status has, or a reservation whose deadline is not over.

        purged_within: also those of vectors that were purged so lately, by the catalogue's own clock.
        The others will never be needed again, if their uploads reserved before they stored: exact beside publishers.
        """
        ...

    def now(self) -> datetime:
        """The catalogue's clock, by which deadlines and deletions are dated; timezone-aware UTC."""
        ...

    def stuck_uploads(self, limit: int) -> list[Upload]:
        """Reservations that were neither published nor released before their deadline, oldest deadline first."""
        ...

    def get(self, vector_id: str, *, deleted: bool = False) -> VectorRecord:
        """The active record; with deleted=True also a deleted one. Raises VectorNotFound."""
        ...

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        """The active ones among them, in the order asked; others are left out.

        Their cards come without keys: this is for showing what a search found, and keys are most of what a vector has.
        """
        ...

    def page(self, which: Filter = EVERYTHING_ACTIVE, *, limit: int, cursor: str | None = None) -> Page:
        """Records that pass, newest first. Raises InvalidInput for a cursor that this catalogue did not give."""
        ...

    def ids(self, which: Filter) -> frozenset[str]:
        """The ids of all records that pass."""
        ...

    def update(
        self, vector_id: str, change: Amendment, *, expected_revision: int | None = None, actor: str = ANONYMOUS
    ) -> tuple[VectorRecord, int]:
        """The active vector with its card changed, one revision on, and a seq by which it was so.

        The change log has an entry of its own for it only when a key changed: an index need not hear of the rest.
        Raises VectorNotFound, or StaleRevision when its revision is not the expected one.
        """
        ...

    def delete(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        """Hide the vector from every reader; returns the change's seq.

        Raises VectorNotFound, StaleRevision, or StillAliased while an alias points to it.
        """
        ...

    def restore(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        """Undo `delete`; returns the change's seq. Raises VectorNotFound, StaleRevision, NotDeleted."""
        ...

    def purge(self, vector_id: str, *, expected_revision: int | None = None, actor: str = ANONYMOUS) -> int:
        """Forget a deleted vector; returns the change's seq. Its version and idempotency key are never given again.

        Raises VectorNotFound, StaleRevision, NotDeleted.
        """
        ...

    def alias(self, name: str, alias: str) -> Alias:
        """Where the alias points. Raises AliasNotFound."""
        ...

    def aliases(self, name: str | None = None) -> list[Alias]:
        """All of the name's (or of every name's), ordered by name and alias."""
        ...

    def set_alias(self, name: str, alias: str, vector_id: str, *, expected: int, actor: str = ANONYMOUS) -> Alias:
        """Point the alias to an active vector of the name, if its revision is the expected one (0: there is none).

        Raises VectorNotFound (also for a vector of another name), AliasTaken (expected 0, but there is one),
        StaleRevision, or InvalidInput for an alias that does not fit ALIAS_PATTERN.
        """
        ...

    def drop_alias(self, name: str, alias: str, *, expected: int, actor: str = ANONYMOUS) -> None:
        """Forget the alias if its revision is the expected one. Raises AliasNotFound, StaleRevision."""
        ...

    def position(self) -> Position:
        """The newest place in the change log."""
        ...

    def changes(self, after: int, limit: int) -> list[Change]:
        """Entries with seq > after, in order, without gaps, at most limit."""
        ...

    def renew_epoch(self, *, replacing: str | None = None, actor: str = ANONYMOUS) -> Position:
        """Give the catalogue a new epoch, after it was restored: every index of it is rebuilt.

        replacing: only if its epoch is still this one. Returns the position, whoever gave it its epoch.
        """
        ...

    def audit(self, after: int, limit: int) -> list[AuditEntry]:
        """Entries of the audit log with seq > after, in order, at most limit."""
        ...

    def note(self, action: str, subject: str, detail: Mapping[str, Any], *, actor: str) -> None:
        """Add to the audit log what was done outside the catalogue: a collection, a backup."""
        ...
