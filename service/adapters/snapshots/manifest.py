"""Manifests of snapshots, and the choice of the snapshot to load and of those to delete.

Snapshot names begin with the time by the writer's clock, and clocks can be wrong, so the choice is made by content.
Which epoch is current only the catalogue knows: a process that saves a snapshot may itself be the one that lags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged

FORMAT = 3
RETAINED = 2  # of one epoch and embedder, in case one is corrupt
ATTEMPTS = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FileInfo:
    """A file of a snapshot. sha256: digest of each of its parts."""

    size: int
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """The content of a snapshot: its log position, the embedder's fingerprint, the body, and its files by name."""

    format: int
    epoch: str
    seq: int
    token: str
    embedder: str
    body: dict[str, Any]
    files: dict[str, FileInfo]

    @property
    def position(self) -> LogPosition:
        return LogPosition(self.epoch, self.seq, self.token)

    def mismatch(self, epoch: str, embedder: str) -> str | None:
        """Return why the snapshot does not fit this epoch and embedder; None if it does."""
        if self.epoch != epoch:
            return f"epoch {self.epoch}"
        return None if self.embedder == embedder else f"keys of embedder {self.embedder}"


_MANIFEST = TypeAdapter(Manifest)
Manifests = Mapping[str, Manifest | SnapshotDamaged]  # by snapshot name; SnapshotDamaged if not readable


def parse_manifest(data: bytes) -> Manifest:
    """Parse a manifest. Raises SnapshotDamaged for another format."""
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        raise SnapshotDamaged("the manifest has another format") from error
    if manifest.format != FORMAT:
        raise SnapshotDamaged(f"the manifest has format {manifest.format}")
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    return _MANIFEST.dump_json(manifest)


class SnapshotSource(ABC):
    """Snapshots that several processes may add and delete at any time."""

    @abstractmethod
    def names(self) -> list[str]:
        """Return the names of all snapshots, newest first."""

    @abstractmethod
    def read_manifest(self, name: str) -> Manifest:
        """Raises SnapshotDamaged, also if the snapshot was deleted."""

    @abstractmethod
    def open(self, name: str, manifest: Manifest) -> Snapshot:
        """Open a snapshot after checking all digests. Raises SnapshotDamaged, also if it was deleted."""

    def manifests(self, names: Iterable[str]) -> Manifests:
        found: dict[str, Manifest | SnapshotDamaged] = {}
        for name in names:
            try:
                found[name] = self.read_manifest(name)
            except SnapshotDamaged as damage:
                found[name] = damage
        return found

    def find(self, epoch: str, embedder: str, *, after: int = -1) -> Snapshot | None:
        """Open the intact snapshot with the highest seq above `after`; log the ones that are skipped."""
        for _ in range(ATTEMPTS):
            names = self.names()
            found = self.manifests(names)
            _log_unusable(found, epoch, embedder)
            for name, manifest in rank(found, epoch, embedder):
                if manifest.seq <= after:
                    break
                try:
                    return self.open(name, manifest)
                except SnapshotDamaged as damage:
                    log.warning("snapshots.ignored", snapshot=name, reason=str(damage))
            # If other processes deleted all of these during the read, they had saved newer ones before.
            if names == self.names():
                break
        return None

    def highest(self, epoch: str, embedder: str) -> LogPosition | None:
        """Return the highest position of the epoch and embedder, without checking the files."""
        ranked = rank(self.manifests(self.names()), epoch, embedder)
        return ranked[0][1].position if ranked else None


def rank(found: Manifests, epoch: str, embedder: str) -> list[tuple[str, Manifest]]:
    """Return the snapshots of this epoch and embedder, highest seq first; of equal ones the newer first."""
    fitting = [
        (name, manifest)
        for name, manifest in found.items()
        if isinstance(manifest, Manifest) and manifest.mismatch(epoch, embedder) is None
    ]
    return sorted(fitting, key=lambda pair: (pair[1].seq, pair[0]), reverse=True)


def select_retained(found: Manifests, saved: str, manifest: Manifest) -> set[str]:
    """Return the names of the snapshots to retain after `saved` was written, with this manifest.

    These are the saved one, the highest of its epoch and embedder, and up to three others: the newest, which the other
    processes need if the writer lags; the newest that is not named later than the saved one, in case that one's clock
    was fast; and the newest of the same epoch, in case two embedders share it. Of each the highest of its kind is
    retained instead.
    """
    fitting = [name for name, _ in rank(found, manifest.epoch, manifest.embedder)]
    others = sorted(found.keys() - {saved, *fitting})
    earlier = [name for name in others if name <= saved]
    same_epoch = [name for name in others if getattr(found[name], "epoch", None) == manifest.epoch]
    retained = {saved, *fitting[:RETAINED]}
    for names in (others, earlier, same_epoch):
        if names:
            name, newest = names[-1], found[names[-1]]
            retained.add(rank(found, newest.epoch, newest.embedder)[0][0] if isinstance(newest, Manifest) else name)
    return retained


def _log_unusable(found: Manifests, epoch: str, embedder: str) -> None:
    for name, manifest in found.items():
        if isinstance(manifest, SnapshotDamaged):
            log.warning("snapshots.ignored", snapshot=name, reason=str(manifest))
        elif reason := manifest.mismatch(epoch, embedder):
            log.info("snapshots.ignored", snapshot=name, reason=reason)
