"""Libraries that are backed up and restored, and what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.support.registrations import EMBEDDER, embedding, key, plain
from tests.support.upkeep import DATA, SHA256, RealLibrary
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.backup.folder import BackupFolder
from vlibrary.adapters.sql.backup_tables import SqlTables
from vlibrary.domain.card import KeyKind
from vlibrary.domain.filters import Filter
from vlibrary.upkeep.backup import Copied, back_up, restore


def backup_in(folder: Path) -> BackupFolder:
    return BackupFolder(folder, FolderArtifacts)


class Place(RealLibrary):
    """A library on a database and a folder, which goes into backups and comes back."""

    def back_up(self, folder: Path, *, replace: bool = False) -> Copied:
        return list(back_up(SqlTables(self.engine), self.artifacts, backup_in(folder), replace=replace))[-1]

    def restore(self, folder: Path, *, replace: bool = False, despite_losses: bool = False) -> Copied:
        how = {"replace": replace, "despite_losses": despite_losses}
        return list(restore(SqlTables(self.engine), self.artifacts, backup_in(folder), actor="tester", **how))[-1]

    def fill(self) -> None:
        """Something of everything that a catalogue holds."""
        rng = np.random.default_rng(0)
        keys = (key(embedding(rng)), key(embedding(rng, image=False), KeyKind.DESCRIPTION))
        first = self.publish(
            keys=keys,
            embedder=EMBEDDER.fingerprint,
            tags=("a", "b"),
            metadata={"shots": 16, "ok": True, "by": "µ𝛼\u2028"},
        )
        self.publish(derived_from=(first.id,))
        self.catalogue.set_alias("colours", "production", first.id, expected=0, actor="mary")
        deleted, purged = self.publish(), self.publish()
        for record in (deleted, purged):
            self.catalogue.delete(record.id)
        self.catalogue.purge(purged.id)
        self.reserve()

    def content(self) -> tuple[object, ...]:
        """All that readers can see, but for the epoch and what the restoration itself has noted."""
        records = self.catalogue.page(Filter(status=None), limit=100).records
        for record in records:
            assert self.artifacts.get(record.object_key, SHA256) == DATA
        changes = [(change.seq, change.kind, change.vector_id) for change in self.catalogue.changes(0, 100)]
        audit = [entry for entry in self.catalogue.audit(0, 100) if entry.action != "catalogue.renew_epoch"]
        tagged = self.catalogue.ids(Filter(tags=("a",)))
        return (
            list(map(plain, records)),
            changes,
            audit,
            self.catalogue.aliases(),
            tagged,
            self.catalogue.position().seq,
        )
