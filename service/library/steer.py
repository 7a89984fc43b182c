"""Answer a prompt with vectors applied: the best match of the query, those that the request lists, or none."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import InvalidInput, WorkerLost
from vlibrary.domain.matching.decision import Decision
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.steering import Mode, NotSteered, SteeringReason, has_demonstrations
from vlibrary.domain.wire import ArtifactAtStrength, Decoding, GenerateCall, Generation, Prompt, TextPiece, WorkerInfo
from vlibrary.library.library import Library
from vlibrary.library.model_names import NamedModel, find_model
from vlibrary.library.references import resolve
from vlibrary.library.retrieve import retrieve


@dataclass(frozen=True)
class Auto:
    """Apply the best of the vectors that fit the query.

    query: by default the prompt's text and images, without its demonstrations.
    with_demonstrations: also steer prompts that bring their own demonstrations; a vector that competes with them can
    make the answers worse than without it.
    """

    strength: float = 1.0
    query: Query | None = None
    with_demonstrations: bool = False


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


@dataclass(frozen=True)
class ByModelName:
    """Steer as the request's model name says: apply the vector that it refers to, or steer in its mode.

    auto: how, in mode `auto`; its strength is also that of the named vector.
    """

    auto: Auto = Auto()


Steering = Auto | Listed | Off | ByModelName


@dataclass(frozen=True)
class AppliedVector:
    """A vector applied to the answer. score: that of the match; None if the request listed the vector."""

    record: VectorRecord
    score: float | None
    strength: float


@dataclass(frozen=True)
class Answer:
    """The model's answer, the vectors applied to it, the reason if there were none; the rest is as in the plan."""

    generation: Generation
    applied: tuple[AppliedVector, ...]
    reason: NotSteered | None
    model_id: str
    query: TaskEmbedding | None = field(default=None, compare=False)
    decision: Decision | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Plan:
    """The call to a worker, the model as named, the vectors applied to it, and the reason if there are none.

    query: what `auto` compared with the task keys, and decision: what it found; None if it compared nothing.
    retrieval_s: how long the choice took.
    """

    call: GenerateCall
    model: NamedModel
    applied: tuple[AppliedVector, ...]
    reason: NotSteered | None
    query: TaskEmbedding | None = field(default=None, compare=False)
    decision: Decision | None = field(default=None, compare=False)
    retrieval_s: float = field(default=0.0, compare=False)

    def with_timeout(self, seconds: float) -> Plan:
        """Return the plan with a time limit for the whole answer."""
        return replace(self, call=replace(self.call, timeout_s=seconds))

    def to_answer(self, generation: Generation) -> Answer:
        """Return the answer to this plan, with the time of the choice among its timings."""
        timings = {"retrieval_s": self.retrieval_s} | dict(generation.timings)
        timings["total_s"] = timings.get("total_s", 0.0) + self.retrieval_s
        generation = replace(generation, timings=timings)
        return Answer(generation, self.applied, self.reason, self.call.model_id, self.query, self.decision)


def plan(
    prompt: Prompt,
    steering: Steering,
    decoding: Decoding,
    library: Library,
    *,
    model: str | None,
) -> Plan:
    """Choose the vectors. Blocks, because it reads the stores and embeds the prompt; `stream` does the rest.

    model: a name as in vlibrary.library.model_names. Raises ModelNotFound, VectorNotFound, AliasNotFound,
    InvalidImage, InvalidQuery, Unavailable, and InvalidInput, also if model name and steering contradict each other.
    """
    started = time.perf_counter()
    named = find_model(model, library)
    choice = _choose(prompt, _reconcile(named, steering, library), named.base, library)
    vectors = tuple(
        ArtifactAtStrength(one.record.id, one.record.object_key, one.record.sha256, one.strength)
        for one in choice.applied
    )
    call = GenerateCall(prompt, named.base.model.model_id, vectors, decoding)
    seconds = time.perf_counter() - started
    return Plan(call, named, choice.applied, choice.reason, choice.query, choice.decision, seconds)


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


def _reconcile(named: NamedModel, steering: Steering, library: Library) -> Auto | Listed | Off:
    """Return the steering that the model name and the request select together.

    Raises InvalidInput if they contradict each other, VectorNotFound, AliasNotFound.
    """
    if isinstance(steering, ByModelName):
        if named.vector is not None:
            return Listed((VectorAtStrength(named.vector.id, steering.auto.strength),))
        return steering.auto if (named.mode or library.default_mode) is Mode.AUTO else Off()
    if named.vector is not None:
        chosen = steering.vectors if isinstance(steering, Listed) else ()
        agree = [resolve(one.reference, library.catalogue).id for one in chosen] == [named.vector.id]
    else:
        agree = named.mode in (None, Mode.AUTO if isinstance(steering, Auto) else Mode.OFF)
        agree = agree and not (named.mode and isinstance(steering, Listed))
    if not agree:
        raise InvalidInput(
            f"The model name {named.name!r:.200} and the request's `steering` contradict each other.",
            "Omit `steering`, or name a base model and choose with `steering` alone.",
        )
    return steering


@dataclass(frozen=True)
class _Choice:
    """The vectors to apply, or the reason why there are none, with the query and the decision, as in `Plan`."""

    applied: tuple[AppliedVector, ...] = ()
    reason: NotSteered | None = None
    query: TaskEmbedding | None = field(default=None, compare=False)
    decision: Decision | None = field(default=None, compare=False)


def _choose(prompt: Prompt, steering: Auto | Listed | Off, base: WorkerInfo, library: Library) -> _Choice:
    if isinstance(steering, Off):
        return _Choice(reason=NotSteered(SteeringReason.OFF, "Steering is switched off."))
    if isinstance(steering, Listed):
        if not steering.vectors:
            return _Choice(reason=NotSteered(SteeringReason.NO_VECTORS, "The request's list of vectors is empty."))
        listed = []
        for one in steering.vectors:
            _check_finite(one.strength)
            listed.append(AppliedVector(resolve(one.reference, library.catalogue), None, one.strength))
        return _Choice(tuple(listed))
    _check_finite(steering.strength)
    if prompt.tokens and steering.query is None:
        detail = "The prompt is a list of tokens, and `auto` searches with a text."
        return _Choice(reason=NotSteered(SteeringReason.NO_TEXT, detail))
    if has_demonstrations(prompt) and not steering.with_demonstrations:
        detail = "The request brings its own demonstrations."
        return _Choice(reason=NotSteered(SteeringReason.OWN_DEMONSTRATIONS, detail))
    return _match(steering.query or Query(text=prompt.text, images=prompt.images), steering.strength, base, library)


def _match(query: Query, strength: float, base: WorkerInfo, library: Library) -> _Choice:
    found = retrieve(query, library, k=1, model_id=base.model.model_id)
    best, reason = found.decision.best, found.decision.reason
    if best is None or reason is not None:
        if reason is not None and found.query.text_cut:
            limit, tokens = found.query.text_limit, found.query.text_tokens
            note = f" The text was truncated: only the first {limit} of its {tokens} tokens were compared."
            reason = replace(reason, detail=reason.detail + note)
        return _Choice(reason=reason, query=found.query, decision=found.decision)
    return _Choice((AppliedVector(best.record, best.score, strength),), query=found.query, decision=found.decision)


def _check_finite(strength: float) -> None:
    if not math.isfinite(strength):
        raise InvalidInput(f"Invalid strength {strength}.", "Use a finite number; 1 is the vector as trained.")
