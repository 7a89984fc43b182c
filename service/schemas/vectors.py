"""Bodies of /vectors and /retrieve."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from vlibrary.domain.card import KeyKind, Status, VectorRecord
from vlibrary.domain.labels import MetadataValue
from vlibrary.domain.matching.decision import Decision, Match
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.steering import NotSteered, SteeringReason
from vlibrary.library.retrieve import MAX_K, Retrieval
from vlibrary.schemas.examples import NAMED_EXAMPLE, SAMPLE_IMAGE, examples
from vlibrary.schemas.fields import MAX_IMAGES, MAX_TEXT, EncodedImage, StrictIn
from vlibrary.schemas.filters import FilterIn

MIN_SEQ = "Change-log sequence number (X-Catalogue-Seq of a write) that the search must include"
MODEL = "Id of the base model; by default the one that is served"
K = "Number of vectors to return"


class RetrieveIn(StrictIn):
    """A query of text, images or both."""

    model_config = examples(
        {"text": "Which hue?", "images": [SAMPLE_IMAGE], "k": 3},
        {"text": "Which hue?", "filter": {"tags": ["checked"], "metadata": ["shots>=8", "split=train"]}},
    )

    text: str | None = Field(default=None, max_length=MAX_TEXT)
    images: list[EncodedImage] = Field(default_factory=list, max_length=MAX_IMAGES)
    k: int = Field(default=5, ge=1, le=MAX_K, description=K)
    model: str | None = Field(default=None, description=MODEL)
    filter: FilterIn = Field(default_factory=FilterIn, description="Which vectors to search")
    min_seq: int = Field(default=0, ge=0, lt=2**53, description=MIN_SEQ)


_VECTOR = NAMED_EXAMPLE | {
    "description": "Colours of drawn shapes, answered in code words",
    "model": "vlibrary/bundled-llava",
    "model_fingerprint": "9c2e5d1f",
    "method": "m2iv",
    "positions": "all",
    "layers": 4,
    "hidden_size": 128,
    "size": 5096,
    "keys": 6,
    "thresholds": {"image_text": 0.91, "text": 0.88, "image": 0.74},
    "results": {"zero_shot": 0.02, "n_shot": 0.86, "steered": 0.98},
    "training": {"shots": 16, "seed": 0},
    "created_at": "2026-11-22T12:00:00Z",
    "seq": 1,
    "revision": 1,
    "state": "active",
    "deleted_at": None,
    "tags": ["checked", "colour"],
    "metadata": {"shots": 16, "split": "train"},
    "derived_from": [],
}
MATCH_EXAMPLE = NAMED_EXAMPLE | {
    "description": _VECTOR["description"],
    "score": 0.97,
    "parts": {"image": None, "text": 0.97},
    "probability": None,
    "threshold": 0.91,
    "accepted": True,
    "reason": None,
}


class NamedOut(BaseModel):
    """One version of a vector."""

    id: str
    name: str
    version: int
    sha256: str = Field(repr=False, description="SHA-256 digest of the artifact")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Round numbers in the text form, such as scores."""
        for name, value in super().__repr_args__():
            yield name, round(value, 4) if isinstance(value, float) else value


def identify(record: VectorRecord) -> dict[str, Any]:
    """Return the fields of NamedOut."""
    return {"id": record.id, "name": record.name, "version": record.version, "sha256": record.sha256}


class VectorOut(NamedOut):
    """A registered vector."""

    model_config = examples(_VECTOR)

    description: str
    model: str = Field(description="Id of the base model the vector was trained for")
    model_fingerprint: str = Field(repr=False)
    method: str
    positions: str = Field(repr=False)
    layers: int = Field(repr=False)
    hidden_size: int = Field(repr=False)
    size: int = Field(repr=False, description="Size of the artifact in bytes")
    keys: int = Field(repr=False, description="Number of task keys")
    thresholds: dict[Modality, float] = Field(
        repr=False, description="Score from which a match is accepted, by query modality"
    )
    results: dict[str, Any] = Field(repr=False, description="Evaluation results from the card")
    training: dict[str, Any] = Field(repr=False, description="Training settings stored in the artifact")
    created_at: datetime
    seq: int = Field(repr=False, description="Change-log sequence number of the registration")
    revision: int = Field(description='Incremented by every change; the ETag is "v<revision>"')
    state: Status
    deleted_at: datetime | None = Field(repr=False)
    tags: list[str]
    metadata: dict[str, MetadataValue]
    derived_from: list[str] = Field(repr=False, description="Ids of the parent vectors")

    @classmethod
    def of(cls, record: VectorRecord) -> VectorOut:
        return cls(
            **identify(record),
            description=record.card.description,
            model=record.model.model_id,
            model_fingerprint=record.model.fingerprint,
            method=record.method,
            positions=record.positions,
            layers=record.model.layers,
            hidden_size=record.model.hidden_size,
            size=record.size,
            keys=len(record.card.keys),
            thresholds=dict(record.card.thresholds),
            results=dict(record.card.results),
            training=dict(record.training),
            created_at=record.created_at,
            seq=record.seq,
            revision=record.revision,
            state=record.status,
            deleted_at=record.deleted_at,
            tags=list(record.tags),
            metadata=dict(record.metadata),
            derived_from=list(record.derived_from),
        )


class VectorPage(BaseModel):
    """A page of vectors, newest first."""

    model_config = examples({"items": [_VECTOR], "next": None})

    items: list[VectorOut]
    next: str | None = Field(description="Pass as `cursor` to get the next page; null on the last page")


class PartsOut(BaseModel):
    """The cosine of each part of the query with the closest of the vector's task keys."""

    image: float | None = Field(description="null if the query, or every task key of the vector, has no image")
    text: float | None = Field(description="null if the query, or every task key of the vector, has no text")


class MatchOut(NamedOut):
    """A vector that was compared with the query."""

    description: str = Field(repr=False)
    score: float = Field(description="Mean cosine similarity of the query's parts and the vector's best task key")
    parts: PartsOut = Field(repr=False)
    probability: float | None = Field(
        repr=False,
        description="Probability that the query belongs to the vector's task; null if its card is not calibrated",
    )
    threshold: float = Field(description="Score from which the match is accepted")
    accepted: bool = Field(description="Whether steering mode `auto` may apply the vector; it applies the best one")
    reason: SteeringReason | None = Field(repr=False, description="Why `auto` does not apply it; null if accepted")

    @classmethod
    def of(cls, match: Match) -> MatchOut:
        return cls(
            **identify(match.record),
            description=match.record.card.description,
            score=match.score,
            parts=PartsOut(image=match.parts.image, text=match.parts.text),
            probability=match.probability,
            threshold=match.threshold,
            accepted=match.accepted,
            reason=match.reason,
        )


class ReasonOut(BaseModel):
    """Why no vector is applied."""

    code: SteeringReason = Field(
        description="`off`: the request switched steering off. `no_vectors`: the request's list of vectors is empty. "
        "`no_match`: the library has no vector for this base model. `other_embedder`: it has some, but their keys are "
        "from another embedder. `below_threshold`: the best match scores below its threshold or, if its card is "
        "calibrated, has a probability below one half. `missing_part`: the query has no text, and the best match "
        "requires one. `no_lift`: the card of the best match reports no gain over zero-shot. "
        "`ambiguous`: vectors of different names fit equally well. "
        "`own_demonstrations`: the request brings its own demonstrations or earlier turns. "
        "`no_text`: the prompt is a list of tokens."
    )
    detail: str = Field(description="Explanation for people; its wording may change")

    @classmethod
    def of(cls, reason: NotSteered | None) -> ReasonOut | None:
        return None if reason is None else cls(code=reason.code, detail=reason.detail)


class DecisionOut(BaseModel):
    """What the choice of `auto` rests on."""

    best: MatchOut | None = Field(
        description="The vector that `auto` applies or, if it applies none, the one that came closest; null without one"
    )
    second: MatchOut | None = Field(description="The match of another name with the highest score")
    margin: float | None = Field(description="Score of `best` minus score of `second`")

    @classmethod
    def of(cls, decision: Decision | None) -> DecisionOut | None:
        if decision is None:
            return None
        best, second = (None if one is None else MatchOut.of(one) for one in (decision.best, decision.second))
        return cls(best=best, second=second, margin=decision.margin)


DECISION_EXAMPLE = {"best": MATCH_EXAMPLE, "second": None, "margin": None}


class EmbeddedTextOut(BaseModel):
    """How much of a text was embedded, in windows of the embedder's context length."""

    tokens: int = Field(description="Tokens of the whole text, start and end tokens included")
    embedded: int = Field(description="How many of them were embedded, counted from the start")
    truncated: bool = Field(description="Whether the rest of the text was left out")

    @classmethod
    def of(cls, embedding: TaskEmbedding | None) -> EmbeddedTextOut | None:
        """Return null for an embedding without a text."""
        if embedding is None or embedding.text is None:
            return None
        embedded = min(embedding.text_tokens, embedding.text_limit)
        return cls(tokens=embedding.text_tokens, embedded=embedded, truncated=embedding.text_cut)


EMBEDDED_TEXT_EXAMPLE = {"tokens": 5, "embedded": 5, "truncated": False}


class RegisteredOut(VectorOut):
    """A vector that was just registered."""

    model_config = examples(_VECTOR | {"description_text": EMBEDDED_TEXT_EXAMPLE | {"tokens": 13, "embedded": 13}})

    description_text: EmbeddedTextOut | None = Field(
        description="How much of the description can be searched for; null without a description. A "
        "repeated request may get null"
    )

    @classmethod
    def of(cls, record: VectorRecord) -> RegisteredOut:
        described = [key.embedding for key in record.card.keys if key.kind is KeyKind.DESCRIPTION]
        known = next((one for one in described if one.text_tokens), None)  # the catalogue does not store the count
        return cls(**VectorOut.of(record).__dict__, description_text=EmbeddedTextOut.of(known))


class RetrieveOut(BaseModel):
    """The best matches, best first, and what steering mode `auto` does with the query."""

    model_config = examples(
        {
            "model": "vlibrary/bundled-llava",
            "modality": "text",
            "query_text": EMBEDDED_TEXT_EXAMPLE,
            "matches": [MATCH_EXAMPLE],
            "decision": DECISION_EXAMPLE,
            "reason": None,
        }
    )

    model: str
    modality: Modality
    query_text: EmbeddedTextOut | None = Field(
        description="How much of the query's text was compared; null without a text. All images are compared"
    )
    matches: list[MatchOut]
    decision: DecisionOut = Field(repr=False)
    reason: ReasonOut | None = Field(repr=False, description="Why `auto` applies no vector; null if it applies one")

    @classmethod
    def of(cls, found: Retrieval, model: str, modality: Modality) -> RetrieveOut:
        decision = DecisionOut.of(found.decision)
        assert decision is not None
        return cls(
            model=model,
            modality=modality,
            query_text=EmbeddedTextOut.of(found.query),
            matches=[MatchOut.of(match) for match in found.matches],
            decision=decision,
            reason=ReasonOut.of(found.decision.reason),
        )
