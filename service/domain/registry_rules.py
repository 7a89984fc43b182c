"""Business rules of the registry: what every catalogue refuses, with which message, and how a record changes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from vlibrary.domain.card import KeyKind, Status, TaskKey, VectorCard, VectorRecord
from vlibrary.domain.errors import (
    AliasNotFound,
    AliasTaken,
    InProgress,
    KeyReused,
    NotDeleted,
    StaleRevision,
    StillAliased,
    UploadExpired,
    VectorExists,
    VectorNotFound,
    VectorPurged,
)
from vlibrary.domain.labels import same_metadata
from vlibrary.domain.registration import Amendment, Upload


def check_key_reuse(upload: Upload, reserved: Upload, *, published: bool) -> None:
    """Raise KeyReused or InProgress unless the upload may use the result of the key's reservation or replace it.

    It may replace an unpublished reservation of the same vector: its own, or that of an interrupted import.
    """
    if not published and reserved.vector_id == upload.vector_id:
        return
    if reserved.request_sha256 != upload.request_sha256:
        raise KeyReused(
            f"The idempotency key {upload.idempotency_key!r} was used for a different request.",
            "Use a new key for each new request, and the same key only to repeat a request.",
        )
    if not published:
        raise InProgress(
            f"A request with idempotency key {upload.idempotency_key!r} is still in progress.",
            f"Retry in a few seconds. If that request was interrupted, its key is free at "
            f"{reserved.deadline.isoformat()}.",
        )


def upload_expired(upload: Upload) -> UploadExpired:
    return UploadExpired(
        f"The registration of vector {upload.vector_id} did not finish before {upload.deadline.isoformat()}.",
        "Send it again; nothing of it is visible.",
    )


def upload_replaced(upload: Upload) -> UploadExpired:
    return UploadExpired(
        f"A later registration of vector {upload.vector_id} replaced this one.",
        "Wait for the later one; send this one again if the later one fails.",
    )


def check_same_request(upload: Upload, published: Upload) -> None:
    """Raise UploadExpired unless the vector was published by this request, possibly in an earlier attempt."""
    if published.request_sha256 != upload.request_sha256:
        raise upload_replaced(upload)


def vector_exists(upload: Upload) -> VectorExists:
    return VectorExists(
        f"The id {upload.vector_id} or the object key {upload.object_key!r} belongs to another registration.",
        "Register under a new id; ids are never reused, not even after a purge.",
    )


def vector_purged(upload: Upload, vector_id: str) -> VectorPurged:
    return VectorPurged(
        f"The idempotency key {upload.idempotency_key!r} registered vector {vector_id}, which has been purged.",
        "Use a new key to register the vector again.",
    )


def vector_not_found(vector_id: str) -> VectorNotFound:
    return VectorNotFound(f"No vector has the id {vector_id!r}.", "GET /vectors lists the vectors.")


def version_not_found(vector_id: str, name: str) -> VectorNotFound:
    return VectorNotFound(
        f"{name!r} has no active version with the id {vector_id!r}.",
        "Use a version of the alias's own name; GET /vectors lists them. Restore a deleted version first.",
    )


def check_revision(what: str, revision: int, expected: int | None) -> None:
    """Raise StaleRevision if a revision is expected and differs."""
    if expected is not None and revision != expected:
        raise StaleRevision(
            f"{what} has revision {revision}; the request expects revision {expected}.",
            "Read it again and send the new revision.",
        )


def check_deleted(vector_id: str, status: Status) -> None:
    """Raise NotDeleted for an active vector."""
    if status is not Status.DELETED:
        raise NotDeleted(f"Vector {vector_id} is {status}.", "Delete it first.")


def check_unaliased(vector_id: str, aliases: Iterable[tuple[str, str]]) -> None:
    """Raise StillAliased if there are aliases, given as pairs of name and alias."""
    labels = ", ".join(sorted(f"{name}@{alias}" for name, alias in aliases))
    if labels:
        raise StillAliased(f"Vector {vector_id} is the target of {labels}.", "Move or drop the alias first.")


def check_alias_expected(name: str, alias: str, revision: int, expected: int) -> None:
    """Raise AliasTaken or StaleRevision unless the alias has the expected revision; 0: it does not exist."""
    if expected == 0 and revision:
        raise AliasTaken(
            f"The alias {name}@{alias} exists already, at revision {revision}.",
            "Send that revision to move it, or use another alias.",
        )
    if expected and not revision:
        raise StaleRevision(
            f"The alias {name}@{alias} does not exist; the request expects revision {expected}.",
            "Create it without a revision: over HTTP, with `If-None-Match: *`.",
        )
    check_alias_revision(name, alias, revision, expected)


def check_alias_revision(name: str, alias: str, revision: int, expected: int) -> None:
    """Raise StaleRevision unless the alias has the expected revision."""
    check_revision(f"The alias {name}@{alias}", revision, expected)


def alias_not_found(name: str, alias: str) -> AliasNotFound:
    return AliasNotFound(f"The alias {name}@{alias} does not exist.", "List the aliases of the name.")


def publish_draft(record: VectorRecord, *, version: int, created_at: datetime, seq: int) -> VectorRecord:
    """Return the draft as an active record at revision 1."""
    return replace(
        record, version=version, created_at=created_at, seq=seq, status=Status.ACTIVE, revision=1, deleted_at=None
    )


def amend(record: VectorRecord, amendment: Amendment, description_key: TaskKey | None) -> VectorRecord:
    """Return the amended record, at the next revision. Its keys change with its description, or if it gets new ones."""
    card = record.card
    if (new := amendment.found_by) is not None:
        card = replace(
            card, embedder=new.embedder, keys=new.keys, calibration=new.calibration, thresholds=new.thresholds
        )
    if amendment.description is not None and amendment.description != card.description:
        others = tuple(key for key in card.keys if key.kind is not KeyKind.DESCRIPTION)
        keys = others if description_key is None else (*others, description_key)
        card = replace(card, description=amendment.description, keys=keys)
    tags = card.tags if amendment.tags is None else amendment.tags
    metadata = card.metadata if amendment.metadata is None else dict(amendment.metadata)
    return replace(record, card=replace(card, tags=tags, metadata=metadata), revision=record.revision + 1)


def needs_reindexing(before: VectorRecord, after: VectorRecord) -> bool:
    """Return whether the amendment changed keys, so that indexes must apply it."""
    return (before.card.keys, before.card.embedder) != (after.card.keys, after.card.embedder)


def publish_detail(record: VectorRecord) -> dict[str, Any]:
    """Return the audit detail of a publication."""
    return {"name": record.name, "version": record.version, "sha256": record.sha256, "seq": record.seq}


def update_detail(before: VectorCard, after: VectorRecord) -> dict[str, Any]:
    """Return the audit detail of an amendment: the new values of the fields that changed."""
    fields: dict[str, tuple[object, object]] = {
        "description": (before.description, after.card.description),
        "tags": (list(before.tags), list(after.tags)),
        "embedder": (before.embedder, after.card.embedder),
    }
    changed = {name: new for name, (old, new) in fields.items() if old != new}
    if not same_metadata(before.metadata, after.metadata):
        changed["metadata"] = dict(after.metadata)
    return {"revision": after.revision} | changed


def status_detail(record: VectorRecord) -> dict[str, Any]:
    """Return the audit detail of a deletion or restoration."""
    return {"name": record.name, "version": record.version, "revision": record.revision}


def purge_detail(record: VectorRecord) -> dict[str, Any]:
    """Return the audit detail of a purge. object_key: the object that the collector will remove."""
    return {"name": record.name, "version": record.version, "object_key": record.object_key}
