"""What a vector was made from, and what was made from it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from vlibrary.domain.card import VectorRecord
from vlibrary.domain.errors import VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue

MAX_CHILDREN = 100


@dataclass(frozen=True)
class Lineage:
    """One generation each way, deleted vectors included.

    missing: ids of parents that this library does not have (any more). children: newest first, at most MAX_CHILDREN;
    more: there are others, which a Filter with this vector as parent finds.
    """

    record: VectorRecord
    parents: tuple[VectorRecord, ...]
    missing: tuple[str, ...]
    children: tuple[VectorRecord, ...]
    more: bool


def lineage(record: VectorRecord, catalogue: Catalogue) -> Lineage:
    """The vector's lineage. Raises CatalogueUnavailable."""
    known: dict[str, VectorRecord] = {}
    for parent in record.derived_from:
        with suppress(VectorNotFound):
            known[parent] = catalogue.vectors.get(parent, deleted=True)
    page = catalogue.vectors.page(Filter(parent=record.id, status=None), limit=MAX_CHILDREN)
    missing = tuple(parent for parent in record.derived_from if parent not in known)
    return Lineage(record, tuple(known.values()), missing, page.records, page.next is not None)
