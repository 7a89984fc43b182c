"""A card as JSON: what `vlibrary train` writes beside the artifact and what POST /vectors takes.

{"name": "colour-codes", "description": "...", "embedder": "<fingerprint>",
 "keys": [{"kind": "centroid", "image": [...], "text": [...]}],
 "thresholds": {"image_text": 0.9, "text": 0.8}, "results": {"zero_shot": 0.03, "steered": 0.97},
 "tags": ["demo"], "metadata": {"shots": 16, "split": "train"}, "derived_from": ["<id of a vector>"]}
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from vlibrary.domain.card import KeyKind, TaskKey, VectorCard
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.vector import Array
from vlibrary.formats import strict_json

_FIELDS = {
    "name",
    "description",
    "embedder",
    "keys",
    "thresholds",
    "results",
    "tags",
    "metadata",
    "derived_from",
}
_KEY_FIELDS = {"kind", "image", "text"}
_EXAMPLE = 'See the example at /docs: {"name": "colour-codes", "description": "..."}.'


def dump_card(card: VectorCard) -> str:
    """The card as JSON text."""
    return json.dumps(_dump_fields(card) | {"keys": [_dump_key(key) for key in card.keys]}, allow_nan=False)


def digest_of(card: VectorCard) -> bytes:
    """The same bytes for cards that say the same, and for no others."""
    # The numbers of keys as they are in memory: to write them as text would be a tenth of a registration's time.
    digest = hashlib.sha256(json.dumps(_dump_fields(card), allow_nan=False).encode())
    for key in card.keys:
        for part in (key.embedding.image, key.embedding.text):
            digest.update(f"{key.kind} {0 if part is None else len(part)} ".encode())
            digest.update(b"" if part is None else part.astype("<f4").tobytes())
    return digest.digest()


def _dump_fields(card: VectorCard) -> dict[str, Any]:
    """Everything but the keys."""
    fields: dict[str, Any] = {
        "name": card.name,
        "description": card.description,
        "embedder": card.embedder,
        "thresholds": {str(modality): least for modality, least in card.thresholds.items()},
        "results": dict(card.results),
    }
    optional = {"tags": list(card.tags), "metadata": dict(card.metadata), "derived_from": list(card.derived_from)}
    return fields | {name: value for name, value in optional.items() if value}


def parse_card(text: str | bytes) -> VectorCard:
    """The card in JSON text. Raises InvalidCard for anything else than the module's text shows."""
    try:
        document = strict_json.parse(text)
    except ValueError as error:
        raise InvalidCard(f"The card is not JSON that can be kept: {error}.", _EXAMPLE) from error
    fields = _object(document, "The card", _FIELDS)
    if "name" not in fields:
        raise InvalidCard("The card has no name.", _EXAMPLE)
    embedder = fields.get("embedder")
    return VectorCard(
        name=_text(fields["name"], "name"),
        description=_text(fields.get("description", ""), "description"),
        embedder=None if embedder is None else _text(embedder, "embedder"),
        keys=tuple(_parse_key(key, number) for number, key in enumerate(_list(fields.get("keys", []), "keys"))),
        thresholds=_parse_thresholds(fields.get("thresholds", {})),
        results=_object(fields.get("results", {}), "results", None),
        tags=_texts(fields.get("tags", []), "tags"),
        metadata=_object(fields.get("metadata", {}), "metadata", None),
        derived_from=_texts(fields.get("derived_from", []), "derived_from"),
    )


def _dump_key(key: TaskKey) -> dict[str, Any]:
    parts = {"image": key.embedding.image, "text": key.embedding.text}
    return {"kind": str(key.kind)} | {name: part.tolist() for name, part in parts.items() if part is not None}


def _parse_key(value: Any, number: int) -> TaskKey:
    where = f"keys[{number}]"
    fields = _object(value, where, _KEY_FIELDS)
    kind = fields.get("kind")
    if kind not in {str(known) for known in KeyKind}:
        raise InvalidCard(f"{where}.kind is {kind!r}.", f"Use one of {[str(known) for known in KeyKind]}.")
    image, text = (_parse_part(fields.get(name), f"{where}.{name}") for name in ("image", "text"))
    return TaskKey(KeyKind(kind), TaskEmbedding(image=image, text=text))


def _parse_part(value: Any, where: str) -> Array | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(_is_number(entry) for entry in value):
        raise InvalidCard(f"{where} is not a list of numbers.", "Give it as the embedder returned it.")
    return np.array(value, dtype=np.float32)


def _parse_thresholds(value: Any) -> dict[Modality, float]:
    fields = _object(value, "thresholds", {str(modality) for modality in Modality})
    for name, least in fields.items():
        if not _is_number(least):
            raise InvalidCard(f"thresholds.{name} is {least!r}.", "Give a number between -1 and 1.")
    return {Modality(name): float(least) for name, least in fields.items()}


def _object(value: Any, where: str, allowed: set[str] | None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidCard(f"{where} is not a JSON object.", _EXAMPLE)
    unknown = set() if allowed is None else set(value) - allowed
    if unknown:
        raise InvalidCard(f"{where} has unknown fields {sorted(unknown)[:5]}.", f"Known are {sorted(allowed or ())}.")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidCard(f"{where} is not a list.", _EXAMPLE)
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_text(entry, f"{where}[{number}]") for number, entry in enumerate(_list(value, where)))


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidCard(f"{where} is not a text.", _EXAMPLE)
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
