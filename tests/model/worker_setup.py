"""A LocalWorker with its store, engine and metrics, as the tests of the worker open it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.model import tiny
from tests.model.engine_runs import RequestSpec
from tests.model.samples import prompts
from tests.support import samples
from tests.support.memory.artifacts import MemoryArtifacts
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import ArtifactAtStrength, GenerateCall
from vlibrary.engine.inflight import Budget, InFlightEngine
from vlibrary.formats.artifact import encode, sha256_of
from vlibrary.models.embedder import Embedder
from vlibrary.models.lvlm import Lvlm
from vlibrary.worker.local import LocalWorker

PLAIN = RequestSpec()


class BlockingStore(MemoryArtifacts):
    """An artifact store whose reads block while `released` is not set. reads: how many were started."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.released.set()
        self.reads = 0

    def get(self, key: str, sha256: str) -> bytes:
        self.reads += 1
        assert self.released.wait(20)
        return super().get(key, sha256)


@dataclass(frozen=True)
class WorkerSetup:
    """A worker and what it is made of."""

    lvlm: Lvlm
    store: BlockingStore
    engine: InFlightEngine
    worker: LocalWorker
    registry: CollectorRegistry

    def store_vector(self, vector: SteeringVector, strength: float = 1.0) -> ArtifactAtStrength:
        data = encode(vector)
        digest = sha256_of(data)
        self.store.put(f"v/{digest}", data, digest)
        return ArtifactAtStrength("v", f"v/{digest}", digest, strength)

    def call(self, spec: RequestSpec = PLAIN, **more: Any) -> GenerateCall:
        vectors = (
            (self.store_vector(samples.vector(self.lvlm.spec, spec.vector), spec.strength),) if spec.vector else ()
        )
        prompt = prompts(self.lvlm)[spec.prompt]
        return replace(GenerateCall(prompt, self.lvlm.spec.model_id, vectors, spec.decoding), **more)

    async def wait_for_queue(self, count: int) -> None:
        """Wait until the engine's queue has this many requests."""
        await wait_until(lambda: self.engine.load().waiting == count)


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(scope="session")
def clip_embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder.load(tiny.save_embedder(*tiny.clip(), tmp_path_factory.mktemp("clip")))


OpenWorker = Callable[..., WorkerSetup]


@pytest.fixture
def open_worker(llava: Lvlm, clip_embedder: Embedder) -> Iterator[OpenWorker]:
    """Open workers that are closed after the test; checks that every slot is free then."""
    opened: list[WorkerSetup] = []

    def make(
        *, max_requests: int = 80, max_prepared_bytes: int = 2**31, start: bool = True, rows: int = 16
    ) -> WorkerSetup:
        engine, store, registry = InFlightEngine(llava, Budget(rows=rows)), BlockingStore(), CollectorRegistry()
        if start:
            engine.start()
        worker = LocalWorker(
            llava,
            clip_embedder,
            store,
            engine,
            max_requests=max_requests,
            max_prepared_bytes=max_prepared_bytes,
            registry=registry,
        )
        opened.append(WorkerSetup(llava, store, engine, worker, registry))
        return opened[-1]

    yield make
    for setup in opened:
        setup.store.released.set()
        setup.worker.close()
    assert llava.table.pinned_slots == 0
