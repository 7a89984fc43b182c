"""Snapshots in an object store, which all replicas share; each is also saved in a folder of this machine.

A file is stored in parts, each an object whose key is never used for other bytes. The prefix must belong to the
snapshots alone: objects that no retained snapshot needs are deleted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import takewhile
from pathlib import Path

import structlog

from vlibrary.adapters.snapshots.folder import PART, FolderSnapshots
from vlibrary.adapters.snapshots.manifest import (
    FileInfo,
    Manifest,
    SnapshotSource,
    dump_manifest,
    parse_manifest,
    select_retained,
)
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable
from vlibrary.domain.ports.artifacts import Artifacts, StoredObject
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged, SnapshotDraft, SnapshotsUnavailable

MANIFESTS, FILES = "manifests/", "pieces/"
ABANDONED = timedelta(hours=1)  # a part of this age without a manifest belongs to a process that died

log = structlog.get_logger(__name__)


class ObjectStoreSnapshots(SnapshotSource):
    """ports.Snapshots in an object store, cached in a folder of this machine."""

    def __init__(self, folder: FolderSnapshots, store: Artifacts) -> None:
        self._folder = folder
        self._store = store

    def save(self, draft: SnapshotDraft) -> None:
        saved = self._folder.write(draft)
        with _map_store_errors():
            manifest = self._folder.read_manifest(saved.name)
            stored = {found.key for found in self._list(FILES)}
            for name, info in manifest.files.items():
                self._store_parts(saved / name, info, stored)
            data = dump_manifest(manifest)
            digest = hashlib.sha256(data).hexdigest()
            key = f"{MANIFESTS}{saved.name}-{digest}.json"
            self._store.put(key, data, digest)
            self._prune(key, manifest)

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        local = self._folder.newest(epoch, embedder)
        try:
            return self.find(epoch, embedder, after=-1 if local is None else local.position.seq) or local
        except ArtifactsUnavailable as error:
            log.warning("snapshots.store_unavailable", reason=error.detail)
            return local

    def newest_position(self, epoch: str, embedder: str) -> LogPosition | None:
        try:
            return self.highest(epoch, embedder)
        except ArtifactsUnavailable as error:  # a save to the folder is all the more useful then
            log.warning("snapshots.store_unavailable", reason=error.detail)
            return None

    def names(self) -> list[str]:
        return [found.key for found in self._list(MANIFESTS)][::-1]

    def read_manifest(self, name: str) -> Manifest:
        sha256 = name.rpartition("-")[2].removesuffix(".json")
        try:
            return parse_manifest(self._store.get(name, sha256))
        except ArtifactLost as error:
            raise SnapshotDamaged(error.detail) from error

    def open(self, name: str, manifest: Manifest) -> Snapshot:
        """Copy the snapshot to the folder, which has most of its files unless the machine is new, and open it there."""
        writers = {file: partial(self._fetch, info) for file, info in manifest.files.items()}
        try:
            self._folder.save(SnapshotDraft(manifest.position, manifest.embedder, manifest.body, writers))
        except ArtifactLost as error:
            raise SnapshotDamaged(error.detail) from error
        snapshot = self._folder.newest(manifest.epoch, manifest.embedder)
        if snapshot is None:
            raise SnapshotDamaged(f"{name} is corrupt in this machine's folder")
        return snapshot

    def _store_parts(self, path: Path, info: FileInfo, stored: set[str]) -> None:
        with path.open("rb") as file:
            for number, sha256 in enumerate(info.sha256):
                key = _part_key(path.name, number)
                if key not in stored:
                    file.seek(number * PART)
                    self._store.put(key, file.read(PART), sha256)

    def _fetch(self, info: FileInfo, path: Path) -> None:
        with path.open("wb") as file:
            for number, sha256 in enumerate(info.sha256):
                file.write(self._store.get(_part_key(path.name, number), sha256))

    def _list(self, prefix: str) -> Iterator[StoredObject]:
        """Yield only objects below the prefix: the store may, by mistake, hold others."""
        return takewhile(lambda found: found.key.startswith(prefix), self._store.list(after=prefix))

    def _prune(self, saved: str, manifest: Manifest) -> None:
        found = self.manifests(self.names())
        retained = select_retained(found, saved, manifest)
        for key in found.keys() - retained:
            self._store.delete(key)
        needed = {
            _part_key(name, number)
            for key in retained
            if isinstance(named := found.get(key), Manifest)
            for name, info in named.files.items()
            for number in range(len(info.sha256))
        }
        now = self._store.now()
        for part in self._list(FILES):
            # A younger part may belong to a manifest that another replica is about to write.
            if part.key not in needed and now - part.modified > ABANDONED:
                self._store.delete(part.key)


def _part_key(name: str, number: int) -> str:
    return f"{FILES}{name}/{number:06}"


@contextmanager
def _map_store_errors() -> Iterator[None]:
    try:
        yield
    except (ArtifactsUnavailable, ArtifactLost) as error:
        raise SnapshotsUnavailable(error.detail) from error
    except (SnapshotDamaged, FileNotFoundError) as error:  # a process that shares the folder has deleted the snapshot
        raise SnapshotsUnavailable(str(error)) from error
