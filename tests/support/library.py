"""A whole library on in-memory twins, for tests of use cases and of the API."""

from __future__ import annotations

from service.adapters.clock import SystemClock
from service.adapters.memory import MemoryArtifacts
from service.adapters.memory_catalogue import MemoryCatalogue
from service.adapters.memory_index import MemoryIndex
from service.adapters.memory_worker import EMBEDDER, MODEL, MemoryWorker
from service.api.deps import Ports
from service.domain.card import VectorRecord
from service.domain.cardfile import parse_card
from service.domain.ports import Artifacts, Inference
from service.library.publish import Submission, publish
from tests.support.samples import artifact, card


def memory_ports(artifacts: Artifacts | None = None, worker: Inference | None = None) -> Ports:
    """Fresh, empty stores and a worker without models, unless they are given."""
    store = artifacts or MemoryArtifacts()
    return Ports(
        catalogue=MemoryCatalogue(SystemClock()),
        artifacts=store,
        index=MemoryIndex(EMBEDDER),
        worker=worker or MemoryWorker(store),
        clock=SystemClock(),
    )


def register(ports: Ports, name: str, description: str, *, seed: int = 0, key: str | None = None) -> VectorRecord:
    """Publish a random vector that is found by its description."""
    submission = Submission(artifact(MODEL, seed), parse_card(card(name, description)), key)
    return publish(
        submission,
        catalogue=ports.catalogue,
        artifacts=ports.artifacts,
        worker=ports.worker,
        clock=ports.clock,
    )
