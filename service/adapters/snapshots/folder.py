"""Snapshots in a folder: each is a subfolder that appears under its name atomically."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from ulid import ULID

from vlibrary.adapters.fsync import fsync
from vlibrary.adapters.snapshots.manifest import (
    FORMAT,
    FileInfo,
    Manifest,
    SnapshotSource,
    dump_manifest,
    parse_manifest,
    select_retained,
)
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged, SnapshotDraft, SnapshotsUnavailable

PART = 32 * 2**20  # bytes per digest, so that several cores can hash one file
DRAFT = ".draft"
ABANDONED_S = 3_600.0  # a draft of this age belongs to a process that died
BUFFER = 2**20
_NAME = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")  # a ULID


class FolderSnapshots(SnapshotSource):
    """ports.Snapshots below root, which is created on the first save.

    Files that an earlier snapshot has are hard links to it. Files are memory-mapped, not read: the operating system
    loads them ahead and can evict them.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def save(self, draft: SnapshotDraft) -> None:
        self.write(draft)

    def write(self, draft: SnapshotDraft) -> Path:
        """Save the draft as `Snapshots.save` does; return the snapshot's folder."""
        with _map_os_errors():
            self._root.mkdir(parents=True, exist_ok=True)
            folder = self._root / f"{ULID()}{DRAFT}"
            folder.mkdir()
            try:
                manifest = self._write_files(draft, folder)
                fsync(folder)
                saved = folder.rename(folder.with_suffix(""))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            fsync(self._root)
            self._prune(saved.name, manifest)
            return saved

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        with _map_os_errors():
            return self.find(epoch, embedder)

    def newest_position(self, epoch: str, embedder: str) -> LogPosition | None:
        with _map_os_errors():
            return self.highest(epoch, embedder)

    def folders(self) -> list[Path]:
        """Return the folders of complete snapshots, newest first."""
        return sorted(self._list_folders(""), reverse=True)

    def names(self) -> list[str]:
        return [folder.name for folder in self.folders()]

    def read_manifest(self, name: str) -> Manifest:
        paths = _manifest_files(self._root / name)
        if len(paths) != 1:
            raise SnapshotDamaged(f"{len(paths)} manifests")
        try:
            data = paths[0].read_bytes()
        except FileNotFoundError as error:
            raise SnapshotDamaged("another process has deleted it") from error
        if paths[0].name != _manifest_name(data):
            raise SnapshotDamaged("the manifest does not match its digest")
        return parse_manifest(data)

    def open(self, name: str, manifest: Manifest) -> Snapshot:
        files = {file: _open_checked(self._root / name / file, info) for file, info in manifest.files.items()}
        return Snapshot(manifest.position, manifest.body, files)

    def _list_folders(self, suffix: str) -> list[Path]:
        """Return the folders named like snapshots; anything else in the folder is not ours and is never deleted."""
        if not self._root.is_dir():
            return []
        named = (path for path in self._root.iterdir() if path.suffix == suffix and _NAME.fullmatch(path.stem))
        return [path for path in named if path.is_dir()]

    def _write_files(self, draft: SnapshotDraft, folder: Path) -> Manifest:
        existing = self._existing_files()
        files: dict[str, FileInfo] = {}
        for name, write in draft.files.items():
            path = folder / name
            if name in existing:
                source, info = existing[name]
                with suppress(OSError):  # deleted, or a file system without links
                    os.link(source, path)
                    files[name] = info
                    continue
            write(path)
            fsync(path)
            size = path.stat().st_size
            files[name] = FileInfo(size, _digest_parts(path, size))
        position = draft.position
        manifest = Manifest(
            FORMAT, position.epoch, position.seq, position.token, draft.embedder, dict(draft.body), files
        )
        data = dump_manifest(manifest)
        path = folder / _manifest_name(data)
        path.write_bytes(data)
        fsync(path)
        return manifest

    def _existing_files(self) -> Mapping[str, tuple[Path, FileInfo]]:
        """Return the files of all snapshots here: the newest one alone may be another replica's."""
        found = self.manifests(reversed(self.names()))  # the newest last, since it is retained longest
        return {
            name: (self._root / snapshot / name, info)
            for snapshot, manifest in found.items()
            if isinstance(manifest, Manifest)
            for name, info in manifest.files.items()
        }

    def _prune(self, saved: str, manifest: Manifest) -> None:
        found = self.manifests(folder.name for folder in self.folders() if _manifest_files(folder))
        old = []
        for name in found.keys() - select_retained(found, saved, manifest):
            folder = self._root / name
            # Renamed to a draft first: if the deletion is interrupted, a later one completes it.
            with suppress(OSError):  # another process was faster
                old.append(folder.rename(folder.with_suffix(DRAFT)))
        for draft in self._list_folders(DRAFT):
            with suppress(FileNotFoundError):  # another process deleted or completed it
                if time.time() - draft.stat().st_mtime > ABANDONED_S:
                    old.append(draft)
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)  # another process may delete it too


def _manifest_name(data: bytes) -> str:
    return f"manifest-{hashlib.sha256(data).hexdigest()}.json"


def _manifest_files(folder: Path) -> list[Path]:
    try:
        return list(folder.glob("manifest-*.json"))
    except FileNotFoundError:  # another process has deleted the folder
        return []


def _open_checked(path: Path, info: FileInfo) -> mmap.mmap:
    """Map the file into memory. Raises SnapshotDamaged unless it has its size and digests."""
    try:
        if path.stat().st_size != info.size:
            raise SnapshotDamaged(f"{path.name} does not have its size")
        if _digest_parts(path, info.size) != info.sha256:
            raise SnapshotDamaged(f"{path.name} does not match its digest")
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise SnapshotDamaged(f"{path.name} is missing") from error


def _digest_parts(path: Path, size: int) -> tuple[str, ...]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(partial(_digest_part, path), range(0, size, PART)))


def _digest_part(path: Path, start: int) -> str:
    """Hash one part. Reading into a small buffer is faster than touching every page of a mapped file."""
    sha256, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = PART
        while left and (count := file.readinto(buffer[: min(left, BUFFER)])):
            sha256.update(buffer[:count])
            left -= count
    return sha256.hexdigest()


@contextmanager
def _map_os_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotsUnavailable(error.strerror or type(error).__name__) from error
