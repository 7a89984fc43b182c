"""Artifacts as files in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from vlibrary.adapters.artifacts.checks import check_digest, check_key, digest, is_key, missing, unavailable
from vlibrary.adapters.fsync import fsync
from vlibrary.domain import objects
from vlibrary.domain.errors import ArtifactLost
from vlibrary.domain.ports.artifacts import StoredObject


class FolderArtifacts:
    """ports.Artifacts below root, which is made if need be. Processes may share it.

    A file appears under its name whole or not at all, and never replaces another: it is written beside it, synced,
    and hard-linked to its name. Raises ArtifactsUnavailable when root cannot be made.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unavailable("be opened", _reason(error)) from error

    def put(self, key: str, data: bytes, sha256: str) -> None:
        check_digest(key, data, sha256)
        path = self._path(key)
        with self._reachable(f"keep object {key}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.parent / objects.draft_name()  # a key too, so that one left behind is collected
            try:
                _write_synced(draft, data)
                with suppress(FileExistsError):  # ours or another's: the read below tells
                    os.link(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            self._sync_folders(path)
        self.get(key, sha256)

    def get(self, key: str, sha256: str) -> bytes:
        path = self._path(key)
        with self._reachable(f"read object {key}"):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise missing(key) from None
        check_digest(key, data, sha256)
        return data

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._reachable(f"delete object {key}"):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for folder in self._folders(path):
                with suppress(OSError):  # it holds other objects
                    folder.rmdir()

    def stat(self, key: str) -> StoredObject | None:
        path = self._path(key)
        with self._reachable(f"look for object {key}"):
            return _stored(key, path) if path.is_file() else None

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        with self._reachable("list its objects"):
            yield from _walk(self._root, "", after or "")

    def now(self) -> datetime:
        """This machine's clock, which stamps files of its own disks. A file server's must agree with it."""
        return datetime.now(UTC)

    def check(self) -> None:
        key = objects.check_key()
        try:
            self.put(key, b"", digest(b""))
        except ArtifactLost as error:
            raise unavailable("keep what is written to it", "damaged at once") from error
        self.delete(key)

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _folders(self, path: Path) -> Sequence[Path]:
        """The folders between root and the object, innermost first."""
        return [folder for folder in path.parents if self._root in folder.parents]

    def _sync_folders(self, path: Path) -> None:
        for folder in [*self._folders(path), self._root]:
            fsync(folder)

    @contextmanager
    def _reachable(self, what: str) -> Iterator[None]:
        """Maps the operating system's errors. Artifacts of a root that has gone (not mounted) are not lost."""
        try:
            self._root.stat()
            yield
        except OSError as error:
            raise unavailable(what, _reason(error)) from error


def _walk(folder: Path, prefix: str, after: str) -> Iterator[StoredObject]:
    """The objects below the folder, whose keys begin with the prefix, in the order of their whole keys."""
    try:
        with os.scandir(folder) as entries:
            # A slash sorts after a dash and a dot, so a folder's place among files is that of its name with the slash.
            names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    except FileNotFoundError:  # its last object was deleted just now
        return
    for key in (prefix + name for name in names):
        if not is_key(key.removesuffix("/")) or not (key > after or after.startswith(key)):
            continue
        path = folder / key.removeprefix(prefix)
        if key.endswith("/"):
            yield from _walk(path, key, after)
        elif key > after and (found := _stored(key, path)) is not None:
            yield found


def _stored(key: str, path: Path) -> StoredObject | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
