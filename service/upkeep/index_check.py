"""Checks that an index loaded from the newest snapshot agrees with the catalogue, and repairs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.ports.snapshots import IndexChecksum, PersistentIndex, Snapshots, SnapshotsUnavailable
from vlibrary.domain.registration import SYSTEM
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.findings import Finding, wrong

TRIES = 5


@dataclass(frozen=True)
class IndexCheck:
    """Checksums of two indexes at the same log position.

    expected: of an index built from the change log alone. loaded: of one loaded from the newest snapshot and brought up
    to date; None if there is no usable snapshot, or if writers are too busy to compare.
    """

    expected: IndexChecksum
    loaded: IndexChecksum | None

    def findings(self) -> list[Finding]:
        """Return the difference, if there is one."""
        if self.loaded is None or self.loaded == self.expected:
            return []
        detail = (
            f"An index loaded from the newest snapshot has {self.loaded.keys} keys (digest {self.loaded.digest:x}); "
            f"one built from the change log has {self.expected.keys} (digest {self.expected.digest:x})."
        )
        cure = "Run `vlibrary doctor --deep --repair-index`; running services then rebuild their indexes."
        return [wrong("index-differs", "snapshot", detail, cure)]


def find_index_damage(
    catalogue: Catalogue, snapshots: Snapshots, new_index: Callable[[], PersistentIndex], *, repair: bool = False
) -> list[Finding]:
    """Return what `check_index` finds; unavailable snapshots are a finding, too."""
    try:
        return check_index(catalogue, snapshots, new_index, repair=repair).findings()
    except SnapshotsUnavailable as error:
        detail = f"The index snapshots cannot be read or written ({error})."
        cure = "Check VLIBRARY_SNAPSHOTS, and the disk and permissions of its folder."
        return [wrong("snapshots-unavailable", "snapshots", detail, cure)]


def check_index(
    catalogue: Catalogue, snapshots: Snapshots, new_index: Callable[[], PersistentIndex], *, repair: bool = False
) -> IndexCheck:
    """Compare an index built from the change log with one loaded from a snapshot. Raises SnapshotsUnavailable.

    repair: save a new snapshot, built from the change log alone, unless the newest one is correct. If that is wrong,
    also renew the catalogue's epoch: services that loaded it have the same wrong index, and would save it again.
    """
    fresh = new_index()
    position = catch_up(catalogue.change_log, fresh)
    found = _compare(catalogue, fresh, snapshots, new_index())
    if repair and found.loaded != found.expected:
        if found.loaded is not None:
            catalogue.change_log.renew_epoch(replacing=position.epoch, actor=SYSTEM)
            catch_up(catalogue.change_log, fresh)
        fresh.save(snapshots)
        found = _compare(catalogue, fresh, snapshots, new_index())
    return found


def _compare(catalogue: Catalogue, fresh: PersistentIndex, snapshots: Snapshots, loaded: PersistentIndex) -> IndexCheck:
    if loaded.load(snapshots, catalogue.change_log.position().epoch) is not None:
        for _ in range(TRIES):
            catch_up(catalogue.change_log, loaded)
            catch_up(catalogue.change_log, fresh)
            if loaded.position == fresh.position:  # no write in between
                return IndexCheck(fresh.checksum(), loaded.checksum())
    return IndexCheck(fresh.checksum(), None)
