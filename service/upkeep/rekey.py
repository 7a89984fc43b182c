"""Recompute the task keys of registered vectors after a change of the embedder, whose keys cannot be compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

from vlibrary.domain.card import KeyKind, TaskKey, VectorCard, VectorRecord
from vlibrary.domain.errors import StaleRevision, VectorNotFound
from vlibrary.domain.filters import EVERYTHING_ACTIVE
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import EmbedderSpec
from vlibrary.domain.registration import ANONYMOUS, Amendment
from vlibrary.library.paging import iter_pages


class Outcome(StrEnum):
    """What happened to a vector.

    CURRENT: its keys are of this embedder. RECOMPUTED: it has new keys. NEEDS_EXAMPLES: its keys are those of training
    queries, which the library does not store; nothing changed, and no query finds it.
    """

    CURRENT = "current"
    RECOMPUTED = "recomputed"
    NEEDS_EXAMPLES = "needs examples"


def rekey(
    catalogue: Catalogue,
    spec: EmbedderSpec,
    describe: Callable[[str], TaskKey | None],
    found_by: Mapping[str, VectorCard],
    *,
    actor: str = ANONYMOUS,
) -> Iterator[tuple[VectorRecord, Outcome]]:
    """Give every active vector keys of this embedder, as far as possible; yield each one with the outcome.

    Safe to interrupt and rerun, and while services run: their next search finds the new keys. A vector that is found by
    its description alone loses its calibration and thresholds, which hold for the former embedder only.

    Args:
        catalogue: The library's catalogue.
        spec: The embedder.
        describe: Returns the key of a description; None for a blank one.
        found_by: By name, a card with the keys and thresholds of the vectors' training queries. These vectors get new
            keys even if theirs are current.
        actor: For the audit log.
    """
    for page in iter_pages(catalogue.vectors, EVERYTHING_ACTIVE):
        for record in page.records:
            new = found_by.get(record.name)
            if new is None and record.card.embedder == spec.fingerprint:
                yield record, Outcome.CURRENT
            elif new is None and any(key.kind is not KeyKind.DESCRIPTION for key in record.card.keys):
                yield record, Outcome.NEEDS_EXAMPLES
            elif (amended := _replace_keys(record, new, catalogue, spec, describe, actor)) is not None:
                yield amended, Outcome.RECOMPUTED


def _replace_keys(
    record: VectorRecord,
    new: VectorCard | None,
    catalogue: Catalogue,
    spec: EmbedderSpec,
    describe: Callable[[str], TaskKey | None],
    actor: str,
) -> VectorRecord | None:
    """Return the vector with the new card's keys, calibration and thresholds, and the key of its description.

    None if it has been deleted.
    """
    while True:
        described = describe(record.card.description)
        keys = (*(new.keys if new else ()), *([described] if described else ()))
        # The former calibration and thresholds say nothing about cosines of this embedder.
        found_by = new or VectorCard(record.name)
        amendment = Amendment(found_by=replace(found_by, embedder=spec.fingerprint, keys=keys))
        with suppress(VectorNotFound):
            try:
                found, _ = catalogue.vectors.update(
                    record.id, amendment, expected_revision=record.revision, actor=actor
                )
            except StaleRevision:  # the description may be another one now
                record = catalogue.vectors.get(record.id)
                continue
            return found
        return None
