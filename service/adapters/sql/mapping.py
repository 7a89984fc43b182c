"""Conversion between the domain's records and the catalogue's rows."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import BindParameter, Connection, Row, bindparam, select

from vlibrary.adapters.sql.tables import TASK_KEYS
from vlibrary.domain.card import KeyKind, Status, TaskKey, VectorCard, VectorRecord
from vlibrary.domain.filters import ValueKind, comparable
from vlibrary.domain.matching.calibration import PartScale
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.registration import Upload
from vlibrary.domain.vector import Array, ModelSpec, Positions

FLOAT32 = np.dtype("<f4")
# Well below every database's limit on parameters.
IDS_PER_QUERY = 500
# Kinds of facets other than those of metadata values.
TAG = "tag"
PARENT = "parent"

_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_KEYS = (
    select(TASK_KEYS.c.vector_id, TASK_KEYS.c.kind, TASK_KEYS.c.image, TASK_KEYS.c.text)
    .where(TASK_KEYS.c.vector_id.in_(_IDS))
    .order_by(TASK_KEYS.c.vector_id, TASK_KEYS.c.number)
)


def vector_row(record: VectorRecord) -> dict[str, Any]:
    """Return the row of a record, without its keys."""
    card, model = record.card, record.model
    return {
        "id": record.id,
        "name": card.name,
        "version": record.version,
        "status": record.status,
        "description": card.description,
        "embedder": card.embedder,
        "calibration": {part: {"own": one.own, "unrelated": one.unrelated} for part, one in card.calibration.items()},
        "thresholds": {str(modality): least for modality, least in card.thresholds.items()},
        "results": dict(card.results),
        "model_id": model.model_id,
        "model_fingerprint": model.fingerprint,
        "model_architecture": model.architecture,
        "model_layers": model.layers,
        "model_hidden_size": model.hidden_size,
        "method": record.method,
        "positions": record.positions,
        "training": dict(record.training),
        "sha256": record.sha256,
        "size": record.size,
        "object_key": record.object_key,
        "tags": list(card.tags),
        "metadata": dict(card.metadata),
        "derived_from": list(card.derived_from),
        "created_at": record.created_at,
        "seq": record.seq,
        "revision": record.revision,
        "deleted_at": record.deleted_at,
    }


def facet_rows(vector_id: str, card: VectorCard) -> list[dict[str, Any]]:
    """Return the properties by which a vector with this card can be filtered."""
    plain = [(TAG, tag) for tag in card.tags] + [(PARENT, parent) for parent in card.derived_from]
    found: list[dict[str, Any]] = [{"kind": kind, "key": key, "text": None, "number": None} for kind, key in plain]
    for key, value in ((key, comparable(value)) for key, value in card.metadata.items()):
        text, number = (value, None) if isinstance(value, str) else (None, float(value))
        found.append({"kind": ValueKind.of(value), "key": key, "text": text, "number": number})
    return [facet | {"vector_id": vector_id, "position": position} for position, facet in enumerate(found)]


def to_record(row: Row[Any], keys: tuple[TaskKey, ...]) -> VectorRecord:
    """Return the record of a row and its keys."""
    return VectorRecord(
        id=row.id,
        version=row.version,
        card=VectorCard(
            name=row.name,
            description=row.description,
            embedder=row.embedder,
            keys=keys,
            calibration={Modality(part): PartScale(**scale) for part, scale in row.calibration.items()},
            thresholds={Modality(modality): least for modality, least in row.thresholds.items()},
            results=row.results,
            tags=tuple(row.tags),
            metadata=row.metadata,
            derived_from=tuple(row.derived_from),
        ),
        model=ModelSpec(
            model_id=row.model_id,
            fingerprint=row.model_fingerprint,
            architecture=row.model_architecture,
            layers=row.model_layers,
            hidden_size=row.model_hidden_size,
        ),
        method=row.method,
        positions=Positions(row.positions),
        training=row.training,
        sha256=row.sha256,
        size=row.size,
        object_key=row.object_key,
        created_at=row.created_at,
        seq=row.seq,
        status=Status(row.status),
        revision=row.revision,
        deleted_at=row.deleted_at,
    )


def upload_row(upload: Upload) -> dict[str, Any]:
    """Return the row of an unpublished reservation."""
    return {
        "idempotency_key": upload.idempotency_key,
        "request_sha256": upload.request_sha256,
        "vector_id": upload.vector_id,
        "object_key": upload.object_key,
        "deadline": upload.deadline,
        "published": False,
    }


def to_upload(row: Row[Any]) -> Upload:
    """Return the upload of a reservation's row."""
    return Upload(
        vector_id=row.vector_id,
        object_key=row.object_key,
        idempotency_key=row.idempotency_key,
        request_sha256=row.request_sha256,
        deadline=row.deadline,
    )


def key_rows(vector_id: str, keys: Iterable[TaskKey]) -> list[dict[str, Any]]:
    """Return the rows of a vector's keys."""
    return [
        {
            "vector_id": vector_id,
            "number": number,
            "kind": key.kind,
            "image": _blob(key.embedding.image),
            "text": _blob(key.embedding.text),
        }
        for number, key in enumerate(keys)
    ]


def read_keys(connection: Connection, vector_ids: Collection[str]) -> Mapping[str, tuple[TaskKey, ...]]:
    """Return the keys, in order, of each vector that has some."""
    ids = list(vector_ids)
    found: dict[str, tuple[TaskKey, ...]] = {}
    for start in range(0, len(ids), IDS_PER_QUERY):
        rows = connection.execute(_KEYS, {"ids": ids[start : start + IDS_PER_QUERY]})
        for vector_id, own in groupby(rows, key=lambda row: row.vector_id):
            found[vector_id] = tuple(
                TaskKey(KeyKind(row.kind), TaskEmbedding(_part(row.image), _part(row.text))) for row in own
            )
    return found


def _blob(part: Array | None) -> bytes | None:
    return None if part is None else part.astype(FLOAT32).tobytes()


def _part(blob: bytes | None) -> Array | None:
    return None if blob is None else np.frombuffer(blob, FLOAT32)
