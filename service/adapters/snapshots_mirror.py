"""Snapshots that every replica finds: each is kept in a folder first, and from there in an object store.

A large piece is stored in parts, each an object of its own under a key that is never used for other bytes. The store
must be of the snapshots' own: whatever no recent snapshot needs is removed from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

import structlog

from service.adapters.objects import digest
from service.adapters.snapshots import Draft, Snapshot, SnapshotDamaged, SnapshotsUnavailable
from service.adapters.snapshots_folder import (
    KEPT,
    PART,
    FolderSnapshots,
    Manifest,
    Piece,
    dump_manifest,
    parse_manifest,
    read_manifest,
    why_foreign,
)
from service.domain.errors import ArtifactLost, ArtifactsUnavailable
from service.domain.ports import Artifacts, StoredObject

MANIFESTS, PIECES = "manifests/", "pieces/"
ABANDONED = timedelta(hours=1)  # a piece this old without a manifest belongs to a process that died

log = structlog.get_logger(__name__)


class MirroredSnapshots:
    """snapshots.Snapshots in an object store, with a folder of this machine's before it."""

    def __init__(self, folder: FolderSnapshots, store: Artifacts) -> None:
        self._folder = folder
        self._store = store

    def save(self, draft: Draft) -> None:
        whole = self._folder.keep(draft)
        with _reachable():
            manifest = read_manifest(whole)
            stored = {found.key for found in self._listed(PIECES)}
            for name, piece in manifest.pieces.items():
                self._store_piece(whole / name, piece, stored)
            data = dump_manifest(manifest)
            self._store.put(f"{MANIFESTS}{whole.name}-{digest(data)}.json", data, digest(data))
            self._prune()

    def newest(self, epoch: str, embedder: str) -> Snapshot | None:
        mine = self._folder.newest(epoch, embedder)
        try:
            theirs = self._newer(epoch, embedder, than=0 if mine is None else mine.position.seq)
        except ArtifactsUnavailable as error:
            log.warning("snapshots.store_unavailable", reason=error.detail)
            theirs = None
        return theirs or mine

    def _newer(self, epoch: str, embedder: str, than: int) -> Snapshot | None:
        """The store's newest good one, if it goes further than this seq."""
        for key in self._manifest_keys():
            try:
                manifest = self._manifest(key)
                foreign = why_foreign(manifest, epoch, embedder)
                if foreign is None:
                    return self._fetched(manifest) if manifest.seq > than else None
                log.info("snapshots.ignored", snapshot=key, reason=foreign)
            except (SnapshotDamaged, ArtifactLost) as damage:
                log.warning("snapshots.ignored", snapshot=key, reason=str(damage))
        return None

    def _store_piece(self, path: Path, piece: Piece, stored: set[str]) -> None:
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
        return parse_manifest(self._store.get(key, sha256))

    def _fetched(self, manifest: Manifest) -> Snapshot | None:
        """The snapshot by way of the folder, which has most of its pieces already if this machine is not new."""
        writers = {name: self._fetcher(name, piece) for name, piece in manifest.pieces.items()}
        self._folder.save(Draft(manifest.position, manifest.embedder, manifest.body, writers))
        return self._folder.newest(manifest.epoch, manifest.embedder)

    def _fetcher(self, name: str, piece: Piece) -> Callable[[Path], None]:
        def fetch(path: Path) -> None:
            with path.open("wb") as file:
                for number, sha256 in enumerate(piece.sha256):
                    file.write(self._store.get(_part_key(name, number), sha256))

        return fetch

    def _prune(self) -> None:
        keys = self._manifest_keys()
        needed = {part for key in keys[:KEPT] for part in self._parts(key)}
        for key in keys[KEPT:]:
            self._store.delete(key)
        for found in self._listed(PIECES):
            if found.key not in needed and self._abandoned(found):
                self._store.delete(found.key)

    def _parts(self, key: str) -> list[str]:
        """The keys of all that this manifest names; nothing if it is damaged or of another format."""
        try:
            pieces = self._manifest(key).pieces
        except (SnapshotDamaged, ArtifactLost):
            return []
        return [_part_key(name, number) for name, piece in pieces.items() for number in range(len(piece.sha256))]

    def _abandoned(self, found: StoredObject) -> bool:
        """Whether no other replica can still be about to name it in a manifest."""
        return self._store.now() - found.modified > ABANDONED


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
