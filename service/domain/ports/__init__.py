"""What the use cases ask of the outside world. Each docstring is the contract that every adapter is tested against.

The catalogue's port is in service/domain/ports/catalogue.py; the in-memory twins stand in service/adapters/memory*.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from vlibrary.domain.errors import ModelNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import (
    ANONYMOUS,
    SYSTEM,
    Alias,
    Amendment,
    AuditEntry,
    Catalogue,
    Change,
    ChangeKind,
    Page,
    Position,
    Upload,
)
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo, WorkerStatus

__all__ = [
    "ANONYMOUS",
    "SYSTEM",
    "Alias",
    "Amendment",
    "Artifacts",
    "AuditEntry",
    "Catalogue",
    "Change",
    "ChangeKind",
    "Clock",
    "Filter",
    "Hit",
    "IndexGap",
    "Inference",
    "Linking",
    "Page",
    "Position",
    "StoredObject",
    "TaskIndex",
    "Upload",
    "Worker",
]


@dataclass(frozen=True)
class Hit:
    """A vector found by one of its keys, with the score of its best key."""

    vector_id: str
    score: float


@dataclass(frozen=True)
class StoredObject:
    """What an artifact store tells of an object without reading it. size: in bytes. modified: by the store's clock."""

    key: str
    size: int
    modified: datetime


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

    def stat(self, key: str) -> StoredObject | None:
        """The object without its bytes; None when there is none."""
        ...

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        """All objects with key > after, in the order of their keys by code point.

        What is stored or deleted meanwhile may or may not be among them. What writers left behind that were killed is
        listed under keys of its own, so that a collector finds it.
        """
        ...

    def now(self) -> datetime:
        """The store's clock, by which `modified` is to be judged; timezone-aware UTC."""
        ...

    def check(self) -> None:
        """Raises ArtifactsUnavailable unless the store can be reached, written to and read; leaves nothing in it."""
        ...


@runtime_checkable
class Linking(Protocol):
    """What an artifact store has beside Artifacts when others may fetch from it, past this service."""

    def link(self, key: str, seconds: int, *, filename: str) -> str:
        """An address that serves the object to anybody for so many seconds, to be saved under this plain name.

        Whether the object is there and whole is not checked. Raises ArtifactsUnavailable when none can be made.
        """
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

    def reset(self, epoch: str, *, replacing: Position | None) -> None:
        """Forget everything and start at seq 0 of this epoch, if the position is still the one to be replaced.

        So of many who found the same position outdated one resets, and none wipes out what another has rebuilt.
        """
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply entries that follow on the position; ones already applied are skipped.

        The keys of a vector's last entry replace those it had. Keys of another embedder than the index's are left out,
        since they cannot be compared, and so are keys that are not finite. Raises IndexGap when an entry is missing
        between, or before the first reset; the index is as it was then.
        """
        ...

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        """The k best vectors for this model, best first, one hit a vector; of equal ones the highest id, so the newest.

        model: the fingerprint of the base model, so that vectors are found whatever name the model is served under.
        among: only these vectors, such as the ids that pass a filter of the catalogue's.
        Scores are those of vlibrary.domain.query.score, to the last bit. A large index may miss a vector (fewer than
        one in a hundred of the ten best, whatever is filtered out); a small one is exact. Raises InvalidQuery for an
        embedding that is not finite.
        """
        ...


class Inference(Protocol):
    """A worker (one LVLM with steering, and the query embedder) or a fleet of them behind one face.

    Raises WorkerUnavailable when nobody can answer, Overloaded when everybody who could has too much to do.
    """

    def models(self) -> tuple[WorkerInfo, ...]:
        """Return the models that requests can name now: at least one, each once. All share one embedder."""
        ...

    def find(self, model_id: str | None) -> WorkerInfo:
        """Return the model with this id, or the first one for None.

        Raises ModelNotFound, and WorkerUnavailable when all workers that served the model are gone.
        """
        models = self.models()
        for info in models:
            if model_id in (None, info.model.model_id):
                return info
        known = ", ".join(repr(info.model.model_id) for info in models)
        raise ModelNotFound(f"No worker serves the model {model_id!r}.", f"Use {known}, or omit the model.")

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
