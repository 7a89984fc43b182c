"""A request inside the engine, and the protocol of an engine."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from vlibrary.domain.errors import VLibraryError
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt, TextPiece
from vlibrary.models.lvlm import Lvlm

Event = TextPiece | Generation | VLibraryError


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt after the model's processor, in host memory.

    inputs: the arguments of the model's forward, a batch of one row without padding.
    length: tokens, image tokens included.
    images: sha256 digests of the encoded images, in the prompt's order.
    """

    prompt: Prompt
    inputs: Mapping[str, Tensor]
    length: int
    images: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """The size of the tensors, most of which are pixels."""
        return sum(value.nbytes for value in self.inputs.values())

    @property
    def ids(self) -> list[int]:
        """The prompt's token ids."""
        ids: list[int] = self.inputs["input_ids"][0].tolist()
        return ids


def encode_prompt(lvlm: Lvlm, prompt: Prompt, max_new_tokens: int) -> EncodedPrompt:
    """Tokenize the prompt and preprocess its images; safe to call from any thread.

    Raises InvalidImage, InvalidQuery, PromptTooLong.
    """
    batch = lvlm.encode_on_host(prompt, max_new_tokens)
    digests = tuple(hashlib.sha256(image).hexdigest() for image in prompt.every_image)
    return EncodedPrompt(prompt, batch.inputs, batch.prompt_tokens[0], digests)


@dataclass(eq=False)
class Request:
    """A request to an engine.

    emit: called on the model's thread with text pieces and at last, once, with a Generation or an error; must not
        block.
    vector_key: identifies the vector's content and strength.
    deadline, submitted: seconds on the clock of time.monotonic.
    """

    prompt: EncodedPrompt
    decoding: Decoding
    emit: Callable[[Event], None]
    vector: SteeringVector | None = None
    vector_key: str | None = None
    deadline: float | None = None
    submitted: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    @property
    def max_tokens(self) -> int:
        """The cache columns it may need: prompt tokens plus the most new tokens."""
        return self.prompt.length + self.decoding.max_new_tokens

    def is_overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True)
class Load:
    """The load of an engine, in requests. room: how many more it accepts."""

    running: int
    waiting: int
    room: int


class Engine(Protocol):
    """Answers requests with one model, on its own thread.

    is_open: False after `close` and when the thread has ended; `submit` then raises WorkerUnavailable.
    capacity: the most tokens of a prompt and its answer together.
    """

    @property
    def is_open(self) -> bool: ...
    @property
    def capacity(self) -> int: ...

    def prepare(self, decoding: Decoding) -> None:
        """Compile the decoding's JSON schema, which may take seconds; safe to call from any thread.

        Raises InvalidInput if the schema is invalid or not supported.
        """
        ...

    def submit(self, request: Request) -> None:
        """Queue the request.

        Raises Overloaded when the queue is full, PromptTooLong when the request can never fit, WorkerUnavailable.
        """
        ...

    def cancel(self, request: Request) -> None:
        """Drop the request at the next step; it emits nothing more. Requests that have ended are ignored."""
        ...

    def load(self) -> Load:
        """Return the current load."""
        ...

    def close(self) -> None:
        """Stop the thread; unfinished requests end with WorkerUnavailable."""
        ...
