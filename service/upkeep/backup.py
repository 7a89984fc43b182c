"""Copy a library to a backup, and back. Broken off at any moment and started again, it goes on where it was.

A backup's catalogue is written before its objects are copied, from one moment of the database; so every object that it
names was in the store then. A restoration goes the other way: objects first, so that no vector is visible without its
bytes. It ends with a new epoch, upon which every index is rebuilt, and pauses the collector: what was registered after
the backup is unknown to the restored catalogue, and should not be removed before somebody has looked.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from dataclasses import replace as but
from enum import Enum, auto

from vlibrary.domain.errors import ArtifactLost, BackupAhead, InvalidBackup
from vlibrary.domain.ports import Artifacts
from vlibrary.domain.ports.backup import Backup, Dump, ObjectRef, Tables
from vlibrary.library.paging import abreast
from vlibrary.upkeep.collector_guard import restoring


class _Fate(Enum):
    THERE = auto()
    COPIED = auto()
    LOST = auto()


@dataclass(frozen=True)
class Copied:
    """How far the copying of objects is. there: those that needed none. lost: keys of those that no longer exist."""

    total: int
    copied: int = 0
    there: int = 0
    size: int = 0
    lost: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        return self.copied + self.there + len(self.lost)

    def after(self, reference: ObjectRef, fate: _Fate) -> Copied:
        """With one more object."""
        match fate:
            case _Fate.THERE:
                return but(self, there=self.there + 1)
            case _Fate.COPIED:
                return but(self, copied=self.copied + 1, size=self.size + reference.size)
            case _Fate.LOST:
                return but(self, lost=(*self.lost, reference.key))


def back_up(tables: Tables, artifacts: Artifacts, backup: Backup, *, replace: bool = False) -> Generator[Copied]:
    """Yields how far it is; the last one is the result. Objects that are lost are told of, and do not stop it.

    replace: give up what the last backup holds, even if it is more than the library does, or unreadable.
    Raises Unavailable, InvalidBackup, BackupBusy, BackupAhead.
    """
    with backup.lock():
        if not replace:
            _check_known(backup.last(), tables)
        folder = backup.new_folder()
        dump = tables.dump(folder)
        yield from copy(tables.references(folder), artifacts, backup.objects, total=dump.rows["vectors"])
        backup.commit(folder, dump, {reference.key for reference in tables.references(folder)})


def restore(
    tables: Tables, artifacts: Artifacts, backup: Backup, *, replace: bool, actor: str, despite_losses: bool = False
) -> Iterator[Copied]:
    """Yields how far it is; the last one is the result. replace: give up what the library holds.

    despite_losses: restore the rest when neither the backup nor the store has some objects any more; the examination
    that must follow names their vectors. Raises Unavailable, InvalidBackup, BackupBusy, NotEmpty.
    """
    with backup.open() as (folder, dump):
        tables.check_loadable(dump, replace=replace)
        with restoring(artifacts):
            lost = 0
            for step in copy(tables.references(folder), backup.objects, artifacts, total=dump.rows["vectors"]):
                lost = len(step.lost)
                yield step
            if lost and not despite_losses:
                raise InvalidBackup(
                    f"{lost} of {step.total} objects are missing or damaged in the backup, and the store has not got "
                    "them either. The library is as it was.",
                    "Take another copy of the backup; or give --despite-losses to restore the rest.",
                )
            tables.load(folder, replace=replace, actor=actor)


def copy(references: Iterable[ObjectRef], source: Artifacts, target: Artifacts, *, total: int) -> Generator[Copied]:
    """Make sure that the target has every object with the right digest; yields after each one."""

    def see_to(reference: ObjectRef) -> _Fate:
        if _has(target, reference):
            return _Fate.THERE
        return _Fate.COPIED if _copy(reference, source, target) else _Fate.LOST

    so_far = Copied(total)
    yield so_far
    for reference, fate in abreast(see_to, references):
        so_far = so_far.after(reference, fate)
        yield so_far


def _check_known(last: Dump | None, tables: Tables) -> None:
    if last is not None and not tables.includes(last):
        raise BackupAhead(
            f"The backup in this folder holds {last.seq:,} changes, and the library does not know the newest: it is "
            "another library's, or of a later state of this one.",
            "Check VLIBRARY_DATA_DIR and VLIBRARY_DATABASE_URL. If this is the right library, choose another folder, "
            "or give --replace to lose what the backup holds.",
        )


def _has(target: Artifacts, reference: ObjectRef) -> bool:
    if target.stat(reference.key) is None:
        return False
    try:
        target.get(reference.key, reference.sha256)
    except ArtifactLost:
        return False
    return True


def _copy(reference: ObjectRef, source: Artifacts, target: Artifacts) -> bool:
    """False when the source has lost it."""
    try:
        data = source.get(reference.key, reference.sha256)
    except ArtifactLost:
        return False
    target.delete(reference.key)  # damaged bytes, if any: the digest is part of what a key stands for
    target.put(reference.key, data, reference.sha256)
    return True
