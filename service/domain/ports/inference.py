"""The ports of workers: inference with steering, in this process or another."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from vlibrary.domain.errors import ModelNotFound
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import GenerateCall, Generation, TextPiece, WorkerInfo, WorkerStatus


class Inference(Protocol):
    """A worker (an LVLM with steering, and the query embedder), or a fleet of them behind the same methods.

    Every method raises WorkerUnavailable if no worker can answer, and Overloaded if all that could are busy.
    """

    def models(self) -> tuple[WorkerInfo, ...]:
        """Return the models that requests can name now: at least one, each once. All share one embedder."""
        ...

    def find(self, model_id: str | None) -> WorkerInfo:
        """Return the model with this id, or the first one for None.

        Raises ModelNotFound, and WorkerUnavailable when all workers that served the model are gone.
        """
        models = self.models()
        for info in models:
            if model_id in (None, info.model.model_id):
                return info
        known = ", ".join(repr(info.model.model_id) for info in models)
        raise ModelNotFound(f"No worker serves the model {model_id!r}.", f"Use {known}, or omit the model.")

    def check(self, vector: SteeringVector) -> None:
        """Raise WrongModel or UnsupportedEdit unless `generate` could apply this vector."""
        ...

    def embed(self, query: Query) -> TaskEmbedding:
        """Return the embeddings of the query's parts, each of length 1. Raises InvalidImage or InvalidQuery."""
        ...

    def generate(self, call: GenerateCall) -> AsyncGenerator[TextPiece | Generation]:
        """Answer with the vectors applied: yield pieces of text as they are decoded, then the Generation, once.

        The joined pieces are the Generation's text. No vector is skipped silently, and the stream never ends without a
        Generation: an error is raised instead, before the first piece or later. Closing the generator cancels the
        request and frees its resources.
        Raises ModelNotFound, PromptTooLong, InvalidImage, InvalidQuery, WrongModel, UnsupportedEdit, ArtifactLost,
        Overloaded, OutOfMemory, TimedOut, WorkerUnavailable (before the answer) and WorkerLost (during the answer).
        """
        ...


class Worker(Inference, Protocol):
    """One worker, in this process or in another."""

    def status(self) -> WorkerStatus:
        """Return the heartbeat without waiting for the model. Raises WorkerUnavailable."""
        ...

    def close(self) -> None:
        """Release threads and connections; requests still running fail."""
        ...
