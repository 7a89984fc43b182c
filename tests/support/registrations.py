"""Uploads, records and changes for the contract tests."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from ulid import ULID

from vlibrary.domain.card import KeyKind, TaskKey, VectorCard, VectorRecord
from vlibrary.domain.changes import Change, ChangeKind
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, unit
from vlibrary.domain.registration import ANONYMOUS, Upload
from vlibrary.domain.vector import Array, ModelSpec, Positions

MODEL = ModelSpec("tests/lvlm", "a" * 64, "Llava", layers=4, hidden_size=8)
EMBEDDER = EmbedderSpec("tests/embedder", "b" * 64, image_size=6, text_size=5)


def upload(key: str | None = None, *, request: str = "request", seconds: float = 900.0) -> Upload:
    """Return a new upload. seconds: time until its deadline."""
    vector_id = str(ULID())
    return Upload(
        vector_id=vector_id,
        object_key=f"{vector_id}/{'0' * 64}.safetensors",
        idempotency_key=key or vector_id,
        request_sha256=hashlib.sha256(request.encode()).hexdigest(),
        deadline=datetime.now(UTC) + timedelta(seconds=seconds),
    )


def draft(
    of: Upload, name: str = "colours", *, model: ModelSpec = MODEL, method: str = "m2iv", **card: Any
) -> VectorRecord:
    """Return the record of an upload before it is published; the catalogue sets version, seq and created_at."""
    return VectorRecord(
        id=of.vector_id,
        version=0,
        card=VectorCard(name=name, **card),
        model=model,
        method=method,
        positions=Positions.ALL,
        training={"shots": 16, "losses": [1.5, 0.25]},
        sha256="0" * 64,
        size=4_096,
        object_key=of.object_key,
        created_at=datetime(2000, 1, 1, tzinfo=UTC),
        seq=0,
    )


def register(
    catalogue: Catalogue, name: str = "colours", *, key: str | None = None, actor: str = ANONYMOUS, **more: Any
) -> VectorRecord:
    """Reserve and publish one vector."""
    new = upload(key)
    assert catalogue.registrations.reserve(new) is None
    return catalogue.registrations.publish(new, draft(new, name, **more), actor=actor)


def direction(rng: np.random.Generator, size: int) -> Array:
    """Return a random vector of length 1."""
    return unit(rng.normal(size=size).astype(np.float32))


def embedding(rng: np.random.Generator, *, image: bool = True, text: bool = True) -> TaskEmbedding:
    """Return an embedding with random parts of length 1, of EMBEDDER's sizes."""
    return TaskEmbedding(
        image=direction(rng, EMBEDDER.image_size) if image else None,
        text=direction(rng, EMBEDDER.text_size) if text else None,
    )


def key(part: TaskEmbedding, kind: KeyKind = KeyKind.CENTROID) -> TaskKey:
    return TaskKey(kind, part)


def plain(record: VectorRecord) -> tuple[object, ...]:
    """Return the record's contents in comparable form: keys as numbers."""
    return (replace(record, card=replace(record.card, keys=())), plain_keys(record.card.keys))


def plain_keys(keys: tuple[TaskKey, ...]) -> list[object]:
    """Return the keys as numbers."""
    return [(key.kind, _list(key.embedding.image), _list(key.embedding.text)) for key in keys]


def _list(part: Array | None) -> list[float] | None:
    return None if part is None else [float(number) for number in part]


def published(
    seq: int, vector_id: str, *keys: TaskEmbedding, model: str = "m", embedder: str | None = EMBEDDER.fingerprint
) -> Change:
    task_keys = tuple(key(part) for part in keys)
    return Change(seq, ChangeKind.PUBLISHED, vector_id, model, task_keys, embedder, registered=seq)


def deleted(seq: int, vector_id: str) -> Change:
    return Change(seq, ChangeKind.DELETED, vector_id)
