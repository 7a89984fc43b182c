"""Whose marks lie in the artifact store beside the library's own: another library's, or an unfinished restoration's."""

from __future__ import annotations

from collections.abc import Iterator

from vlibrary.domain.epochs import RENEWED, former
from vlibrary.domain.ports import Artifacts, Catalogue
from vlibrary.upkeep.collector_guard import epoch_of, is_restoring, marks
from vlibrary.upkeep.findings import Finding, Progress, wrong

OTHER_LIBRARY, UNFINISHED = "other-library", "restoration-unfinished"
BATCH = 500


def examine_marks(catalogue: Catalogue, artifacts: Artifacts) -> Iterator[Finding | Progress]:
    """Whether the store is this library's alone, and no restoration was left off half-way."""
    known = marks(artifacts)
    strange = _other_epochs(known, catalogue)
    restoring = set(filter(is_restoring, known))
    if strange or restoring:  # a listing can be damaged on its way
        again = marks(artifacts)
        strange &= set(map(epoch_of, again))
        restoring &= again
    for epoch in sorted(strange):
        yield _other_library(epoch)
    for mark in sorted(restoring):
        yield _unfinished(mark)
    yield Progress("marks", len(known))


def _other_epochs(known: frozenset[str], catalogue: Catalogue) -> set[str]:
    """Of the marks, those that the catalogue does not know as its own, present or former, ones."""
    found = {epoch for epoch in map(epoch_of, known) if epoch is not None}
    strange = found - {catalogue.position().epoch}
    # In this order: an epoch that is renewed meanwhile is in the log by then.
    return strange - _former_epochs(catalogue) if strange else strange


def _former_epochs(catalogue: Catalogue) -> frozenset[str]:
    epochs: frozenset[str] = frozenset()
    after = 0
    while batch := catalogue.audit(after, BATCH):
        epochs = epochs.union(*(former(entry.detail) for entry in batch if entry.action == RENEWED))
        after = batch[-1].seq
    return epochs


def _other_library(epoch: str) -> Finding:
    return wrong(
        OTHER_LIBRARY,
        epoch,
        f"The artifact store has a mark of a library with the epoch {epoch}, which this one never had. What either of "
        "them stores belongs to nobody in the eyes of the other one's collector.",
        "Give each library a bucket or prefix of its own (VLIBRARY_ARTIFACTS). If that library is gone for good, or "
        "was a later state of this one, run `vlibrary doctor --deep --take-over`.",
    )


def _unfinished(mark: str) -> Finding:
    return wrong(
        UNFINISHED,
        mark,
        f"A restoration has begun and not come to its end: {mark}.",
        "Wait for its end if it is still running; otherwise run `vlibrary restore` again, with --replace if the "
        "library is not empty. If you want the library as it is now, run `vlibrary doctor --deep --take-over`.",
    )
