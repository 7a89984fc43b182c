"""One request inside the engine, and what an engine is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from vlibrary.domain.errors import VLibraryError
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Generation, Prompt, TextPiece

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


@dataclass(eq=False)
class Job:
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
    def most_tokens(self) -> int:
        """Cache columns that it may come to need: the prompt's and the answer's."""
        return self.prompt.length + self.decoding.max_new_tokens

    def overdue(self, now: float) -> bool:
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True)
class Load:
    """How busy an engine is. running, waiting: jobs; room: how many more it would take."""

    running: int
    waiting: int
    room: int


class Engine(Protocol):
    """Runs jobs on one model, on a thread of its own.

    open: False once it is closed or its thread has ended: it takes no jobs any more.
    """

    @property
    def open(self) -> bool: ...

    def submit(self, job: Job) -> None:
        """Queue the job. Raises Overloaded when the queue is full, PromptTooLong when it could never fit."""
        ...

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any longer: it leaves at the next step and emits nothing more. Ended jobs are ignored."""
        ...

    def load(self) -> Load:
        """How busy it is now."""
        ...

    def close(self) -> None:
        """Stop; jobs under way end with WorkerUnavailable."""
        ...
