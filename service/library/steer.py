"""Answer a prompt with vectors applied: the best match of the query, those that the request lists, or none."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import InvalidInput, WorkerLost
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.query import Query
from vlibrary.domain.steering import NotSteered, SteeringReason
from vlibrary.domain.wire import ArtifactAtStrength, Decoding, GenerateCall, Generation, Prompt, TextPiece
from vlibrary.library.library import Library
from vlibrary.library.references import resolve
from vlibrary.library.retrieve import retrieve


@dataclass(frozen=True)
class Auto:
    """Apply the best match of the query if its score reaches its threshold.

    query: by default the prompt's text and images, without its demonstrations.
    """

    strength: float = 1.0
    query: Query | None = None


@dataclass(frozen=True)
class VectorAtStrength:
    """A reference to a vector (see vlibrary.library.references) and the strength at which to apply it."""

    reference: str
    strength: float = 1.0


@dataclass(frozen=True)
class Listed:
    """Apply these vectors; several are applied as their sum."""

    vectors: tuple[VectorAtStrength, ...]


@dataclass(frozen=True)
class Off:
    """Answer with the base model."""


Steering = Auto | Listed | Off


@dataclass(frozen=True)
class AppliedVector:
    """A vector applied to the answer. score: that of the match; None if the request listed the vector."""

    record: VectorRecord
    score: float | None
    strength: float


@dataclass(frozen=True)
class Answer:
    """The model's answer, the vectors applied to it, and the reason if there were none."""

    generation: Generation
    applied: tuple[AppliedVector, ...]
    reason: NotSteered | None
    model_id: str


@dataclass(frozen=True)
class Plan:
    """The call to a worker, the vectors that it applies, and the reason if there are none."""

    call: GenerateCall
    applied: tuple[AppliedVector, ...]
    reason: NotSteered | None

    def with_timeout(self, seconds: float) -> Plan:
        """Return the plan with a time limit for the whole answer."""
        return replace(self, call=replace(self.call, timeout_s=seconds))

    def to_answer(self, generation: Generation) -> Answer:
        """Return the answer to this plan."""
        return Answer(generation, self.applied, self.reason, self.call.model_id)


def plan(
    prompt: Prompt,
    steering: Steering,
    decoding: Decoding,
    library: Library,
    *,
    model_id: str | None,
) -> Plan:
    """Choose the vectors. Blocks, because it reads the stores and embeds the prompt; `stream` does the rest.

    Raises VectorNotFound, AliasNotFound, ModelNotFound, InvalidImage, InvalidQuery, InvalidInput, Unavailable.
    """
    model = library.worker.find(model_id).model.model_id
    applied, reason = _choose(prompt, steering, model, library)
    vectors = tuple(
        ArtifactAtStrength(one.record.id, one.record.object_key, one.record.sha256, one.strength) for one in applied
    )
    return Plan(GenerateCall(prompt, model, vectors, decoding), applied, reason)


async def stream(plan: Plan, worker: Inference) -> AsyncGenerator[TextPiece | Answer]:
    """Yield pieces of text as they are decoded, then the whole answer, once.

    No vector is skipped silently: it is applied, or a reason given, or an error raised, before the first piece or
    later. Closing the generator cancels the request. Raises what Inference.generate raises.
    """
    whole: Generation | None = None
    async with aclosing(worker.generate(plan.call)) as events:
        async for event in events:
            if isinstance(event, Generation):
                whole = event
            else:
                yield event
    if whole is None:
        raise WorkerLost("The worker's answer ended without its last event.", "Retry the request.")
    yield plan.to_answer(whole)


async def answer(plan: Plan, worker: Inference) -> Answer:
    """Return the whole answer; otherwise like `stream`."""
    *_, last = [event async for event in stream(plan, worker)]
    assert isinstance(last, Answer)
    return last


def _choose(
    prompt: Prompt, steering: Steering, model_id: str, library: Library
) -> tuple[tuple[AppliedVector, ...], NotSteered | None]:
    if isinstance(steering, Off):
        return (), NotSteered(SteeringReason.OFF, "The request switched steering off.")
    if isinstance(steering, Listed):
        listed = tuple(_resolve(library.catalogue, one) for one in steering.vectors)
        if not listed:
            return (), NotSteered(SteeringReason.NO_VECTORS, "The request's list of vectors is empty.")
        return listed, None
    _check_finite(steering.strength)
    query = steering.query or Query(text=prompt.text, images=prompt.images)
    matches = retrieve(query, library, k=1, model_id=model_id)
    if not matches:
        return (), NotSteered(SteeringReason.NO_MATCH, "The library has no vector for this base model.")
    best = matches[0]
    if not best.accepted:
        detail = (
            f"The best match, {best.record.name} version {best.record.version}, scores {best.score:.3f}, "
            f"below its threshold of {best.threshold:.3f}."
        )
        return (), NotSteered(SteeringReason.BELOW_THRESHOLD, detail)
    return (AppliedVector(best.record, best.score, steering.strength),), None


def _resolve(catalogue: Catalogue, vector: VectorAtStrength) -> AppliedVector:
    _check_finite(vector.strength)
    return AppliedVector(resolve(vector.reference, catalogue), None, vector.strength)


def _check_finite(strength: float) -> None:
    if not math.isfinite(strength):
        raise InvalidInput(f"Invalid strength {strength}.", "Use a finite number; 1 is the vector as trained.")
