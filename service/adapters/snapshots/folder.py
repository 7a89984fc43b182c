"""Snapshots in a folder, each a folder of its own that appears under its name whole or not at all."""

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

import structlog
from ulid import ULID

from vlibrary.adapters.fsync import fsync
from vlibrary.adapters.snapshots.manifest import (
    FORMAT,
    FileInfo,
    Manifest,
    Place,
    dump_manifest,
    manifest_name,
    parse_manifest,
    reached,
    spared,
)
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged, SnapshotDraft, SnapshotsUnavailable

PART = 32 * 2**20  # bytes that are hashed at once: several parts of one file keep several cores busy
DRAFT = ".draft"
ABANDONED_S = 3_600.0  # a draft this old belongs to a process that died
READ = 2**20
_NAME = re.compile("[0-7][0-9A-HJKMNP-TV-Z]{25}")  # a ULID

log = structlog.get_logger(__name__)


class FolderSnapshots:
    """snapshots.Snapshots below root, which is made if need be.

    Pieces that another snapshot here has are hard links to its files. Files are mapped, never copied into memory: the
    operating system reads them ahead and may drop them again.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._place = Place(
            lambda: [folder.name for folder in self.folders()],
            lambda name: read_manifest(root / name),
            partial(_opened, root),
        )

    def save(self, draft: SnapshotDraft) -> None:
        self.keep(draft)

    def keep(self, draft: SnapshotDraft) -> Path:
        """As `save`; returns the snapshot's folder."""
        with _reachable():
            self._root.mkdir(parents=True, exist_ok=True)
            folder = self._root / f"{ULID()}{DRAFT}"
            folder.mkdir()
            try:
                manifest = self._write(draft, folder)
                fsync(folder)
                whole = folder.rename(folder.with_suffix(""))
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            fsync(self._root)
            self._prune(whole, manifest)
            return whole

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        with _reachable():
            return self._place.newest(epoch, embedder)

    def newest_position(self, epoch: str, embedder: str) -> LogPosition | None:
        with _reachable():
            return reached(self._place.found(self._place.names()), epoch, embedder)

    def folders(self) -> list[Path]:
        """The whole ones, newest first."""
        return sorted(self._named(""), reverse=True)

    def _named(self, suffix: str) -> list[Path]:
        """The folders with names such as ours: what else lies here, by mistake or not, is nobody's to remove."""
        if not self._root.is_dir():
            return []
        named = (path for path in self._root.iterdir() if path.suffix == suffix and _NAME.fullmatch(path.stem))
        return [path for path in named if path.is_dir()]

    def _write(self, draft: SnapshotDraft, folder: Path) -> Manifest:
        kept = self._kept()
        pieces: dict[str, FileInfo] = {}
        for name, write in draft.files.items():
            path = folder / name
            if name in kept and _linked(kept[name][0] / name, path):
                pieces[name] = kept[name][1]
            else:
                write(path)
                fsync(path)
                pieces[name] = _measured(path)
        position = draft.position
        place = (position.epoch, position.seq, position.token)
        manifest = Manifest(FORMAT, *place, draft.embedder, dict(draft.body), pieces)
        data = dump_manifest(manifest)
        path = folder / manifest_name(data)
        path.write_bytes(data)
        fsync(path)
        return manifest

    def _kept(self) -> Mapping[str, tuple[Path, FileInfo]]:
        """The pieces that there are, and where, not in the newest snapshot alone: that may be another replica's."""
        found = self._place.found(reversed(self._place.names()))  # a piece of several: from the one that stays longest
        return {
            name: (self._root / snapshot, piece)
            for snapshot, manifest in found.items()
            if isinstance(manifest, Manifest)
            for name, piece in manifest.files.items()
        }

    def _prune(self, written: Path, manifest: Manifest) -> None:
        found = self._place.found(folder.name for folder in self.folders() if _manifests(folder))
        old = [_retired(self._root / name) for name in found.keys() - spared(found, written.name, manifest)]
        old += [draft for draft in self._named(DRAFT) if _abandoned(draft)]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too


def read_manifest(folder: Path) -> Manifest:
    """What the folder's manifest says. Raises SnapshotDamaged unless it is whole and of this format."""
    paths = _manifests(folder)
    if len(paths) != 1:
        raise SnapshotDamaged(f"{len(paths)} manifests")
    try:
        data = paths[0].read_bytes()
    except FileNotFoundError as error:
        raise SnapshotDamaged("another process has just removed it") from error
    if paths[0].name != manifest_name(data):
        raise SnapshotDamaged("the manifest does not have its digest")
    return parse_manifest(data)


def _manifests(folder: Path) -> list[Path]:
    try:
        return list(folder.glob("manifest-*.json"))
    except FileNotFoundError:  # another process has just removed the folder
        return []


def _retired(folder: Path) -> Path:
    """The folder under a draft's name: if its removal is broken off, somebody ends it in time."""
    with suppress(OSError):  # another process was quicker
        return folder.rename(folder.with_suffix(DRAFT))
    return folder


def _abandoned(draft: Path) -> bool:
    try:
        return time.time() - draft.stat().st_mtime > ABANDONED_S
    except FileNotFoundError:  # another process has just removed or finished it
        return False


def _opened(root: Path, name: str, manifest: Manifest) -> Snapshot:
    """Raises SnapshotDamaged unless every piece is whole."""
    pieces = {piece: _checked(root / name / piece, known) for piece, known in manifest.files.items()}
    return Snapshot(manifest.position, manifest.body, pieces)


def _checked(path: Path, piece: FileInfo) -> mmap.mmap:
    """The file in memory. Raises SnapshotDamaged unless it has its size and digests."""
    try:
        if path.stat().st_size != piece.size:
            raise SnapshotDamaged(f"{path.name} has not its size")
        if _digests(path, piece.size) != piece.sha256:
            raise SnapshotDamaged(f"{path.name} does not have its digest")
        return _mapped(path)
    except FileNotFoundError as error:
        raise SnapshotDamaged(f"{path.name} is missing") from error


def _measured(path: Path) -> FileInfo:
    size = path.stat().st_size
    return FileInfo(size, _digests(path, size))


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _digests(path: Path, size: int) -> tuple[str, ...]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(partial(_digest, path), range(0, size, PART)))


def _digest(path: Path, start: int) -> str:
    """Of one part. Reading into a small buffer is faster than touching every page of a mapped file."""
    sha256, buffer = hashlib.sha256(), memoryview(bytearray(READ))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        left = PART
        while left and (count := file.readinto(buffer[: min(left, READ)])):
            sha256.update(buffer[:count])
            left -= count
    return sha256.hexdigest()


def _linked(existing: Path, path: Path) -> bool:
    try:
        os.link(existing, path)
    except OSError:  # gone, or a file system without links
        return False
    return True


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SnapshotsUnavailable(error.strerror or type(error).__name__) from error
