"""Ports of a backup: the catalogue's tables as files, and the location that stores them with their objects."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.artifacts import Artifacts


@dataclass(frozen=True)
class ObjectRef:
    """An object that the catalogue references."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Dump:
    """Metadata of a catalogue written to files, one file per table.

    schema: migration revision. rows: row count by table. mark: token of the newest change; empty if there are no
    changes, and in backups of releases that had no tokens.
    """

    schema: str
    epoch: str
    seq: int
    rows: dict[str, int]
    mark: str = ""


def table_file(folder: Path, table: str) -> Path:
    """Return the path of the file that holds the rows of a table."""
    return folder / f"{table}.jsonl"


class Tables(Protocol):
    """All tables of a catalogue. Methods raise CatalogueUnavailable when the database does not respond."""

    def includes(self, dump: Dump) -> bool:
        """Return whether the change log contains the dump's newest change, so that the dump is an earlier state."""
        ...

    def dump(self, folder: Path) -> Dump:
        """Write a consistent snapshot of all tables to files in the folder. Raises OSError."""
        ...

    def references(self, folder: Path) -> Iterable[ObjectRef]:
        """Yield the objects that the dump in the folder references. Raises InvalidBackup."""
        ...

    def check_loadable(self, dump: Dump, *, replace: bool) -> None:
        """Raise InvalidBackup for a dump of another schema, NotEmpty if the log has changes and not `replace`."""
        ...

    def load(self, folder: Path, *, replace: bool, actor: str) -> LogPosition:
        """Replace the content of all tables by the files' in one transaction, and start a new epoch.

        The audit entry lists the replaced epochs: those of the files and those of the previous content.

        Raises InvalidBackup, NotEmpty.
        """
        ...


class Backup(Protocol):
    """Storage for one backup, replaced atomically. Methods raise InvalidBackup when it cannot be read."""

    @property
    def objects(self) -> Artifacts:
        """The store of the backup's objects."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Lock out other writers and readers. Required for `last`, `new_folder` and `commit`.

        Raises BackupBusy if locked already. An OSError in the block becomes ArtifactsUnavailable.
        """
        ...

    def last(self) -> Dump | None:
        """Return the metadata of the committed backup, of any release; None if there is none."""
        ...

    def new_folder(self) -> Path:
        """Create an empty folder for the dump of a new backup."""
        ...

    def commit(self, folder: Path, dump: Dump, keys: Collection[str]) -> None:
        """Make the dump in the folder the current backup; delete the previous one and objects not among the keys."""
        ...

    def open(self) -> AbstractContextManager[tuple[Path, Dump]]:
        """Return the current backup's folder and metadata, with all file digests checked; writers are locked out.

        Raises BackupBusy.
        """
        ...
