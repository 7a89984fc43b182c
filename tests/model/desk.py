"""A worker with all that is behind it, as the tests of LocalWorker open it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from tests.model import tiny
from tests.model.driving import Asked
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

PLAIN = Asked()


class Store(MemoryArtifacts):
    """One that can be made to hang."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()
        self.open.set()
        self.asked = 0

    def get(self, key: str, sha256: str) -> bytes:
        self.asked += 1
        assert self.open.wait(20)
        return super().get(key, sha256)


@dataclass(frozen=True)
class Desk:
    """A worker with all that is behind it."""

    lvlm: Lvlm
    store: Store
    engine: InFlightEngine
    worker: LocalWorker
    registry: CollectorRegistry

    def stored(self, vector: SteeringVector, strength: float = 1.0) -> ArtifactAtStrength:
        data = encode(vector)
        digest = sha256_of(data)
        self.store.put(f"v/{digest}", data, digest)
        return ArtifactAtStrength("v", f"v/{digest}", digest, strength)

    def call(self, asked: Asked = PLAIN, **more: Any) -> GenerateCall:
        vectors = (self.stored(samples.vector(self.lvlm.spec, asked.vector), asked.strength),) if asked.vector else ()
        prompt = prompts(self.lvlm)[asked.prompt]
        return replace(GenerateCall(prompt, self.lvlm.spec.model_id, vectors, asked.decoding), **more)

    async def waiting(self, count: int) -> None:
        """Until so many requests are in the engine's queue."""
        await until(lambda: self.engine.load().waiting == count)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture(scope="session")
def clip_embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    return Embedder.load(tiny.save_embedder(*tiny.clip(), tmp_path_factory.mktemp("clip")))


Open = Callable[..., Desk]


@pytest.fixture
def open_desk(llava: Lvlm, clip_embedder: Embedder) -> Iterator[Open]:
    """Workers that are closed in the end, with every slot free then."""
    opened: list[Desk] = []

    def make(*, max_requests: int = 80, max_prepared_bytes: int = 2**31, start: bool = True, rows: int = 16) -> Desk:
        engine, store, registry = InFlightEngine(llava, Budget(rows=rows)), Store(), CollectorRegistry()
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
        opened.append(Desk(llava, store, engine, worker, registry))
        return opened[-1]

    yield make
    for desk in opened:
        desk.store.open.set()
        desk.worker.close()
    assert llava.table.pinned_slots == 0
