"""The vectors from which a vector was derived, and those derived from it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.vectors import Vectors

MAX_CHILDREN = 100


@dataclass(frozen=True)
class Lineage:
    """One generation in each direction, deleted vectors included.

    missing: ids of parents that are not in this library. children: newest first, at most MAX_CHILDREN; more: whether
    there are others, which a Filter with this vector as parent finds.
    """

    record: VectorRecord
    parents: tuple[VectorRecord, ...]
    missing: tuple[str, ...]
    children: tuple[VectorRecord, ...]
    more: bool


def lineage(record: VectorRecord, vectors: Vectors) -> Lineage:
    """Return the vector's lineage. Raises CatalogueUnavailable."""
    parents: dict[str, VectorRecord] = {}
    for parent in record.derived_from:
        with suppress(VectorNotFound):
            parents[parent] = vectors.get(parent, deleted=True)
    page = vectors.page(Filter(parent=record.id, status=None), limit=MAX_CHILDREN)
    missing = tuple(parent for parent in record.derived_from if parent not in parents)
    return Lineage(record, tuple(parents.values()), missing, page.records, page.next is not None)
