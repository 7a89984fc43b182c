"""Libraries to back up and restore."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.registrations import EMBEDDER, embedding, key, plain
from tests.support.upkeep import DATA, SHA256, RealLibrary
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.backup.folder import BackupFolder
from vlibrary.domain.card import KeyKind
from vlibrary.domain.filters import Filter
from vlibrary.upkeep.backup import CopyProgress, back_up, restore


def backup_in(folder: Path) -> BackupFolder:
    return BackupFolder(folder, FolderArtifacts)


class Place(RealLibrary):
    """A library on a database and a folder that can be backed up and restored."""

    def back_up(self, folder: Path, *, replace: bool = False) -> CopyProgress:
        return list(back_up(self.stores, backup_in(folder), actor="tester", overwrite=replace))[-1]

    def restore(self, folder: Path, *, replace: bool = False, despite_losses: bool = False) -> CopyProgress:
        steps = restore(
            self.stores, backup_in(folder), actor="tester", overwrite=replace, despite_losses=despite_losses
        )
        return list(steps)[-1]

    def fill(self) -> None:
        """Add at least one row to every table of the catalogue."""
        rng = np.random.default_rng(0)
        keys = (key(embedding(rng)), key(embedding(rng, image=False), KeyKind.DESCRIPTION))
        first = self.publish(
            keys=keys,
            embedder=EMBEDDER.fingerprint,
            tags=("a", "b"),
            metadata={"shots": 16, "ok": True, "by": "µ𝛼\u2028"},
        )
        self.publish(derived_from=(first.id,))
        self.catalogue.aliases.set("colours", "production", first.id, expected=0, actor="mary")
        deleted, purged = self.publish(), self.publish()
        for record in (deleted, purged):
            self.catalogue.vectors.delete(record.id)
        self.catalogue.vectors.purge(purged.id)
        self.reserve()

    def content(self) -> tuple[object, ...]:
        """Everything that clients can read, except the epoch and the audit entries of operator procedures."""
        records = self.catalogue.vectors.page(Filter(status=None), limit=100).records
        for record in records:
            assert self.artifacts.get(record.object_key, SHA256) == DATA
        changes = [(change.seq, change.kind, change.vector_id) for change in self.catalogue.change_log.read(0, 100)]
        operations = ("catalogue.renew_epoch", "library.backup", "library.restore", "collector.run")
        audit = [entry for entry in self.catalogue.audit_log.read(0, 100) if entry.action not in operations]
        tagged = self.catalogue.vectors.ids(Filter(tags=("a",)))
        return (
            list(map(plain, records)),
            changes,
            audit,
            self.catalogue.aliases.list(),
            tagged,
            self.catalogue.change_log.position().seq,
        )
