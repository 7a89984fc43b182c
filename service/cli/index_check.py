"""Whether what the service would start from, a snapshot of the task index, is what the catalogue says."""

from __future__ import annotations

from dataclasses import dataclass

from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.domain.ports import SYSTEM, Catalogue
from vlibrary.domain.ports.snapshots import IndexChecksum, Snapshots
from vlibrary.domain.query import EmbedderSpec
from vlibrary.library.reindex import catch_up
from vlibrary.upkeep.findings import Finding, wrong

TRIES = 5


@dataclass(frozen=True)
class IndexCheck:
    """expected: of an index built from the change log alone. kept: of one that began with the newest snapshot.

    Both are at one position. kept is None without a usable snapshot, and while writers are too busy to compare.
    """

    expected: IndexChecksum
    kept: IndexChecksum | None

    def findings(self) -> list[Finding]:
        if self.kept is None or self.kept == self.expected:
            return []
        return [
            wrong(
                "index-differs",
                "snapshot",
                f"An index from the newest snapshot holds {self.kept.keys} keys (digest {self.kept.digest:x}), "
                f"one from the catalogue {self.expected.keys} (digest {self.expected.digest:x}).",
                "Run `vlibrary doctor --deep --repair-index`; running services then rebuild theirs.",
            )
        ]


def check_index(catalogue: Catalogue, snapshots: Snapshots, spec: EmbedderSpec, *, repair: bool = False) -> IndexCheck:
    """What such an index is, and what it ought to be. Raises SnapshotsUnavailable.

    repair: keep a new snapshot, made from the change log alone, unless the kept one is right. If that is wrong, the
    catalogue gets a new epoch: the services that began with it hold the same wrong index, and would keep it again.
    """
    fresh = FaissIndex(spec)
    position = catch_up(catalogue, fresh)
    found = _compared(catalogue, fresh, snapshots)
    if repair and found.kept != found.expected:
        if found.kept is not None:
            catalogue.renew_epoch(replacing=position.epoch, actor=SYSTEM)
            catch_up(catalogue, fresh)
        fresh.save(snapshots)
        found = _compared(catalogue, fresh, snapshots)
    return found


def _compared(catalogue: Catalogue, fresh: FaissIndex, snapshots: Snapshots) -> IndexCheck:
    kept = FaissIndex(fresh.spec)
    epoch = catalogue.position().epoch
    if kept.load(snapshots, epoch) is None:
        return IndexCheck(fresh.checksum(), None)
    for _ in range(TRIES):
        catch_up(catalogue, kept)
        catch_up(catalogue, fresh)
        if kept.position == fresh.position:  # nobody wrote in between
            return IndexCheck(fresh.checksum(), kept.checksum())
    return IndexCheck(fresh.checksum(), None)
