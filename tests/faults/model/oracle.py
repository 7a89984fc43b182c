"""Oracle of the model-based tests: the library as a few dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import EMBEDDER, MemoryWorker
from vlibrary.domain.card import Status
from vlibrary.domain.query import Query, TaskEmbedding, score


@dataclass
class Known:
    """A published vector. status: None if it is purged."""

    id: str
    name: str
    version: int
    description: str
    seed: int
    status: Status | None = Status.ACTIVE
    revision: int = 1
    tags: tuple[str, ...] = ()


@dataclass
class Oracle:
    """vectors: by id. keys: request and resulting id by idempotency key. seq: number of changes."""

    vectors: dict[str, Known] = field(default_factory=dict)
    keys: dict[str, tuple[tuple[str, str, int], str]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    newest: dict[str, int] = field(default_factory=dict)
    seq: int = 0

    def published(self, made: str, name: str, description: str, seed: int) -> Known:
        """Add a vector with this id."""
        version = self.newest[name] = self.newest.get(name, 0) + 1
        self.seq += 1
        known = self.vectors[made] = Known(made, name, version, description, seed)
        return known

    def stepped(self, known: Known, status: Status | None) -> None:
        """Delete, restore or purge a vector."""
        known.status = status
        known.revision += 1
        self.seq += 1

    def with_status(self, *statuses: Status | None) -> list[Known]:
        """Return the vectors with one of these statuses, in order of publication."""
        return [known for known in self.vectors.values() if known.status in statuses]

    def aliased(self, vector_id: str) -> bool:
        return vector_id in self.aliases.values()

    def best(self, text: str, k: int) -> list[tuple[str, float]]:
        """Return the k nearest active vectors with their scores."""
        query = embedding(text)
        scored = [
            (known.id, score(query, embedding(known.description), EMBEDDER))
            for known in self.with_status(Status.ACTIVE)
        ]
        return sorted(scored, key=lambda pair: (pair[1], pair[0]), reverse=True)[:k]


@cache
def embedding(text: str) -> TaskEmbedding:
    """Return the embedding of the text."""
    return MemoryWorker(MemoryArtifacts()).embed(Query(text=text))
