"""What goes over HTTP, with an example of each that runs as it stands."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.labels import MetadataValue
from vlibrary.domain.query import Modality
from vlibrary.library.retrieve import Match
from vlibrary.schemas.fields import MAX_IMAGES, MAX_TEXT, EncodedImage, StrictIn
from vlibrary.schemas.filters import FilterIn
from vlibrary.schemas.samples import SAMPLE_IMAGE

MIN_SEQ = "X-Catalogue-Seq of a write that the search must know of; every search knows of all that came before it"


class RetrieveIn(StrictIn):
    """A query with a text, images, or both."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "Which hue?", "images": [SAMPLE_IMAGE], "k": 3},
                {"text": "Which hue?", "filter": {"tags": ["checked"], "metadata": ["shots>=8", "split=train"]}},
            ]
        }
    )

    text: str | None = Field(default=None, max_length=MAX_TEXT)
    images: list[EncodedImage] = Field(default_factory=list, max_length=MAX_IMAGES)
    k: int = Field(default=5, description="How many vectors to return, 1 to 100")
    model: str | None = Field(default=None, description="Id of the base model; the served one when left out")
    filter: FilterIn = Field(default_factory=FilterIn, description="Which vectors may be found")
    min_seq: int = Field(default=0, ge=0, lt=2**53, description=MIN_SEQ)


_ID = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
_SHA256 = "4f5c1f7a9b0e2d3c6a8b7c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f708192a3b"
NAMED_EXAMPLE = {"id": _ID, "name": "colour-codes", "version": 1, "sha256": _SHA256}
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
_MATCH = NAMED_EXAMPLE | {"description": _VECTOR["description"], "score": 0.97, "threshold": 0.91, "accepted": True}


def example(value: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [value]})


class VectorOut(BaseModel):
    """A registered vector."""

    model_config = example(_VECTOR)

    id: str
    name: str
    version: int
    description: str
    model: str = Field(description="Id of the base model that it steers")
    model_fingerprint: str = Field(repr=False)
    method: str
    positions: str = Field(repr=False)
    layers: int = Field(repr=False)
    hidden_size: int = Field(repr=False)
    sha256: str = Field(repr=False)
    size: int = Field(repr=False, description="Bytes of the artifact")
    keys: int = Field(repr=False, description="Number of task keys at which it can be found")
    thresholds: dict[Modality, float] = Field(repr=False)
    results: dict[str, Any] = Field(repr=False, description="Figures that its maker measured")
    training: dict[str, Any] = Field(repr=False)
    created_at: datetime
    seq: int = Field(repr=False, description="Place of its registration in the change log")
    revision: int = Field(description='One more with every change; its ETag is "v<revision>"')
    state: Status
    deleted_at: datetime | None = Field(repr=False)
    tags: list[str]
    metadata: dict[str, MetadataValue]
    derived_from: list[str] = Field(repr=False, description="Ids of the vectors that it was made from")

    @classmethod
    def of(cls, record: VectorRecord) -> VectorOut:
        return cls(
            id=record.id,
            name=record.name,
            version=record.version,
            description=record.card.description,
            model=record.model.model_id,
            model_fingerprint=record.model.fingerprint,
            method=record.method,
            positions=record.positions,
            layers=record.model.layers,
            hidden_size=record.model.hidden_size,
            sha256=record.sha256,
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
    """Vectors, newest first."""

    model_config = example({"items": [_VECTOR], "next": None})

    items: list[VectorOut]
    next: str | None = Field(description="Give it as cursor to get the following page; null on the last")


class MatchOut(BaseModel):
    """A vector found, and whether it is near enough to be applied."""

    id: str
    name: str
    version: int
    sha256: str = Field(repr=False)
    description: str = Field(repr=False)
    score: float = Field(description="Mean cosine of the query's parts and the vector's best key")
    threshold: float
    accepted: bool

    @classmethod
    def of(cls, match: Match) -> MatchOut:
        record = match.record
        return cls(
            id=record.id,
            name=record.name,
            version=record.version,
            sha256=record.sha256,
            description=record.card.description,
            score=match.score,
            threshold=match.threshold,
            accepted=match.accepted,
        )


class RetrieveOut(BaseModel):
    """The best vectors for the query, best first."""

    model_config = example({"model": "vlibrary/bundled-llava", "modality": "text", "matches": [_MATCH]})

    model: str
    modality: Modality
    matches: list[MatchOut]


class ProblemOut(BaseModel):
    """An error (RFC 9457)."""

    model_config = example(
        {
            "type": "/problems/vector-not-found",
            "title": "There is no such vector",
            "status": 404,
            "detail": "There is no vector 'x'.",
            "cure": "GET /vectors lists the ids.",
        }
    )

    type: str
    title: str
    status: int
    detail: str
    cure: str = Field(description="What to do about it")
    errors: list[dict[str, str]] | None = None
    error: dict[str, str | None] | None = Field(default=None, description="Under /v1 only: the same in OpenAI's words")


class ProblemTypeOut(BaseModel):
    """What a problem type means."""

    model_config = example(
        {
            "type": "/problems/vector-not-found",
            "title": "There is no such vector",
            "status": 404,
            "description": "There is no such vector.",
        }
    )

    type: str
    title: str
    status: int
    description: str
