"""What every catalogue decides and says alike: who is refused, in which words, and what a record becomes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from typing import Any

from vlibrary.domain.card import KeyKind, Status, VectorCard, VectorRecord
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
from vlibrary.domain.ports import Amendment, Upload


def check_used_key(upload: Upload, reserved: Upload, *, published: bool) -> None:
    """Raises KeyReused or InProgress unless the request may have what the key's reservation made, or take its place.

    It may take the place of one for the same vector: its own, or that of an import which broke off and is begun anew.
    """
    if not published and reserved.vector_id == upload.vector_id:
        return
    if reserved.request_sha256 != upload.request_sha256:
        raise KeyReused(
            f"The idempotency key {upload.idempotency_key!r} came with another request before.",
            "Use a new key for every new request, and the same key only to repeat one.",
        )
    if not published:
        raise InProgress(
            f"The request with the idempotency key {upload.idempotency_key!r} is still at work.",
            f"Ask again in a few seconds. If it broke off, the key is free from {reserved.deadline.isoformat()} on.",
        )


def upload_expired(upload: Upload) -> UploadExpired:
    return UploadExpired(
        f"The registration of vector {upload.vector_id} was not finished before {upload.deadline.isoformat()}.",
        "Send it again; nothing of it is visible.",
    )


def upload_replaced(upload: Upload) -> UploadExpired:
    return UploadExpired(
        f"Another registration of vector {upload.vector_id} began later and took this one's place.",
        "Wait for the other one; send it again if that one does not end well.",
    )


def check_own(upload: Upload, published: Upload) -> None:
    """Raises UploadExpired unless the vector was published by this very request, perhaps in another try."""
    if published.request_sha256 != upload.request_sha256:
        raise upload_replaced(upload)


def vector_exists(upload: Upload) -> VectorExists:
    return VectorExists(
        f"The id {upload.vector_id} or the object key {upload.object_key!r} belongs to another registration.",
        "Register under a new id; ids are never used twice, also not after a purge.",
    )


def vector_purged(upload: Upload, vector_id: str) -> VectorPurged:
    return VectorPurged(
        f"The idempotency key {upload.idempotency_key!r} made vector {vector_id}, which has been purged.",
        "Use a new key to register it anew.",
    )


def vector_not_found(vector_id: str) -> VectorNotFound:
    return VectorNotFound(f"There is no vector with the id {vector_id!r}.", "List the vectors with GET /vectors.")


def no_version(vector_id: str, name: str) -> VectorNotFound:
    return VectorNotFound(
        f"{name!r} has no active version with the id {vector_id!r}.",
        "An alias points to a version of its own name: list them with GET /vectors, restore a deleted one first.",
    )


def check_revision(what: str, revision: int, expected: int | None) -> None:
    """Raises StaleRevision unless the revision is the expected one, or none is."""
    if expected is not None and revision != expected:
        raise StaleRevision(
            f"{what} is at revision {revision}; the request is for revision {expected}.",
            "Read it again, decide anew, and send the revision that you read.",
        )


def check_deleted(vector_id: str, status: Status) -> None:
    """Raises NotDeleted for an active vector."""
    if status is not Status.DELETED:
        raise NotDeleted(f"Vector {vector_id} is {status}.", "Delete it first.")


def check_unaliased(vector_id: str, aliases: Iterable[str]) -> None:
    """Raises StillAliased when there are aliases."""
    names = ", ".join(sorted(aliases))
    if names:
        raise StillAliased(f"Vector {vector_id} is what {names} points to.", "Move the alias or drop it first.")


def check_alias_expected(name: str, alias: str, revision: int, expected: int) -> None:
    """Raises AliasTaken or StaleRevision unless the alias is at the expected revision; 0: there is none."""
    if expected == 0 and revision:
        raise AliasTaken(
            f"There is an alias {name}@{alias} already, at revision {revision}.",
            "Send that revision to move it, or choose another alias.",
        )
    if expected and not revision:
        raise StaleRevision(
            f"There is no alias {name}@{alias}, or no longer; the request is for revision {expected}.",
            "Make it anew: over HTTP with `If-None-Match: *`.",
        )
    check_revision(f"The alias {name}@{alias}", revision, expected)


def alias_not_found(name: str, alias: str) -> AliasNotFound:
    return AliasNotFound(f"There is no alias {name}@{alias}.", "List the aliases of the name.")


def published_as(record: VectorRecord, *, version: int, created_at: datetime, seq: int) -> VectorRecord:
    """The draft with its place in the catalogue."""
    return replace(
        record,
        version=version,
        created_at=created_at,
        seq=seq,
        status=Status.ACTIVE,
        revision=1,
        deleted_at=None,
    )


def amended(record: VectorRecord, change: Amendment) -> VectorRecord:
    """The record after the change, one revision on. Its keys are other ones only if the description is."""
    card = record.card
    if change.description is not None and change.description != card.description:
        others = tuple(key for key in card.keys if key.kind is not KeyKind.DESCRIPTION)
        keys = others if change.description_key is None else (*others, change.description_key)
        card = replace(card, description=change.description, keys=keys)
    tags = card.tags if change.tags is None else change.tags
    metadata = card.metadata if change.metadata is None else dict(change.metadata)
    return replace(record, card=replace(card, tags=tags, metadata=metadata), revision=record.revision + 1)


def was_rekeyed(before: VectorRecord, after: VectorRecord) -> bool:
    """Whether an index must hear of the amendment."""
    return before.card.keys != after.card.keys


def publication(record: VectorRecord) -> dict[str, Any]:
    """What the audit log tells of a publication."""
    return {"name": record.name, "version": record.version, "sha256": record.sha256, "seq": record.seq}


def amendment(before: VectorCard, after: VectorRecord) -> dict[str, Any]:
    """What the audit log tells of an amendment: the new values of the fields that changed."""
    fields: dict[str, tuple[object, object]] = {
        "description": (before.description, after.card.description),
        "tags": (list(before.tags), list(after.tags)),
    }
    changed = {name: new for name, (old, new) in fields.items() if old != new}
    if not same_metadata(before.metadata, after.metadata):
        changed["metadata"] = dict(after.metadata)
    return {"revision": after.revision} | changed


def step(record: VectorRecord) -> dict[str, Any]:
    """What the audit log tells of a deletion or a restoration."""
    return {"name": record.name, "version": record.version, "revision": record.revision}


def removal(record: VectorRecord) -> dict[str, Any]:
    """What the audit log tells of a purge: the object key names what a collector will remove."""
    return {"name": record.name, "version": record.version, "object_key": record.object_key}
