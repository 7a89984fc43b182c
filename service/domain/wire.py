"""The messages between the api and a worker: plain frozen values, so that both sides mean the same.

They cross a process border as JSON made from these very classes (service/formats/messages.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlibrary.domain.query import EmbedderSpec
from vlibrary.domain.vector import ModelSpec


@dataclass(frozen=True)
class WorkerInfo:
    """What a worker serves: one LVLM and the query embedder. context_length: in tokens, answer included."""

    model: ModelSpec
    embedder: EmbedderSpec
    context_length: int


@dataclass(frozen=True)
class WorkerStatus:
    """A worker's heartbeat. running, waiting: requests; room: how many more it takes before it is overloaded.

    leaving: it finishes what runs and takes nothing new.
    """

    info: WorkerInfo
    running: int
    waiting: int
    room: int
    leaving: bool = False


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn. temperature 0 is greedy; seed matters only above 0.

    stop: the answer ends before the first of these texts to appear in it.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demonstration:
    """One worked example put into the prompt before the question (in-context learning by prompt)."""

    prompt: str
    images: tuple[bytes, ...]
    answer: str


@dataclass(frozen=True)
class Prompt:
    """What the user asks: text, the images that go before it, and demonstrations that go before both."""

    text: str
    images: tuple[bytes, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()

    @property
    def every_image(self) -> tuple[bytes, ...]:
        """In the order in which the model sees them."""
        shown = (image for one in self.demonstrations for image in one.images)
        return (*shown, *self.images)


@dataclass(frozen=True)
class Applied:
    """A vector to apply: where its bytes are, what they hash to, and how strongly to apply it."""

    vector_id: str
    object_key: str
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True)
class GenerateCall:
    """One request to a worker; several vectors are applied as their sum.

    model_id: the base model that shall answer. timeout_s: how long the caller waits for the whole answer.
    """

    prompt: Prompt
    model_id: str
    vectors: tuple[Applied, ...] = ()
    decoding: Decoding = Decoding()
    timeout_s: float | None = None


@dataclass(frozen=True)
class TextPiece:
    """The next piece of an answer, never empty; tokens: how many tokens of the answer are drawn so far."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Generation:
    """What the model said, whole; all pieces joined are its text.

    finish_reason: "stop" (end of turn or a stop text) or "length". timings: seconds by stage.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    timings: Mapping[str, Any] = field(default_factory=dict)
