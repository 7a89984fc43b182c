"""Register a vector: it becomes visible once all of it is stored, and a refused upload leaves nothing behind.

Reserve the upload with a deadline, store the artifact under a key that is never shared or reused, then publish before
the deadline. The collector removes only objects that are unreferenced and past their deadline. Tests check this order
against random interleavings of writers, deleters, collectors and crashes.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from ulid import ULID

from vlibrary.domain.card import KeyKind, TaskKey, VectorCard, VectorRecord
from vlibrary.domain.errors import (
    ArtifactLost,
    ArtifactsUnavailable,
    CatalogueUnavailable,
    InvalidCard,
    UploadExpired,
    VLibraryError,
)
from vlibrary.domain.ports.artifacts import artifact_key
from vlibrary.domain.ports.clock import Clock
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.query import Query
from vlibrary.domain.registration import ANONYMOUS, Upload
from vlibrary.domain.vector import SteeringVector
from vlibrary.formats.artifact import decode
from vlibrary.formats.card import digest_of
from vlibrary.library.library import Library

DEADLINE = timedelta(minutes=15)


@dataclass(frozen=True)
class Submission:
    """A request to register a vector.

    idempotency_key: None if the client sent none. vector_id: the id of an imported vector; None for a new one.
    """

    artifact: bytes
    card: VectorCard
    idempotency_key: str | None = None
    actor: str = ANONYMOUS
    vector_id: str | None = None


def publish(submission: Submission, library: Library) -> VectorRecord:
    """Register the vector and return its record; a repeat with the same idempotency key returns the first record.

    No index is updated: each search catches up with the change log first.
    Raises InvalidArtifact, WrongModel, UnsupportedEdit, InvalidCard, KeyReused, InProgress, VectorExists, VectorPurged,
    UploadExpired, Unavailable.
    """
    vector = decode(submission.artifact)
    library.worker.check(vector)
    card = _add_description_key(submission.card, library.worker)
    digest = hashlib.sha256(submission.artifact)
    sha256 = digest.hexdigest()
    digest.update(digest_of(submission.card))
    upload = _upload(submission, sha256, digest.hexdigest(), library.clock)
    earlier = library.catalogue.registrations.reserve(upload)
    if earlier is not None:
        return earlier
    _store(upload, submission.artifact, sha256, library)
    draft = _draft(upload, vector, card, sha256, len(submission.artifact), library.clock)
    try:
        return library.catalogue.registrations.publish(upload, draft, actor=submission.actor)
    except UploadExpired:
        _discard(upload, library)  # unpublished, and no other upload uses the key
        raise
    except CatalogueUnavailable:
        # The outcome is unknown, so the artifact stays until the collector finds it unreferenced. Releasing the
        # reservation lets the client retry before the deadline.
        with suppress(VLibraryError):
            library.catalogue.registrations.release(upload)
        raise


def _add_description_key(card: VectorCard, worker: Inference) -> VectorCard:
    """Return the card with checked keys and its description as one more key, so that text alone finds the vector."""
    spec = worker.models()[0].embedder
    card.check_keys(spec)
    keys = tuple(key for key in card.keys if key.kind is not KeyKind.DESCRIPTION)
    if (key := description_key(card.description, worker)) is not None:
        keys += (key,)
    if not keys:
        raise no_keys()
    return replace(card, keys=keys, embedder=spec.fingerprint)


def description_key(description: str, worker: Inference) -> TaskKey | None:
    """Return the task key of a description; None for a blank one."""
    if not description.strip():
        return None
    return TaskKey(KeyKind.DESCRIPTION, worker.embed(Query(text=description)))


def no_keys() -> InvalidCard:
    return InvalidCard(
        "The card has neither keys nor a description, so no query could find the vector.",
        "Add a description, or keys computed from training queries.",
    )


def _upload(submission: Submission, sha256: str, request_sha256: str, clock: Clock) -> Upload:
    upload_id = str(ULID())
    vector_id = submission.vector_id or upload_id
    return Upload(
        vector_id=vector_id,
        # Unique per upload, even for an imported id: see the module docstring.
        object_key=artifact_key(upload_id, sha256),
        idempotency_key=submission.idempotency_key or vector_id,
        request_sha256=request_sha256,
        deadline=clock.now() + DEADLINE,
    )


def _store(upload: Upload, data: bytes, sha256: str, library: Library) -> None:
    try:
        library.artifacts.put(upload.object_key, data, sha256)
    except ArtifactLost as error:
        # The key is unique to this upload, so no vector is lost; the store is unreliable at the moment.
        _discard(upload, library)
        raise ArtifactsUnavailable(
            "The artifact store returned other bytes than were stored.", "Retry the registration."
        ) from error
    except VLibraryError:
        _discard(upload, library)
        raise


def _discard(upload: Upload, library: Library) -> None:
    """Remove what the upload stored, as far as possible; the collector removes the rest after the deadline."""
    with suppress(ArtifactsUnavailable):
        library.artifacts.delete(upload.object_key)
    with suppress(VLibraryError):
        library.catalogue.registrations.release(upload)


def _draft(
    upload: Upload, vector: SteeringVector, card: VectorCard, sha256: str, size: int, clock: Clock
) -> VectorRecord:
    """Return the record before the catalogue assigns its version and sequence number."""
    return VectorRecord(
        id=upload.vector_id,
        version=0,
        card=card,
        model=vector.model,
        method=vector.method,
        positions=vector.positions,
        training=vector.training,
        sha256=sha256,
        size=size,
        object_key=upload.object_key,
        created_at=clock.now(),
        seq=0,
    )
