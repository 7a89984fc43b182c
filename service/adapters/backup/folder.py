"""A backup as a folder that can be copied and archived with ordinary tools.

manifest.json names the subfolder with the catalogue's tables and the digests of its files; objects/ holds the objects,
whose digests are in the table of vectors. The manifest is replaced last, so it always describes a complete backup.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError
from ulid import ULID

from vlibrary.adapters.fsync import fsync
from vlibrary.domain.errors import ArtifactsUnavailable, BackupBusy, InvalidBackup
from vlibrary.domain.ports.artifacts import Artifacts, is_library_key
from vlibrary.domain.ports.backup import Dump, table_file

FORMAT = 1
MANIFEST = "manifest.json"
CATALOGUE = "catalogue-"
LOCK = ".lock"
_CATALOGUE_FOLDER = re.compile(CATALOGUE + "[0-9A-Z]{26}")


@dataclass(frozen=True)
class Manifest:
    """Content of manifest.json. catalogue: name of the folder of tables. sha256: digest of each of its files."""

    format: int
    catalogue: str
    dump: Dump
    sha256: dict[str, str]


_MANIFEST = TypeAdapter(Manifest)


class BackupFolder:
    """ports.backup.Backup in a folder, created on first write.

    open_objects: opens the artifact store in a subfolder. Raises ArtifactsUnavailable when it cannot be created.
    """

    def __init__(self, root: Path, open_objects: Callable[[Path], Artifacts]) -> None:
        self._root = root
        self._open_objects = open_objects

    @cached_property
    def objects(self) -> Artifacts:
        return self._open_objects(self._root / "objects")

    @contextmanager
    def lock(self) -> Iterator[None]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with self._acquire_lock():
                yield
        except OSError as error:
            raise ArtifactsUnavailable(
                f"Cannot write to the backup folder ({error.strerror}).",
                "Check the folder's free space and permissions, or choose another folder.",
            ) from error

    def last(self) -> Dump | None:
        return self._read_manifest().dump if (self._root / MANIFEST).exists() else None

    def new_folder(self) -> Path:
        folder = self._root / f"{CATALOGUE}{ULID()}"
        folder.mkdir()
        return folder

    def commit(self, folder: Path, dump: Dump, keys: Collection[str]) -> None:
        files = [table_file(folder, table) for table in dump.rows]
        for path in (*files, folder):
            fsync(path)
        self._write_manifest(Manifest(FORMAT, folder.name, dump, {path.name: _sha256(path) for path in files}))
        for other in self._root.glob(f"{CATALOGUE}*"):
            if other != folder and _CATALOGUE_FOLDER.fullmatch(other.name):
                shutil.rmtree(other)
        for found in self.objects.list():
            if found.key not in keys and is_library_key(found.key):
                self.objects.delete(found.key)

    @contextmanager
    def open(self) -> Iterator[tuple[Path, Dump]]:
        self._read_restorable()  # before the lock, which would create a folder
        try:
            lock = self._acquire_lock()
        except OSError:  # a read-only disk has no writers to lock out
            lock = nullcontext()
        with lock:
            manifest = self._read_restorable()  # again: a writer may just have replaced it
            folder = self._root / manifest.catalogue
            for name, sha256 in manifest.sha256.items():
                if not (folder / name).is_file() or _sha256(folder / name) != sha256:
                    raise InvalidBackup(
                        f"The backup's file {name} is missing or corrupt.", "Use another copy of the backup."
                    )
            yield folder, manifest.dump

    def _acquire_lock(self) -> AbstractContextManager[object]:
        """Lock the folder for this process; the lock ends with the process. Raises BackupBusy, OSError."""
        try:
            return FileLock(self._root / LOCK, timeout=0).acquire()
        except Timeout as error:
            raise BackupBusy(
                f"Another process is writing or restoring the backup in {self._root}.",
                "Wait until it has finished, or use another folder.",
            ) from error

    def _read_restorable(self) -> Manifest:
        """Read the manifest. Raises InvalidBackup unless this release can restore the backup."""
        manifest = self._read_manifest()
        names = {table_file(Path(), table).name for table in manifest.dump.rows}
        complete = manifest.sha256.keys() == names and Path(manifest.catalogue).name == manifest.catalogue
        if manifest.format != FORMAT or not complete:
            raise InvalidBackup(
                f"The backup has format {manifest.format} or other tables than this release.",
                "Restore it with the release that created it.",
            )
        return manifest

    def _read_manifest(self) -> Manifest:
        try:
            return _MANIFEST.validate_json((self._root / MANIFEST).read_bytes())
        except FileNotFoundError as error:
            raise InvalidBackup(
                f"{self._root} holds no complete backup: {MANIFEST} is missing.",
                "Check the path; if `vlibrary backup` was interrupted, run it again.",
            ) from error
        except (OSError, ValidationError) as error:
            raise InvalidBackup(
                f"The backup's {MANIFEST} is not readable.",
                "Use another copy of the backup, or run `vlibrary backup --replace` to create a new one in its place.",
            ) from error

    def _write_manifest(self, manifest: Manifest) -> None:
        draft = self._root / f".{MANIFEST}"
        draft.write_bytes(_MANIFEST.dump_json(manifest, indent=2))
        fsync(draft)
        draft.replace(self._root / MANIFEST)
        fsync(self._root)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
