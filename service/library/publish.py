"""Register a vector: nothing is visible before all of it is safe, and nothing is left behind when it is refused.

The order was checked against every interleaving of writers, deleters, collectors and crashes: reserve the upload with
a deadline, store the bytes under a key that is never shared or reused, then publish before the deadline. A collector
may remove only what is unreferenced and past its deadline.
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
    """What a client sends to register a vector.

    idempotency_key: None when the client sent none. actor: who sends it. vector_id: the id that it shall have, because
    it has it in the library that it comes from; None for a new one.
    """

    artifact: bytes
    card: VectorCard
    idempotency_key: str | None = None
    actor: str = ANONYMOUS
    vector_id: str | None = None


def publish(submission: Submission, library: Library) -> VectorRecord:
    """The registered vector; a repeat under the same idempotency key returns the first one's record.

    No index is touched: each search catches up with what was registered before it.
    Raises InvalidArtifact, WrongModel, UnsupportedEdit, InvalidCard, KeyReused, InProgress, VectorExists, VectorPurged,
    UploadExpired, Unavailable.
    """
    vector = decode(submission.artifact)
    library.worker.check(vector)
    card = _findable(submission.card, library.worker)
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
        _discard(upload, library)  # surely not published, and the key is ours alone: the bytes can go
        raise
    except CatalogueUnavailable:
        # Nobody knows, so the bytes stay until a collector finds them unreferenced. If it was not published, it never
        # will be, and whoever sends it again need not wait for the deadline.
        with suppress(VLibraryError):
            library.catalogue.registrations.release(upload)
        raise


def _findable(card: VectorCard, worker: Inference) -> VectorCard:
    """The card with its keys checked and its description as one more key, so that text alone can find it."""
    spec = worker.models()[0].embedder
    card.check_keys(spec)
    keys = tuple(key for key in card.keys if key.kind is not KeyKind.DESCRIPTION)
    described = description_key(card.description, worker)
    if described is not None:
        keys += (described,)
    if not keys:
        raise not_findable()
    return replace(card, keys=keys, embedder=spec.fingerprint)


def description_key(description: str, worker: Inference) -> TaskKey | None:
    """The key at which a vector is found by its description; None for a blank one."""
    if not description.strip():
        return None
    return TaskKey(KeyKind.DESCRIPTION, worker.embed(Query(text=description)))


def not_findable() -> InvalidCard:
    return InvalidCard(
        "The card has neither keys nor a description, so no query could ever find the vector.",
        "Add a description, or keys computed from training queries.",
    )


def _upload(submission: Submission, sha256: str, request_sha256: str, clock: Clock) -> Upload:
    fresh = str(ULID())
    vector_id = submission.vector_id or fresh
    return Upload(
        vector_id=vector_id,
        # Its own for every upload, also when the id comes from elsewhere: see the module's text.
        object_key=artifact_key(fresh, sha256),
        idempotency_key=submission.idempotency_key or vector_id,
        request_sha256=request_sha256,
        deadline=clock.now() + DEADLINE,
    )


def _store(upload: Upload, data: bytes, sha256: str, library: Library) -> None:
    try:
        library.artifacts.put(upload.object_key, data, sha256)
    except ArtifactLost as error:
        # The key is fresh and ours alone: nobody's vector is lost, the store cannot be relied on just now.
        _discard(upload, library)
        raise ArtifactsUnavailable("The store gave other bytes back than it was given.", "Register again.") from error
    except VLibraryError:
        _discard(upload, library)
        raise


def _discard(upload: Upload, library: Library) -> None:
    """Best effort: what cannot be removed now is unreferenced and falls to the collector after the deadline."""
    with suppress(ArtifactsUnavailable):
        library.artifacts.delete(upload.object_key)
    with suppress(VLibraryError):
        library.catalogue.registrations.release(upload)


def _draft(
    upload: Upload, vector: SteeringVector, card: VectorCard, sha256: str, size: int, clock: Clock
) -> VectorRecord:
    """The record before the catalogue gives it its version and its place in the change log."""
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
