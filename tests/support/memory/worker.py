"""A worker without models: an in-memory implementation of the Worker port, for tests of the API.

Its embeddings of similar texts or images are similar, as the library requires. Its answers repeat the prompt and the
vectors applied.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import AsyncGenerator

import numpy as np
from PIL import Image

from vlibrary.domain.errors import Overloaded, PromptTooLong
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.inference import Worker
from vlibrary.domain.query import EmbedderSpec, Query, TaskEmbedding, unit
from vlibrary.domain.vector import Array, ModelSpec, SteeringVector, check_applicable
from vlibrary.domain.wire import GenerateCall, Generation, ScoredToken, TextPiece, WorkerInfo, WorkerStatus
from vlibrary.formats.artifact import decode
from vlibrary.formats.images import decode_image

MODEL = ModelSpec("memory/echo", "0" * 64, "Echo", layers=2, hidden_size=4)
EMBEDDER = EmbedderSpec("memory/trigrams", "1" * 64, image_size=49, text_size=64)
CONTEXT_LENGTH = 2_048
TEXT_LIMIT = 64


class MemoryWorker(Worker):
    """A deterministic worker without models.

    pause_s: before each word; room: how many requests it takes at a time.
    """

    def __init__(self, artifacts: Artifacts, *, pause_s: float = 0.0, room: int = 64) -> None:
        self._artifacts = artifacts
        self._pause_s = pause_s
        self._room = room
        self._running = 0

    def status(self) -> WorkerStatus:
        return WorkerStatus(self.models()[0], running=self._running, waiting=0, room=self._room - self._running)

    def close(self) -> None:
        """It holds nothing."""

    def models(self) -> tuple[WorkerInfo, ...]:
        return (WorkerInfo(model=MODEL, embedder=EMBEDDER, context_length=CONTEXT_LENGTH),)

    def check(self, vector: SteeringVector) -> None:
        check_applicable(vector, MODEL)

    def embed(self, query: Query) -> TaskEmbedding:
        image = unit(np.mean([_thumbnail(one) for one in query.images], axis=0)) if query.images else None
        if query.text is None:
            return TaskEmbedding(image=image)
        return TaskEmbedding(image, _trigrams(query.text), len(query.text.split()), TEXT_LIMIT)

    async def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        whole = self._answer(call)
        if self._running >= self._room:
            raise Overloaded(f"{self._running} requests are running.", "Send it again in a moment.")
        self._running += 1
        try:
            for number, word in enumerate(_words(whole.text), start=1):
                await asyncio.sleep(self._pause_s)
                yield TextPiece(word, number, (whole.logprobs or ())[number - 1 : number])
            yield whole
        finally:
            self._running -= 1

    def _answer(self, call: GenerateCall) -> Generation:
        prompt = call.prompt
        self.find(call.model_id)
        for image in (*prompt.images, *(image for one in prompt.demonstrations for image in one.images)):
            decode_image(image)
        given = prompt.text or " ".join(f"<{token}>" for token in prompt.tokens)
        texts = [given, *(f"{one.prompt} {one.answer}" for one in prompt.demonstrations)]
        words = [word for text in texts for word in _words(text)]
        if len(words) >= CONTEXT_LENGTH:
            raise PromptTooLong(
                f"This model's maximum context length is {CONTEXT_LENGTH} tokens. However, you sent {len(words)}.",
                "Shorten it.",
            )
        for one in call.vectors:
            self.check(decode(self._artifacts.get(one.object_key, one.sha256)))
        applied = [f"{one.strength:g}·{one.vector_id}" for one in call.vectors]
        text = " + ".join([given, *applied]).rstrip()
        return Generation(
            text=text,
            prompt_tokens=len(words),
            completion_tokens=len(text.split()),
            finish_reason="stop",
            timings={"total_s": 0.0},
            logprobs=_scored(_words(text), call.decoding.logprobs),
            prompt_logprobs=_scored(words, call.decoding.prompt_logprobs),
        )


def _words(text: str) -> list[str]:
    """Words with the white space before them, the tokens of this worker."""
    return re.findall(r"\s*\S+", text)


def _scored(words: list[str], count: int | None) -> tuple[ScoredToken, ...] | None:
    """Every word with the log-probability -1/2, and as many others as are requested, the last one impossible."""
    if count is None:
        return None
    others = tuple(ScoredToken(at, b"\xf0\x9f", -float(at) if at < 20 else -math.inf) for at in range(1, count + 1))
    return tuple(ScoredToken(len(word), word.encode(), -0.5, others) for word in words)


def _trigrams(text: str) -> Array:
    """Counts of the text's letter triples, hashed into 64 bins, length 1."""
    padded = f"  {text.lower().strip()} "
    bins = np.zeros(EMBEDDER.text_size, np.float32)
    for at in range(len(padded) - 2):
        digest = hashlib.sha256(padded[at : at + 3].encode()).digest()
        bins[digest[0] % EMBEDDER.text_size] += 1
    return unit(bins)


def _thumbnail(image: bytes) -> Array:
    """The picture at 4 × 4 pixels around mid-grey, with a constant so that even mid-grey has a direction; length 1."""
    small = decode_image(image).resize((4, 4), Image.Resampling.BOX)
    pixels = np.asarray(small, np.float32).ravel() / 127.5 - 1
    return unit(np.concatenate([pixels, np.ones(1, np.float32)]))
