"""The worker: this is where a vector becomes tokens. One object serves the api's Inference port in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import lru_cache, reduce
from operator import add

from service.domain.codec import decode
from service.domain.ports import Artifacts
from service.domain.query import Query, TaskEmbedding
from service.domain.vector import SteeringVector
from service.domain.wire import Applied, GenerateCall, Generation, TextPiece, WorkerInfo
from service.embedding import Embedder
from service.steering.engine import StaticEngine
from service.steering.lvlm import Lvlm

# Decoded vectors kept in host memory, about 1 MB each for an 8 B model.
CACHED_VECTORS = 256


class LocalWorker:
    """Implements service.domain.ports.Inference on models in this process; safe for many calling threads."""

    def __init__(self, lvlm: Lvlm, embedder: Embedder, artifacts: Artifacts) -> None:
        self._lvlm = lvlm
        self._engine = StaticEngine(lvlm)
        self._embedder = embedder
        self._artifacts = artifacts
        self._vector = lru_cache(maxsize=CACHED_VECTORS)(self._load)

    def served(self) -> tuple[WorkerInfo, ...]:
        return (WorkerInfo(self._lvlm.spec, self._embedder.spec, self._lvlm.context_length),)

    def check(self, vector: SteeringVector) -> None:
        self._lvlm.table.check(vector)

    def embed(self, query: Query) -> TaskEmbedding:
        return self._embedder.embed(query)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        generation = await asyncio.to_thread(self._answer, call)
        if generation.text:
            yield TextPiece(generation.text, generation.completion_tokens)
        yield generation

    def _answer(self, call: GenerateCall) -> Generation:
        vector = self._combined(call.vectors)
        return self._engine.generate([(call.prompt, vector)], call.decoding)[0]

    def _combined(self, applied: tuple[Applied, ...]) -> SteeringVector | None:
        """All vectors at their strengths as one; None when there are none."""
        if not applied:
            return None
        return reduce(add, [self._vector(one.object_key, one.sha256) * one.strength for one in applied])

    def _load(self, object_key: str, sha256: str) -> SteeringVector:
        vector = decode(self._artifacts.get(object_key, sha256))
        self.check(vector)
        return vector
