"""Between the domain's records and the catalogue's rows."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from sqlalchemy import Row

from vlibrary.adapters.sql.tables import AliasRow, AuditRow, UploadRow, VectorRow
from vlibrary.domain.card import KeyKind, Status, TaskKey, VectorCard, VectorRecord
from vlibrary.domain.filters import ValueKind
from vlibrary.domain.ports import Alias, AuditEntry, Upload
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.vector import Array, ModelSpec, Positions

FLOAT32 = np.dtype("<f4")
# Kinds of facets beside those of metadata values.
TAG = "tag"
PARENT = "parent"


def vector_columns(record: VectorRecord) -> dict[str, Any]:
    """The row of a record that is about to be published, without its keys."""
    card, model = record.card, record.model
    return {
        "id": record.id,
        "name": card.name,
        "version": record.version,
        "status": record.status,
        "description": card.description,
        "embedder": card.embedder,
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


def facet_columns(vector_id: str, card: VectorCard) -> list[dict[str, Any]]:
    """What a vector with this card can be filtered by."""
    plain = [(TAG, tag) for tag in card.tags] + [(PARENT, parent) for parent in card.derived_from]
    found: list[dict[str, Any]] = [{"kind": kind, "key": key, "text": None, "number": None} for kind, key in plain]
    for key, value in card.metadata.items():
        text, number = (value, None) if isinstance(value, str) else (None, float(value))
        found.append({"kind": ValueKind.of(value), "key": key, "text": text, "number": number})
    return [facet | {"vector_id": vector_id, "position": position} for position, facet in enumerate(found)]


def record(row: VectorRow | Row[Any], keys: tuple[TaskKey, ...]) -> VectorRecord:
    """The record of a row, or of all its columns, and of its keys."""
    return VectorRecord(
        id=row.id,
        version=row.version,
        card=VectorCard(
            name=row.name,
            description=row.description,
            embedder=row.embedder,
            keys=keys,
            thresholds={Modality(modality): least for modality, least in row.thresholds.items()},
            results=row.results,
            tags=tuple(row.tags),
            metadata=row.facts,
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


def upload_columns(upload: Upload) -> dict[str, Any]:
    """The reservation of an upload."""
    return {
        "idempotency_key": upload.idempotency_key,
        "request_sha256": upload.request_sha256,
        "vector_id": upload.vector_id,
        "object_key": upload.object_key,
        "deadline": upload.deadline,
        "published": False,
    }


def upload(row: UploadRow | Row[Any]) -> Upload:
    """The upload of a reservation, or of all its columns."""
    return Upload(
        vector_id=row.vector_id,
        object_key=row.object_key,
        idempotency_key=row.idempotency_key,
        request_sha256=row.request_sha256,
        deadline=row.deadline,
    )


def alias(row: AliasRow) -> Alias:
    """The alias of a row."""
    return Alias(row.name, row.alias, row.vector_id, row.revision, row.changed_at)


def audit_entry(row: AuditRow) -> AuditEntry:
    """The entry of a row."""
    return AuditEntry(row.seq, row.at, row.actor, row.action, row.subject, row.detail)


def task_key(kind: str, image: bytes | None, text: bytes | None) -> TaskKey:
    """The key of a row's columns."""
    return TaskKey(KeyKind(kind), TaskEmbedding(_part(image), _part(text)))


def key_columns(vector_id: str, keys: Iterable[TaskKey]) -> list[dict[str, Any]]:
    """The rows of a vector's keys."""
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


def _blob(part: Array | None) -> bytes | None:
    return None if part is None else part.astype(FLOAT32).tobytes()


def _part(blob: bytes | None) -> Array | None:
    return None if blob is None else np.frombuffer(blob, FLOAT32)
