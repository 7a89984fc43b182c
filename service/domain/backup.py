"""The ports of a backup: a catalogue's tables as a whole, and a place where they lie beside the objects they need."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vlibrary.domain.ports import Artifacts, Position


@dataclass(frozen=True)
class ObjectRef:
    """An object that a catalogue needs."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Dump:
    """A catalogue as files. schema: the revision of its tables. rows: by table.

    mark: of the newest change; empty without changes, and in backups that were made before there were marks.
    """

    schema: str
    epoch: str
    seq: int
    rows: dict[str, int]
    mark: str = ""


class Tables(Protocol):
    """A catalogue's tables as a whole. Raises CatalogueUnavailable."""

    def knows(self, dump: Dump) -> bool:
        """Whether the catalogue's log has all changes of this dump's: it is the same history, and has gone on since."""
        ...

    def dump(self, folder: Path) -> Dump:
        """Write all tables, as they are at one moment, into files of the folder. Raises ArtifactsUnavailable."""
        ...

    def check_loadable(self, dump: Dump, *, replace: bool) -> None:
        """Raises InvalidBackup for tables of another release, NotEmpty unless there is nothing to be replaced."""
        ...

    def load(self, folder: Path, *, replace: bool, actor: str) -> Position:
        """Replace everything by the files' content and give it a new epoch, all at once or not at all.

        The audit log then tells of the epochs that were replaced, the files' own and those of what they replace.

        Raises InvalidBackup, NotEmpty.
        """
        ...


class Backup(Protocol):
    """A place for one backup. It holds the last whole one until the next one is whole. Raises InvalidBackup.

    Whoever writes or reads it does so alone: a new backup removes what only the last one needs.
    """

    @property
    def objects(self) -> Artifacts:
        """The backup's own objects."""
        ...

    def writing(self) -> AbstractContextManager[None]:
        """Be the only one at this place: for last, draft and commit. Raises BackupBusy."""
        ...

    def last(self) -> Dump | None:
        """The whole backup that a new one would replace, of whatever release; None: there is none."""
        ...

    def draft(self) -> Path:
        """A new, empty folder for the files of a new backup."""
        ...

    def references(self, folder: Path) -> Iterable[ObjectRef]:
        """The objects that the catalogue in the folder needs."""
        ...

    def commit(self, folder: Path, dump: Dump) -> None:
        """Make the files in the folder the backup, and remove what belonged to the last one only."""
        ...

    def open(self) -> AbstractContextManager[tuple[Path, Dump]]:
        """The whole backup's files, all digests checked; nobody writes it meanwhile. Raises BackupBusy."""
        ...
