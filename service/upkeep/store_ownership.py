"""Store ownership: detects markers of other libraries and of unfinished restorations in the artifact store."""

from __future__ import annotations

from vlibrary.domain.changes import EPOCH_RENEWED, former_epochs
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.upkeep.collector_guard import epoch_of, is_restoration_marker, list_markers
from vlibrary.upkeep.findings import Progress, Report, wrong

OTHER_LIBRARY, UNFINISHED = "other-library", "restoration-unfinished"
BATCH = 500


def examine_ownership(catalogue: Catalogue, artifacts: Artifacts) -> Report:
    """Check that no other library uses the store and that no restoration is unfinished."""
    markers = list_markers(artifacts)
    foreign = _foreign_epochs(markers, catalogue)
    restoring = set(filter(is_restoration_marker, markers))
    if foreign or restoring:  # listings carry no checksum, so read it again
        again = list_markers(artifacts)
        foreign &= set(map(epoch_of, again))
        restoring &= again
    for epoch in sorted(foreign):
        yield wrong(
            OTHER_LIBRARY,
            epoch,
            f"The artifact store has a collector marker of another library (epoch {epoch}). Each library's collector "
            "sees the other's objects as unreferenced.",
            "Give each library its own bucket or prefix (VLIBRARY_ARTIFACTS). If that library no longer exists, or "
            "was a later state of this one, run `vlibrary doctor --deep --take-over`.",
        )
    for marker in sorted(restoring):
        yield wrong(
            UNFINISHED,
            marker,
            f"A restoration was started and has not finished: {marker}.",
            "If it is still running, wait for it. Otherwise run `vlibrary restore` again, with --replace if the "
            "library is not empty. To use the library in its current state, run `vlibrary doctor --deep --take-over`.",
        )
    yield Progress("markers", len(markers))


def _foreign_epochs(markers: frozenset[str], catalogue: Catalogue) -> set[str]:
    """Return the epochs of the markers that the catalogue neither has nor had."""
    foreign = {epoch for epoch in map(epoch_of, markers) if epoch is not None} - {catalogue.change_log.position().epoch}
    # The audit log is read after the position: if the epoch is renewed in between, the log already has the old one.
    after = 0
    while foreign and (batch := catalogue.audit_log.read(after, BATCH)):
        foreign.difference_update(*(former_epochs(entry.detail) for entry in batch if entry.action == EPOCH_RENEWED))
        after = batch[-1].seq
    return foreign
