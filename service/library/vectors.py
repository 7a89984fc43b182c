"""Read, amend, delete, restore and purge registered vectors."""

from __future__ import annotations

from vlibrary.domain.card import KeyKind, TaskKey, VectorRecord
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.inference import Inference
from vlibrary.domain.ports.vectors import Vectors
from vlibrary.domain.registration import ANONYMOUS, Amendment, Page
from vlibrary.library.library import Library
from vlibrary.library.publish import description_key, no_keys
from vlibrary.library.references import resolve_fixed


def list_vectors(which: Filter, vectors: Vectors, *, limit: int, cursor: str | None = None) -> Page:
    """Return a page of the vectors that pass the filter, newest first. Raises InvalidInput for a foreign cursor."""
    return vectors.page(which, limit=limit, cursor=cursor)


def amend(
    reference: str, amendment: Amendment, library: Library, *, expected_revision: int, actor: str = ANONYMOUS
) -> tuple[VectorRecord, int]:
    """Amend the vector's card; return its record and the log's seq afterwards. Searches use the new description.

    reference: an id or name:version. Raises InvalidInput, InvalidCard, VectorNotFound, StaleRevision, Unavailable.
    """
    record = resolve_fixed(reference, library.catalogue)
    key = _new_key(record, amendment.description, library.worker)
    return library.catalogue.vectors.update(
        record.id, amendment, description_key=key, expected_revision=expected_revision, actor=actor
    )


def delete_vector(
    reference: str, catalogue: Catalogue, *, expected_revision: int | None = None, actor: str = ANONYMOUS
) -> int:
    """Hide the vector; return the change's seq. Its artifact stays, for running answers and for `restore_vector`.

    reference: an id or name:version. Raises InvalidInput, VectorNotFound, StaleRevision, StillAliased.
    """
    record = resolve_fixed(reference, catalogue)
    return catalogue.vectors.delete(record.id, expected_revision=expected_revision, actor=actor)


def restore_vector(
    reference: str, catalogue: Catalogue, *, expected_revision: int | None = None, actor: str = ANONYMOUS
) -> tuple[VectorRecord, int]:
    """Undo a deletion; return the vector's record and the change's seq.

    reference: an id or name:version. Raises InvalidInput, VectorNotFound, StaleRevision, NotDeleted.
    """
    record = resolve_fixed(reference, catalogue, status=None)
    seq = catalogue.vectors.restore(record.id, expected_revision=expected_revision, actor=actor)
    return catalogue.vectors.get(record.id), seq


def purge_vector(
    reference: str, catalogue: Catalogue, *, expected_revision: int | None = None, actor: str = ANONYMOUS
) -> int:
    """Remove a deleted vector for good; return the change's seq.

    reference: an id or name:version. Raises InvalidInput, VectorNotFound, StaleRevision, NotDeleted.
    """
    record = resolve_fixed(reference, catalogue, status=None)
    return catalogue.vectors.purge(record.id, expected_revision=expected_revision, actor=actor)


def _new_key(record: VectorRecord, description: str | None, worker: Inference) -> TaskKey | None:
    """Return the new description's key. Raises InvalidCard for another embedder, or if no key would be left."""
    if description is None:
        return None
    spec = worker.models()[0].embedder
    if record.card.embedder != spec.fingerprint:
        raise InvalidCard(
            f"The vector's keys are from embedder {record.card.embedder!r}; this service uses {spec.fingerprint!r}.",
            "Run `vlibrary reindex` first: it recomputes the keys.",
        )
    key = description_key(description, worker)
    if key is None and all(one.kind is KeyKind.DESCRIPTION for one in record.card.keys):
        raise no_keys()
    return key
