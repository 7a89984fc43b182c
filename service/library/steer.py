"""Answer a prompt with vectors applied: chosen by the query itself, named by the caller, or none."""

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
from vlibrary.domain.wire import Applied, Decoding, GenerateCall, Generation, Prompt, TextPiece
from vlibrary.library.library import Library
from vlibrary.library.references import resolve
from vlibrary.library.retrieve import Match, retrieve


@dataclass(frozen=True)
class Auto:
    """Apply the best match of the query, if it passes its threshold.

    query: by default the prompt's own text and images, without its demonstrations.
    """

    strength: float = 1.0
    query: Query | None = None


@dataclass(frozen=True)
class Chosen:
    """Apply these vectors, as pairs of a reference (vlibrary.library.references) and a strength; several add up."""

    vectors: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Off:
    """Answer as the base model would."""


Steering = Auto | Chosen | Off


@dataclass(frozen=True)
class AppliedVector:
    """A vector that acted on the answer. score: None when the caller chose it."""

    record: VectorRecord
    score: float | None
    strength: float


@dataclass(frozen=True)
class Answer:
    """The model's answer, what steered it, and why nothing did when nothing did."""

    generation: Generation
    applied: tuple[AppliedVector, ...]
    reason: NotSteered | None
    model_id: str


@dataclass(frozen=True)
class Plan:
    """What will be asked of a worker, what will steer the answer, and why nothing will when nothing does."""

    call: GenerateCall
    applied: tuple[AppliedVector, ...]
    reason: NotSteered | None

    def within(self, seconds: float) -> Plan:
        """The same plan; the worker has so many seconds for the whole answer."""
        return replace(self, call=replace(self.call, timeout_s=seconds))

    def answered(self, generation: Generation) -> Answer:
        """This plan with what the model said."""
        return Answer(generation, self.applied, self.reason, self.call.model_id)


def plan(
    prompt: Prompt,
    steering: Steering,
    decoding: Decoding,
    library: Library,
    *,
    model_id: str | None,
) -> Plan:
    """Choose the vectors. Asks the stores and embeds the prompt, so it blocks; the worker's `generate` is the rest.

    Raises VectorNotFound, AliasNotFound, ModelNotFound, InvalidImage, InvalidQuery, InvalidInput, Unavailable.
    """
    model = library.worker.find(model_id).model.model_id
    applied, reason = _choose(prompt, steering, model, library)
    vectors = tuple(map(_reference, applied))
    return Plan(GenerateCall(prompt, model, vectors, decoding), applied, reason)


async def stream(plan: Plan, worker: Inference) -> AsyncGenerator[TextPiece | Answer]:
    """Pieces of text as they come and last, once, the whole answer.

    Never leaves out a vector silently: it is applied, or a reason is given, or an error raised, before the first piece
    or after. Closing the generator cancels the request. Raises what Inference.generate raises.
    """
    whole: Generation | None = None
    async with aclosing(worker.generate(plan.call)) as events:
        async for event in events:
            if isinstance(event, Generation):
                whole = event
            else:
                yield event
    if whole is None:
        raise WorkerLost("The worker's answer ended without its last event.", "Ask again.")
    yield plan.answered(whole)


async def answer(plan: Plan, worker: Inference) -> Answer:
    """The whole answer at once; otherwise as `stream`."""
    *_, last = [event async for event in stream(plan, worker)]
    assert isinstance(last, Answer)
    return last


def _choose(
    prompt: Prompt, steering: Steering, model_id: str, library: Library
) -> tuple[tuple[AppliedVector, ...], NotSteered | None]:
    if isinstance(steering, Off):
        return (), NotSteered(SteeringReason.OFF, "The request switched steering off.")
    if isinstance(steering, Chosen):
        named = tuple(_named(library.catalogue, reference, strength) for reference, strength in steering.vectors)
        if not named:
            return (), NotSteered(SteeringReason.NO_VECTORS, "The request's list of vectors is empty.")
        return named, None
    _require_finite(steering.strength)
    query = steering.query or Query(text=prompt.text, images=prompt.images)
    matches = retrieve(query, library, k=1, model_id=model_id)
    if not matches:
        return (), NotSteered(SteeringReason.NO_MATCH, "The library has no vector for this base model.")
    best = matches[0]
    if not best.accepted:
        return (), NotSteered(SteeringReason.BELOW_THRESHOLD, _below_threshold(best))
    return (AppliedVector(best.record, best.score, steering.strength),), None


def _named(catalogue: Catalogue, reference: str, strength: float) -> AppliedVector:
    _require_finite(strength)
    return AppliedVector(resolve(reference, catalogue), None, strength)


def _require_finite(strength: float) -> None:
    if not math.isfinite(strength):
        raise InvalidInput(f"The strength is {strength}.", "Give a finite number; 1 is the vector as it was trained.")


def _below_threshold(best: Match) -> str:
    return (
        f"The best match, {best.record.name} version {best.record.version}, scores {best.score:.3f}, "
        f"below its threshold of {best.threshold:.3f}."
    )


def _reference(vector: AppliedVector) -> Applied:
    record = vector.record
    return Applied(record.id, record.object_key, record.sha256, vector.strength)
