"""Snapshots that every replica finds: each is kept in a folder first, and from there in an object store.

A large piece is stored in parts, each an object of its own under a key that is never used for other bytes. The store
must be of the snapshots' own: whatever no recent snapshot needs is removed from it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

import structlog

from vlibrary.adapters.snapshots.folder import PART, FolderSnapshots, read_manifest
from vlibrary.adapters.snapshots.manifest import (
    FileInfo,
    Manifest,
    Place,
    dump_manifest,
    parse_manifest,
    reached,
    spared,
)
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable
from vlibrary.domain.ports.artifacts import Artifacts, StoredObject
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged, SnapshotDraft, SnapshotsUnavailable

MANIFESTS, PIECES = "manifests/", "pieces/"
ABANDONED = timedelta(hours=1)  # a piece this old without a manifest belongs to a process that died

log = structlog.get_logger(__name__)


class ObjectStoreSnapshots:
    """snapshots.Snapshots in an object store, with a folder of this machine's before it."""

    def __init__(self, folder: FolderSnapshots, store: Artifacts) -> None:
        self._folder = folder
        self._store = store
        self._place = Place(self._manifest_keys, self._manifest, self._fetched)

    def save(self, draft: SnapshotDraft) -> None:
        whole = self._folder.keep(draft)
        with _reachable():
            manifest = read_manifest(whole)
            stored = {found.key for found in self._listed(PIECES)}
            for name, piece in manifest.files.items():
                self._store_piece(whole / name, piece, stored)
            data = dump_manifest(manifest)
            digest = hashlib.sha256(data).hexdigest()
            key = f"{MANIFESTS}{whole.name}-{digest}.json"
            self._store.put(key, data, digest)
            self._prune(key, manifest)

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        mine = self._folder.newest(epoch, embedder)
        try:
            theirs = self._place.newest(epoch, embedder, beyond=-1 if mine is None else mine.position.seq)
        except ArtifactsUnavailable as error:
            log.warning("snapshots.store_unavailable", reason=error.detail)
            theirs = None
        return theirs or mine

    def newest_position(self, epoch: str, embedder: str) -> LogPosition | None:
        try:
            return reached(self._place.found(self._manifest_keys()), epoch, embedder)
        except ArtifactsUnavailable as error:  # then what is kept in the folder is all the more worth
            log.warning("snapshots.store_unavailable", reason=error.detail)
            return None

    def _store_piece(self, path: Path, piece: FileInfo, stored: set[str]) -> None:
        with path.open("rb") as file:
            for number, sha256 in enumerate(piece.sha256):
                key = _part_key(path.name, number)
                if key not in stored:
                    file.seek(number * PART)
                    self._store.put(key, file.read(PART), sha256)

    def _manifest_keys(self) -> list[str]:
        """Newest first: their names begin with the time."""
        return [found.key for found in self._listed(MANIFESTS)][::-1]

    def _listed(self, prefix: str) -> Iterator[StoredObject]:
        """The objects below it, and no others: some store may be ours in part only, by mistake."""
        return takewhile(lambda found: found.key.startswith(prefix), self._store.list(after=prefix))

    def _manifest(self, key: str) -> Manifest:
        sha256 = key.rpartition("-")[2].removesuffix(".json")
        try:
            return parse_manifest(self._store.get(key, sha256))
        except ArtifactLost as error:
            raise SnapshotDamaged(error.detail) from error

    def _fetched(self, key: str, manifest: Manifest) -> Snapshot:
        """The snapshot by way of the folder, which has most of its pieces already if this machine is not new."""
        writers = {name: self._fetcher(name, piece) for name, piece in manifest.files.items()}
        try:
            self._folder.save(SnapshotDraft(manifest.position, manifest.embedder, manifest.body, writers))
        except ArtifactLost as error:
            raise SnapshotDamaged(error.detail) from error
        snapshot = self._folder.newest(manifest.epoch, manifest.embedder)
        if snapshot is None:
            raise SnapshotDamaged(f"{key} is damaged in this machine's folder")
        return snapshot

    def _fetcher(self, name: str, piece: FileInfo) -> Callable[[Path], None]:
        def fetch(path: Path) -> None:
            with path.open("wb") as file:
                for number, sha256 in enumerate(piece.sha256):
                    file.write(self._store.get(_part_key(name, number), sha256))

        return fetch

    def _prune(self, written: str, manifest: Manifest) -> None:
        found = self._place.found(self._manifest_keys())
        stay = spared(found, written, manifest)
        for key in found.keys() - stay:
            self._store.delete(key)
        needed = {part for key, named in found.items() if key in stay for part in _parts(named)}
        for piece in self._listed(PIECES):
            if piece.key not in needed and self._abandoned(piece):
                self._store.delete(piece.key)

    def _abandoned(self, found: StoredObject) -> bool:
        """Whether no other replica can still be about to name it in a manifest."""
        return self._store.now() - found.modified > ABANDONED


def _parts(manifest: Manifest | SnapshotDamaged) -> list[str]:
    """The keys of all that this manifest names; nothing if it is damaged or of another format."""
    if isinstance(manifest, SnapshotDamaged):
        return []
    return [_part_key(name, number) for name, piece in manifest.files.items() for number in range(len(piece.sha256))]


def _part_key(name: str, number: int) -> str:
    return f"{PIECES}{name}/{number:06}"


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (ArtifactsUnavailable, ArtifactLost) as error:
        raise SnapshotsUnavailable(error.detail) from error
    except (SnapshotDamaged, FileNotFoundError) as error:  # a process with the same folder has pruned it meanwhile
        raise SnapshotsUnavailable(str(error)) from error
