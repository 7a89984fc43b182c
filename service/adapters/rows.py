"""Between the domain's records and the catalogue's rows."""

from __future__ import annotations

import numpy as np

from service.adapters.tables import ChangeRow, KeyRow, VectorRow
from service.domain.card import KeyKind, Status, TaskKey, VectorCard, VectorRecord
from service.domain.ports import Change, ChangeKind
from service.domain.query import Modality, TaskEmbedding
from service.domain.vector import Array, ModelSpec, Positions

FLOAT32 = np.dtype("<f4")


def vector_row(record: VectorRecord, version: int) -> VectorRow:
    """The row and its key rows of a record that is about to be published."""
    card, model = record.card, record.model
    return VectorRow(
        id=record.id,
        name=card.name,
        version=version,
        status=Status.ACTIVE,
        description=card.description,
        embedder=card.embedder,
        thresholds={str(modality): least for modality, least in card.thresholds.items()},
        results=dict(card.results),
        model_id=model.model_id,
        model_fingerprint=model.fingerprint,
        model_architecture=model.architecture,
        model_layers=model.layers,
        model_hidden_size=model.hidden_size,
        method=record.method,
        positions=record.positions,
        training=dict(record.training),
        sha256=record.sha256,
        size=record.size,
        object_key=record.object_key,
        keys=[_key_row(number, key) for number, key in enumerate(card.keys)],
    )


def record(row: VectorRow, published: ChangeRow) -> VectorRecord:
    """The record of a row and of the change-log entry that published it."""
    return VectorRecord(
        id=row.id,
        version=row.version,
        card=VectorCard(
            name=row.name,
            description=row.description,
            embedder=row.embedder,
            keys=_keys(row),
            thresholds={Modality(modality): least for modality, least in row.thresholds.items()},
            results=row.results,
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
        created_at=published.at,
        seq=published.seq,
        status=Status(row.status),
    )


def change(row: ChangeRow) -> Change:
    """The entry as readers of the log see it."""
    kind = ChangeKind(row.kind)
    if kind is ChangeKind.DELETED:
        return Change(seq=row.seq, kind=kind, vector_id=row.vector_id)
    vector = row.vector
    return Change(
        seq=row.seq,
        kind=kind,
        vector_id=row.vector_id,
        model_id=vector.model_id,
        keys=_keys(vector),
        embedder=vector.embedder,
    )


def _key_row(number: int, key: TaskKey) -> KeyRow:
    return KeyRow(number=number, kind=key.kind, image=_blob(key.embedding.image), text=_blob(key.embedding.text))


def _keys(row: VectorRow) -> tuple[TaskKey, ...]:
    return tuple(TaskKey(KeyKind(key.kind), TaskEmbedding(_part(key.image), _part(key.text))) for key in row.keys)


def _blob(part: Array | None) -> bytes | None:
    return None if part is None else part.astype(FLOAT32).tobytes()


def _part(blob: bytes | None) -> Array | None:
    return None if blob is None else np.frombuffer(blob, FLOAT32)
