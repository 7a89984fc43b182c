"""Values that the API and its workers exchange; vlibrary.formats.messages converts them to JSON."""

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
    """A worker's heartbeat. running, waiting: numbers of requests. room: how many more it accepts.

    leaving: it is shutting down: it finishes running requests and accepts no new ones.
    """

    info: WorkerInfo
    running: int
    waiting: int
    room: int
    leaving: bool = False


@dataclass(frozen=True)
class Decoding:
    """Decoding parameters. temperature: 0 is greedy decoding; the seed matters only above 0.

    stop: the answer ends before the first occurrence of one of these texts.
    """

    max_new_tokens: int = 16
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Demonstration:
    """One solved example shown in the prompt before the question."""

    prompt: str
    images: tuple[bytes, ...]
    answer: str


@dataclass(frozen=True)
class Prompt:
    """A user's prompt: demonstrations, then images, then text.

    verbatim: the model reads the text as it is, without its chat template; there are no images and no demonstrations.
    tokens: the token ids of a verbatim prompt, given instead of its text.
    """

    text: str
    images: tuple[bytes, ...] = ()
    demonstrations: tuple[Demonstration, ...] = ()
    verbatim: bool = False
    tokens: tuple[int, ...] = ()

    @property
    def every_image(self) -> tuple[bytes, ...]:
        """All images, in the order in which the model sees them."""
        shown = (image for one in self.demonstrations for image in one.images)
        return (*shown, *self.images)


@dataclass(frozen=True)
class ArtifactAtStrength:
    """A vector to apply: its artifact's key and digest, and the strength."""

    vector_id: str
    object_key: str
    sha256: str
    strength: float = 1.0


@dataclass(frozen=True)
class GenerateCall:
    """A request to a worker; several vectors are applied as their sum.

    model_id: the base model's name. timeout_s: the time limit for the whole answer.
    """

    prompt: Prompt
    model_id: str
    vectors: tuple[ArtifactAtStrength, ...] = ()
    decoding: Decoding = Decoding()
    timeout_s: float | None = None


@dataclass(frozen=True)
class TextPiece:
    """The next, non-empty part of an answer. tokens: the number of tokens generated so far."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Generation:
    """A complete answer. text: all pieces joined.

    finish_reason: "stop" (end of turn or a stop text) or "length". timings: seconds per stage.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    timings: Mapping[str, Any] = field(default_factory=dict)
