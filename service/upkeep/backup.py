"""Backup and restoration of a library. Both can be interrupted at any time and rerun.

A backup dumps the catalogue from one database snapshot before it copies the objects, so every referenced object was in
the store at that time. A restoration copies the objects first, so that no vector is visible without its artifact. It
ends with a new epoch, upon which every index is rebuilt, and pauses garbage collection: the restored catalogue does not
reference what was registered after the backup, which should not be deleted before someone has looked at it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace

from vlibrary.domain.errors import ArtifactLost, BackupAhead, InvalidBackup
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.ports.backup import Backup, ObjectRef
from vlibrary.library.paging import map_in_parallel
from vlibrary.upkeep.collector_guard import pausing_for_restoration
from vlibrary.upkeep.stores import Stores


@dataclass(frozen=True)
class CopyProgress:
    """Progress of a copy. there: objects that the target had already. lost: keys of objects missing in the source."""

    total: int
    copied: int = 0
    there: int = 0
    size: int = 0
    lost: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        return self.copied + self.there + len(self.lost)

    def as_json(self) -> dict[str, object]:
        return {"copied": self.copied, "there": self.there, "bytes": self.size, "lost": list(self.lost)}


def back_up(
    stores: Stores, backup: Backup, *, actor: str, label: str = ".", overwrite: bool = False
) -> Generator[CopyProgress]:
    """Copy the library to the backup, and record it in the audit log under the label.

    Yield the progress, and last the result. Lost objects are reported and do not stop the backup. overwrite: discard
    the previous backup even if the library does not contain all of its changes, or if it is unreadable.
    Raises Unavailable, InvalidBackup, BackupBusy, BackupAhead.
    """
    with backup.lock():
        if not overwrite and (last := backup.last()) is not None and not stores.tables.includes(last):
            raise BackupAhead(
                f"The library does not contain the newest of the {last.seq:,} changes in the existing backup, so the "
                "backup is of another library or of a later state of this one.",
                "Check VLIBRARY_DATA_DIR and VLIBRARY_DATABASE_URL. If this is the right library, choose another "
                "folder, or pass --replace to discard the existing backup.",
            )
        folder = backup.new_folder()
        dump = stores.tables.dump(folder)
        references = stores.tables.references(folder)
        for step in copy_objects(references, stores.artifacts, backup.objects, total=dump.rows["vectors"]):
            yield step
        backup.commit(folder, dump, {reference.key for reference in stores.tables.references(folder)})
    stores.catalogue.audit_log.append("library.backup", label, step.as_json(), actor=actor)


def restore(
    stores: Stores,
    backup: Backup,
    *,
    actor: str,
    label: str = ".",
    overwrite: bool = False,
    despite_losses: bool = False,
) -> Iterator[CopyProgress]:
    """Replace the library's content by the backup's, and record it in the audit log under the label.

    Yield the progress, and last the result. overwrite: discard what the library contains. despite_losses: restore the
    rest if neither backup nor store has some of the objects; `vlibrary doctor --deep` then names their vectors.
    Raises Unavailable, InvalidBackup, BackupBusy, NotEmpty.
    """
    with backup.open() as (folder, dump):
        stores.tables.check_loadable(dump, replace=overwrite)
        with pausing_for_restoration(stores.artifacts):
            references = stores.tables.references(folder)
            for step in copy_objects(references, backup.objects, stores.artifacts, total=dump.rows["vectors"]):
                yield step
            if step.lost and not despite_losses:
                raise InvalidBackup(
                    f"{len(step.lost)} of {step.total} objects are missing or damaged in the backup, and the artifact "
                    "store does not have them either. The library is unchanged.",
                    "Use another copy of the backup, or pass --despite-losses to restore the rest.",
                )
            stores.tables.load(folder, replace=overwrite, actor=actor)
    stores.catalogue.audit_log.append("library.restore", label, step.as_json(), actor=actor)


def copy_objects(
    references: Iterable[ObjectRef], source: Artifacts, target: Artifacts, *, total: int
) -> Generator[CopyProgress]:
    """Copy the objects that the target lacks or has with another digest. Yield the progress, first before any copy."""
    done = CopyProgress(total)
    yield done
    for reference, copied in map_in_parallel(lambda reference: _copy(reference, source, target), references):
        if copied is None:
            done = replace(done, lost=(*done.lost, reference.key))
        elif copied:
            done = replace(done, copied=done.copied + 1, size=done.size + reference.size)
        else:
            done = replace(done, there=done.there + 1)
        yield done


def _copy(reference: ObjectRef, source: Artifacts, target: Artifacts) -> bool | None:
    """Return True if the object was copied, False if the target had it, None if the source has lost it."""
    key, sha256 = reference.key, reference.sha256
    try:
        if target.stat(key) is not None:
            target.get(key, sha256)
            return False
    except ArtifactLost:
        pass
    try:
        data = source.get(key, sha256)
    except ArtifactLost:
        return None
    target.delete(key)  # damaged bytes, if any; with the right digest they cannot differ
    target.put(key, data, sha256)
    return True
