"""A worker that follows a script: it answers, waits, fails, and records its requests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from enum import Enum

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MemoryWorker
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece


class Then(Enum):
    """What follows the last piece, if it is not an error."""

    END = "the whole answer"
    VANISH = "the end, without a whole answer"
    WAIT = "nothing, until it is cancelled"


class ScriptedWorker(MemoryWorker):
    """Implements vlibrary.domain.ports.Inference. begun, closed: set when an answer begins and when it is closed."""

    def __init__(
        self, pieces: Sequence[str] = (), then: Then | Exception = Then.END, *, finish_reason: str = "length"
    ) -> None:
        super().__init__(MemoryArtifacts())
        self._pieces = tuple(pieces)
        self._then = then
        self._finish_reason = finish_reason
        self.calls: list[GenerateCall] = []
        self.begun = threading.Event()
        self.closed = threading.Event()

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        self.calls.append(call)
        self.begun.set()
        try:
            for number, piece in enumerate(self._pieces, start=1):
                await asyncio.sleep(0)
                yield TextPiece(piece, tokens=number)
            if isinstance(self._then, Exception):
                raise self._then
            if self._then is Then.WAIT:
                await asyncio.Event().wait()
            if self._then is Then.END:
                yield Generation("".join(self._pieces), 1, len(self._pieces), self._finish_reason, {"total_s": 0.0})
        finally:
            self.closed.set()
