"""The ports of a backup: a catalogue's tables as a whole, and a place where they lie beside the objects they need."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from service.domain.ports import Artifacts, Position


@dataclass(frozen=True)
class ObjectRef:
    """An object that a catalogue needs."""

    key: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Dump:
    """A catalogue as files. schema: the revision of its tables. rows: by table."""

    schema: str
    epoch: str
    seq: int
    rows: dict[str, int]


class Tables(Protocol):
    """A catalogue's tables as a whole. Raises CatalogueUnavailable."""

    def dump(self, folder: Path) -> Dump:
        """Write all tables, as they are at one moment, into files of the folder."""
        ...

    def check_loadable(self, dump: Dump, *, replace: bool) -> None:
        """Raises InvalidBackup for tables of another release, NotEmpty unless there is nothing to be replaced."""
        ...

    def load(self, folder: Path, *, replace: bool, actor: str) -> Position:
        """Replace everything by the files' content and give it a new epoch, all at once or not at all.

        Raises InvalidBackup, NotEmpty.
        """
        ...


class Backup(Protocol):
    """A place for one backup. It holds the last whole one until the next one is whole. Raises InvalidBackup."""

    @property
    def objects(self) -> Artifacts:
        """The backup's own objects."""
        ...

    def draft(self) -> AbstractContextManager[Path]:
        """An empty folder for the files of a new backup, whose one writer this is. Raises BackupBusy."""
        ...

    def references(self, folder: Path) -> Iterable[ObjectRef]:
        """The objects that the catalogue in the folder needs."""
        ...

    def commit(self, folder: Path, dump: Dump) -> None:
        """Make the files in the folder the backup, and remove what belonged to the last one only."""
        ...

    def open(self) -> tuple[Path, Dump]:
        """The whole backup's files, all digests checked."""
        ...
