"""What the use cases ask of the outside world. Each docstring is the contract that every adapter is tested against.

The in-memory twins stand in service/adapters/memory.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from service.domain.card import TaskKey, VectorRecord
from service.domain.query import Query, TaskEmbedding
from service.domain.vector import SteeringVector
from service.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo, WorkerStatus


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
    PUBLISHED = "published"
    DELETED = "deleted"


@dataclass(frozen=True)
class Change:
    """One entry of the change log. model_id, keys and embedder (who made the keys) are filled for PUBLISHED only."""

    seq: int
    kind: ChangeKind
    vector_id: str
    model_id: str = ""
    keys: tuple[TaskKey, ...] = ()
    embedder: str | None = None


@dataclass(frozen=True)
class Position:
    """A place in the change log. epoch changes when the catalogue was replaced or restored: rebuild then."""

    epoch: str
    seq: int


@dataclass(frozen=True)
class Page:
    """A page of records, newest first. next: cursor of the following page, None on the last."""

    records: tuple[VectorRecord, ...]
    next: str | None


@dataclass(frozen=True)
class Hit:
    """A vector found by one of its keys, with the score of its best key."""

    vector_id: str
    score: float


class Catalogue(Protocol):
    """The truth about vectors. Every method is one transaction; raises CatalogueUnavailable when it cannot be asked."""

    def reserve(self, upload: Upload) -> VectorRecord | None:
        """Record the upload before its bytes are stored.

        Returns None when the caller shall go on, or the record that the same key with the same request already
        made (as it is now: perhaps deleted since). Raises KeyReused (same key, other request) or InProgress (same
        key, same request, deadline not over). An expired reservation of the same key is replaced, whatever its request.
        """
        ...

    def publish(self, upload: Upload, record: VectorRecord) -> VectorRecord:
        """Make the vector visible; returns the record with its version, created_at and seq filled in.

        The change-log entry is the last write, so numbers are gapless and in commit order. Publishing the same upload
        again returns the record that it made, so a lost answer can be asked for once more.
        Raises UploadExpired when the reservation is gone or its deadline has passed; nothing is visible then. The
        deadline is judged by the catalogue's own clock.
        """
        ...

    def release(self, upload: Upload) -> None:
        """Forget a reservation that will not be published; unknown or published ones are left alone."""
        ...

    def get(self, vector_id: str) -> VectorRecord:
        """The active record. Raises VectorNotFound (also for a deleted one)."""
        ...

    def get_many(self, vector_ids: Sequence[str]) -> list[VectorRecord]:
        """The active ones among them, in the order asked; others are left out."""
        ...

    def page(self, *, name: str | None, model_id: str | None, limit: int, cursor: str | None) -> Page:
        """Active records, newest first. Raises InvalidInput for a cursor that this catalogue did not give."""
        ...

    def delete(self, vector_id: str) -> int:
        """Hide the vector from every reader; returns the change's seq. Raises VectorNotFound."""
        ...

    def position(self) -> Position:
        """The newest place in the change log."""
        ...

    def changes(self, after: int, limit: int) -> list[Change]:
        """Entries with seq > after, in order, without gaps, at most limit."""
        ...


class Artifacts(Protocol):
    """Immutable objects by key. Raises ArtifactsUnavailable when the store cannot be asked.

    Keys are one to four names joined by slashes, each of letters, digits, dot, dash and underscore, beginning with a
    letter or digit; another key raises InvalidInput.
    """

    def put(self, key: str, data: bytes, sha256: str) -> None:
        """Store the bytes whole or not at all; when it returns, `get` finds them, after a crash too.

        Storing the same bytes again succeeds. Raises ArtifactLost for other bytes under a used key (keys are never
        reused) and for bytes that do not have the digest.
        """
        ...

    def get(self, key: str, sha256: str) -> bytes:
        """The bytes, whose digest was checked. Raises ArtifactLost when they are missing or differ."""
        ...

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is fine."""
        ...

    def check(self) -> None:
        """Raises ArtifactsUnavailable unless the store can be reached, written to and read; leaves nothing in it."""
        ...


class IndexGap(Exception):
    """The changes do not follow on the index's position: reset it and replay the log. No request sees this."""


class TaskIndex(Protocol):
    """Search over task keys: a cache of the catalogue, rebuilt from its change log at any time.

    Safe for many searching threads beside one that applies.
    """

    @property
    def position(self) -> Position | None:
        """How far the change log is applied; None before the first one."""
        ...

    def reset(self, epoch: str) -> None:
        """Forget everything and start at seq 0 of this epoch."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply entries that follow on the position; ones already applied are skipped.

        Keys of another embedder than the index's are left out: they cannot be compared. Raises IndexGap when an entry
        is missing between, or before the first reset; the index is as it was then.
        """
        ...

    def search(self, query: TaskEmbedding, *, model_id: str, k: int) -> list[Hit]:
        """The k best vectors for this model, best first, one hit a vector; ties by vector id.

        Exact: scores are those of service.domain.query.score.
        """
        ...


class Inference(Protocol):
    """A worker (one LVLM with steering, and the query embedder) or a fleet of them behind one face.

    Raises WorkerUnavailable when nobody can answer, Overloaded when everybody who could has too much to do.
    """

    def served(self) -> tuple[WorkerInfo, ...]:
        """The models that can be asked for now, at least one, each once; all share one embedder."""
        ...

    def find(self, model_id: str | None) -> WorkerInfo:
        """What serves this model, or the first one for None.

        Raises ModelNotFound, and WorkerUnavailable when those that served it are gone.
        """
        ...

    def check(self, vector: SteeringVector) -> None:
        """Raises WrongModel or UnsupportedEdit unless `generate` could apply this vector."""
        ...

    def embed(self, query: Query) -> TaskEmbedding:
        """The query's parts, each of length 1. Raises InvalidImage or InvalidQuery."""
        ...

    def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        """Answer with the vectors applied: pieces of text as they come, and last, once, the whole Generation.

        It never leaves a vector out silently and never ends without a Generation: it raises instead, before the first
        piece or after. Closing the generator cancels the request and frees what it held. The joined pieces are the
        Generation's text.
        Raises ModelNotFound, PromptTooLong, InvalidImage, InvalidQuery, WrongModel, UnsupportedEdit, ArtifactLost,
        Overloaded, OutOfMemory, TimedOut, WorkerUnavailable (nobody there) and WorkerLost (gone in mid-answer).
        """
        ...


class Worker(Inference, Protocol):
    """One worker, in this process or in another."""

    def status(self) -> WorkerStatus:
        """The heartbeat; does not wait for the model. Raises WorkerUnavailable."""
        ...

    def close(self) -> None:
        """Let go of threads and connections; requests still running fail."""
        ...


class Clock(Protocol):
    """The time, so that deadlines can be tested."""

    def now(self) -> datetime:
        """Timezone-aware UTC."""
        ...
