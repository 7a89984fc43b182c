"""Artifact store in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from vlibrary.adapters.artifacts.checks import (
    check_digest,
    check_key,
    is_key,
    missing_object,
    store_unavailable,
)
from vlibrary.adapters.fsync import fsync
from vlibrary.domain.ports.artifacts import StoredObject, draft_name


class FolderArtifacts:
    """ports.Artifacts below root, which is created; processes may share it. Raises ArtifactsUnavailable.

    A file appears atomically and never replaces another: it is written under a draft name, synced to disk, and
    hard-linked to its own name.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise store_unavailable("be opened", _reason(error)) from error

    def put(self, key: str, data: bytes, sha256: str) -> None:
        check_digest(key, data, sha256)
        path = self._path(key)
        with self._map_errors(f"store object {key}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = path.parent / draft_name()  # also a key, so that the collector finds an abandoned one
            try:
                draft.write_bytes(data)
                fsync(draft)
                with suppress(FileExistsError):  # the read below checks whether it has the same bytes
                    os.link(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            for folder in [*self._folders(path), self._root]:
                fsync(folder)
        self.get(key, sha256)

    def get(self, key: str, sha256: str) -> bytes:
        path = self._path(key)
        with self._map_errors(f"read object {key}"):
            try:
                data = path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                raise missing_object(key) from None
        check_digest(key, data, sha256)
        return data

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._map_errors(f"delete object {key}"):
            with suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
            for folder in self._folders(path):
                with suppress(OSError):  # not empty
                    folder.rmdir()

    def stat(self, key: str) -> StoredObject | None:
        path = self._path(key)
        with self._map_errors(f"look up object {key}"):
            return _stat(key, path) if path.is_file() else None

    def list(self, after: str | None = None) -> Iterator[StoredObject]:
        with self._map_errors("list its objects"):
            yield from _walk(self._root, "", after or "")

    def now(self) -> datetime:
        """Return this machine's time; a file server's clock must agree with it."""
        return datetime.now(UTC)

    def check(self) -> None:
        with self._map_errors("be read"), os.scandir(self._root):
            pass

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._root / key

    def _folders(self, path: Path) -> Sequence[Path]:
        """Return the folders between root and the object, innermost first."""
        return [folder for folder in path.parents if self._root in folder.parents]

    @contextmanager
    def _map_errors(self, action: str) -> Iterator[None]:
        """Map OS errors to ArtifactsUnavailable; if root is missing (not mounted), artifacts do not count as lost."""
        try:
            self._root.stat()
            yield
        except OSError as error:
            raise store_unavailable(action, _reason(error)) from error


def _walk(folder: Path, prefix: str, after: str) -> Iterator[StoredObject]:
    """Yield the objects below the folder, whose keys start with the prefix, ordered by key."""
    try:
        with os.scandir(folder) as entries:
            # A folder sorts by its name with the slash, which follows a dash and a dot.
            names = sorted(entry.name + "/" * entry.is_dir() for entry in entries)
    except FileNotFoundError:  # its last object was just deleted
        return
    for key in (prefix + name for name in names):
        if not is_key(key.removesuffix("/")) or not (key > after or after.startswith(key)):
            continue
        path = folder / key.removeprefix(prefix)
        if key.endswith("/"):
            yield from _walk(path, key, after)
        elif key > after and (found := _stat(key, path)) is not None:
            yield found


def _stat(key: str, path: Path) -> StoredObject | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return StoredObject(key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
