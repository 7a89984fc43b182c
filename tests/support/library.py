"""A library on in-memory adapters, for tests of use cases and of the API."""

from __future__ import annotations

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import memory_catalogue
from tests.support.memory.index import MemoryIndex
from tests.support.memory.worker import EMBEDDER, MODEL, MemoryWorker
from tests.support.samples import artifact, card
from vlibrary.adapters.clock import SystemClock
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.inference import Inference
from vlibrary.formats.card import parse_card
from vlibrary.library.library import Library
from vlibrary.library.publish import Submission, publish


def memory_library(artifacts: Artifacts | None = None, worker: Inference | None = None) -> Library:
    """Return a library with empty stores and a worker without models, unless given."""
    store = artifacts or MemoryArtifacts()
    return Library(
        catalogue=memory_catalogue(SystemClock()),
        artifacts=store,
        index=MemoryIndex(EMBEDDER),
        worker=worker or MemoryWorker(store),
        clock=SystemClock(),
    )


def register(library: Library, name: str, description: str, *, seed: int = 0, key: str | None = None) -> VectorRecord:
    """Register a random vector that is found by its description; return its record."""
    submission = Submission(artifact(MODEL, seed), parse_card(card(name, description)), key)
    return publish(submission, library)
