"""A vector's card as JSON: what `vlibrary train` writes next to the artifact and what POST /vectors accepts.

{"name": "colour-codes", "description": "...", "embedder": "<fingerprint>",
 "keys": [{"kind": "exemplar", "image": [...], "text": [...]}],
 "calibration": {"image": {"own": 0.95, "unrelated": 0.21}, "text": {"own": 0.98, "unrelated": 0.3}},
 "results": {"zero_shot": 0.03, "steered": 0.97},
 "tags": ["demo"], "metadata": {"shots": 16, "split": "train"}, "derived_from": ["<id of a vector>"]}
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlibrary.domain.card import KeyKind, TaskKey, VectorCard
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.matching.calibration import PartScale
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.formats import strict_json
from vlibrary.formats.text import NotUtf8

_CURE = 'See the example at /docs: {"name": "colour-codes", "description": "..."}.'
_STRICT = ConfigDict(strict=True, extra="forbid")
# One error is enough for a list of thousands of numbers.
_Numbers = Annotated[list[float], Field(fail_fast=True)]


class _Key(BaseModel):
    """A task key; the enum is not strict because JSON has texts."""

    model_config = _STRICT

    kind: Annotated[KeyKind, Field(strict=False)]
    image: _Numbers | None = None
    text: _Numbers | None = None

    def to_domain(self) -> TaskKey:
        image, text = (None if part is None else np.array(part, np.float32) for part in (self.image, self.text))
        return TaskKey(self.kind, TaskEmbedding(image, text))


class _Scale(BaseModel):
    """The scale of a part."""

    model_config = _STRICT

    own: float
    unrelated: float


class _Card(BaseModel):
    """The fields of a card; the domain checks their values."""

    model_config = _STRICT

    name: str
    description: str = ""
    embedder: str | None = None
    keys: list[_Key] = []
    calibration: dict[Annotated[Modality, Field(strict=False)], _Scale] = {}
    thresholds: dict[Annotated[Modality, Field(strict=False)], float] = {}
    results: dict[str, Any] = {}
    tags: list[str] = []
    metadata: dict[str, Any] = {}
    derived_from: list[str] = []


def parse_card(text: str | bytes) -> VectorCard:
    """Return the card in JSON text, or in UTF-8 bytes. Raises InvalidCard that names the field or the place."""
    try:
        card = _Card.model_validate(strict_json.parse(text))
    except ValidationError as error:
        raise InvalidCard(f"The card is invalid: {strict_json.explain(error)}.", _CURE) from error
    except NotUtf8 as error:
        raise InvalidCard(f"The card is not UTF-8: {error}.", "Save the card as UTF-8 text.") from error
    except ValueError as error:
        raise InvalidCard(f"The card is not valid JSON: {error}.", _CURE) from error
    return VectorCard(
        name=card.name,
        description=card.description,
        embedder=card.embedder,
        keys=tuple(key.to_domain() for key in card.keys),
        calibration={part: PartScale(scale.own, scale.unrelated) for part, scale in card.calibration.items()},
        thresholds=card.thresholds,
        results=card.results,
        tags=tuple(card.tags),
        metadata=card.metadata,
        derived_from=tuple(card.derived_from),
    )


def dump_card(card: VectorCard) -> str:
    """Return the card as JSON text."""
    keys = []
    for key in card.keys:
        parts = {"image": key.embedding.image, "text": key.embedding.text}
        keys.append({"kind": str(key.kind)} | {name: part.tolist() for name, part in parts.items() if part is not None})
    return json.dumps(_dump_fields(card) | {"keys": keys}, allow_nan=False)


def digest_of(card: VectorCard) -> bytes:
    """Return a SHA-256 digest that is equal for equal cards only."""
    # Keys are digested as raw numbers: formatting them as text would take a tenth of a registration's time.
    digest = hashlib.sha256(json.dumps(_dump_fields(card), allow_nan=False).encode())
    for key in card.keys:
        for part in (key.embedding.image, key.embedding.text):
            digest.update(f"{key.kind} {0 if part is None else len(part)} ".encode())
            digest.update(b"" if part is None else part.astype("<f4").tobytes())
    return digest.digest()


def _dump_fields(card: VectorCard) -> dict[str, Any]:
    """Return all fields but the keys."""
    fields: dict[str, Any] = {
        "name": card.name,
        "description": card.description,
        "embedder": card.embedder,
        "thresholds": {str(modality): least for modality, least in card.thresholds.items()},
        "results": dict(card.results),
    }
    scales = {str(part): {"own": scale.own, "unrelated": scale.unrelated} for part, scale in card.calibration.items()}
    optional = {
        "calibration": scales,
        "tags": list(card.tags),
        "metadata": dict(card.metadata),
        "derived_from": list(card.derived_from),
    }
    return fields | {name: value for name, value in optional.items() if value}
