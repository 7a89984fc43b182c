"""Change what a vector's card says; the vector itself never changes."""

from __future__ import annotations

from vlibrary.domain.card import KeyKind, TaskKey, VectorRecord
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.registration import ANONYMOUS, Amendment
from vlibrary.library.library import Library
from vlibrary.library.publish import description_key, not_findable


def amend(
    record: VectorRecord,
    amendment: Amendment,
    library: Library,
    *,
    expected_revision: int,
    actor: str = ANONYMOUS,
) -> tuple[VectorRecord, int]:
    """The vector as it is now, and a seq by which it was so; queries find it by its new description.

    record: the vector, at any revision. Raises InvalidCard, VectorNotFound, StaleRevision, Unavailable.
    """
    key = _key(record, amendment.description, library.worker)
    return library.catalogue.vectors.update(
        record.id, amendment, description_key=key, expected_revision=expected_revision, actor=actor
    )


def _key(record: VectorRecord, description: str | None, worker: Inference) -> TaskKey | None:
    """The new description's key. Raises InvalidCard when it cannot stand beside the others, or no key is left."""
    if description is None:
        return None
    spec = worker.models()[0].embedder
    if record.card.embedder != spec.fingerprint:
        raise InvalidCard(
            f"The vector's keys are of embedder {record.card.embedder!r}; this service uses {spec.fingerprint!r}.",
            "Leave the description as it is, or register the vector again with this service's embedder.",
        )
    key = description_key(description, worker)
    if key is None and all(one.kind is KeyKind.DESCRIPTION for one in record.card.keys):
        raise not_findable()
    return key
