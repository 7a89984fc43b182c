"""One request inside the engine, and what an engine is."""

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
    """One prompt as the model's processor made it, on the host.

    prompt: as it was asked. inputs: what the model's forward takes, a batch of one row without padding.
    length: its tokens, image tokens included. images: digests of the encoded pictures, in the prompt's order.
    """

    prompt: Prompt
    inputs: Mapping[str, Tensor]
    length: int
    images: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """What its tensors take; pictures are most of it."""
        return sum(value.nbytes for value in self.inputs.values())


def encode_prompt(lvlm: Lvlm, prompt: Prompt, max_new_tokens: int) -> EncodedPrompt:
    """The prompt, ready to be prefilled; any thread may call it.

    Raises InvalidImage, InvalidQuery, PromptTooLong.
    """
    batch = lvlm.encode_on_host(prompt, max_new_tokens)
    shown = [image for one in prompt.demonstrations for image in one.images]
    digests = tuple(hashlib.sha256(image).hexdigest() for image in (*shown, *prompt.images))
    return EncodedPrompt(prompt, batch.inputs, batch.prompt_tokens[0], digests)


@dataclass(eq=False)
class Request:
    """A request on its way through an engine.

    emit: called on the model's thread with pieces and last, once, with a Generation or an error; must not block.
    vector_key: identity of the vector's content and strength. deadline: on time.monotonic's clock.
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
        """Cache columns that it may come to need: the prompt's and the answer's."""
        return self.prompt.length + self.decoding.max_new_tokens

    def is_overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True)
class Load:
    """How busy an engine is. running, waiting: requests; room: how many more it would take."""

    running: int
    waiting: int
    room: int


class Engine(Protocol):
    """Runs requests on one model, on a thread of its own.

    open: False once it is closed or its thread has ended: it takes no requests any more.
    """

    @property
    def is_open(self) -> bool: ...

    def submit(self, request: Request) -> None:
        """Queue the request. Raises Overloaded when the queue is full, PromptTooLong when it could never fit."""
        ...

    def cancel(self, request: Request) -> None:
        """Drop the request at the next step; it emits nothing more. Requests that have ended are ignored."""
        ...

    def load(self) -> Load:
        """How busy it is now."""
        ...

    def close(self) -> None:
        """Stop; requests under way end with WorkerUnavailable."""
        ...
