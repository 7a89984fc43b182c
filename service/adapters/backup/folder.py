"""A backup as a folder that can be copied, packed and kept anywhere.

manifest.json names the folder of the catalogue's tables and the digests of its files; objects/ holds the objects by
their keys, whose digests the table of vectors knows. The manifest is replaced last, so what it says is always whole.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError
from ulid import ULID

from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.adapters.backup.tables import TABLES, read_rows, table_file, writable
from vlibrary.adapters.fsync import sync
from vlibrary.domain.backup import Dump, ObjectRef
from vlibrary.domain.errors import BackupBusy, InvalidBackup
from vlibrary.domain.objects import is_ours
from vlibrary.domain.ports import Artifacts

FORMAT = 1
MANIFEST = "manifest.json"
CATALOGUE = "catalogue-"
LOCK = ".lock"
_DRAFT = re.compile(CATALOGUE + "[0-9A-Z]{26}")


@dataclass(frozen=True)
class Manifest:
    """What a backup is. catalogue: the folder of the tables. sha256: of its files, by name."""

    format: int
    catalogue: str
    dump: Dump
    sha256: dict[str, str]


_MANIFEST = TypeAdapter(Manifest)


class BackupFolder:
    """domain.backup.Backup below root, which is made for a writer. Raises ArtifactsUnavailable when it cannot be."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @cached_property
    def objects(self) -> Artifacts:
        return FolderArtifacts(self._root / "objects")

    @contextmanager
    def writing(self) -> Iterator[None]:
        with writable():
            self._root.mkdir(parents=True, exist_ok=True)
            lock = self._lock()
        with lock:
            yield

    def last(self) -> Dump | None:
        return self._read_manifest().dump if (self._root / MANIFEST).exists() else None

    def draft(self) -> Path:
        folder = self._root / f"{CATALOGUE}{ULID()}"
        with writable():
            folder.mkdir()
        return folder

    def references(self, folder: Path) -> Iterator[ObjectRef]:
        for row in read_rows(table_file(folder, "vectors")):
            yield ObjectRef(row["object_key"], row["sha256"], row["size"])

    def commit(self, folder: Path, dump: Dump) -> None:
        with writable():
            files = [table_file(folder, name) for name in TABLES]
            for path in (*files, folder):
                sync(path)
            digests = {path.name: _sha256(path) for path in files}
            self._write_manifest(Manifest(FORMAT, folder.name, dump, digests))
            for other in self._root.glob(f"{CATALOGUE}*"):
                if other != folder and _DRAFT.fullmatch(other.name):
                    shutil.rmtree(other)
        needed = {reference.key for reference in self.references(folder)}
        for found in self.objects.list():
            if found.key not in needed and is_ours(found.key):
                self.objects.delete(found.key)

    @contextmanager
    def open(self) -> Iterator[tuple[Path, Dump]]:
        self._manifest()  # where there is none, no folder is made for the lock
        with self._lock_if_possible():
            manifest = self._manifest()  # again: it may have been replaced just now
            folder = self._root / manifest.catalogue
            for name, sha256 in manifest.sha256.items():
                if not (folder / name).is_file() or _sha256(folder / name) != sha256:
                    raise InvalidBackup(
                        f"{name} of the backup is missing or damaged.", "Take another copy of the backup."
                    )
            yield folder, manifest.dump

    def _lock(self) -> AbstractContextManager[object]:
        """Held by this process alone, and no longer than it lives. Raises BackupBusy, OSError."""
        try:
            return FileLock(self._root / LOCK).acquire(timeout=0)
        except Timeout as error:
            raise BackupBusy(
                f"Somebody is writing or restoring the backup in {self._root} at this moment.",
                "Wait until that has ended, or use another folder.",
            ) from error

    def _lock_if_possible(self) -> AbstractContextManager[object]:
        """None where none can be made, on a read-only disk say: whoever cannot write here makes no backup either."""
        try:
            return self._lock()
        except OSError:
            return nullcontext()

    def _manifest(self) -> Manifest:
        """Of a backup that this release can restore."""
        manifest = self._read_manifest()
        known = manifest.format == FORMAT and set(manifest.sha256) == {table_file(Path(), name).name for name in TABLES}
        if not known or Path(manifest.catalogue).name != manifest.catalogue:
            raise InvalidBackup(
                f"The backup has format {manifest.format} or other tables than this release.",
                "Restore it with the release that made it.",
            )
        return manifest

    def _read_manifest(self) -> Manifest:
        try:
            return _MANIFEST.validate_json((self._root / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise InvalidBackup(
                f"{self._root} holds no whole backup: it has no {MANIFEST}.",
                "Check the path; if `vlibrary backup` was broken off, run it again.",
            ) from error
        except (OSError, ValidationError) as error:
            raise InvalidBackup(
                f"The backup's {MANIFEST} cannot be read.",
                "Take another copy of it; `vlibrary backup --replace` makes a new backup in its place.",
            ) from error

    def _write_manifest(self, manifest: Manifest) -> None:
        draft = self._root / f".{MANIFEST}"
        draft.write_bytes(_MANIFEST.dump_json(manifest, indent=2))
        sync(draft)
        draft.replace(self._root / MANIFEST)
        sync(self._root)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
