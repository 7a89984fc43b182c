"""What a snapshot says of itself, and which of several is the right one, wherever they lie.

Names tell no more than when somebody's clock said that they were written, and clocks err; so what a snapshot holds
comes first. Which epoch is right only the catalogue knows: whoever keeps a snapshot may itself be the one who is late.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.ports.snapshots import Snapshot, SnapshotDamaged

FORMAT = 3
KEPT = 2  # of one epoch and embedder: if the furthest is damaged, there is another
TRIES = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class FileInfo:
    """A file of a snapshot. sha256: of each of its parts."""

    size: int
    sha256: tuple[str, ...]


@dataclass(frozen=True)
class Manifest:
    """What a snapshot is and what belongs to it."""

    format: int
    epoch: str
    seq: int
    mark: str
    embedder: str
    body: dict[str, Any]
    files: dict[str, FileInfo]

    @property
    def position(self) -> LogPosition:
        return LogPosition(self.epoch, self.seq, self.mark)


_MANIFEST = TypeAdapter(Manifest)
Found = Mapping[str, Manifest | SnapshotDamaged]  # by name, what the snapshot says of itself or why that is unknown


@dataclass(frozen=True)
class Place:
    """Where snapshots lie. names: the newest first. manifest, opened: raise SnapshotDamaged, also for what has gone."""

    names: Callable[[], list[str]]
    manifest: Callable[[str], Manifest]
    opened: Callable[[str, Manifest], Snapshot]

    def newest(self, epoch: str, embedder: str, *, beyond: int = -1) -> Snapshot | None:
        """The furthest that can be opened, if it goes beyond this seq; what is passed over is logged."""
        for _ in range(TRIES):
            names = self.names()
            found = self.found(names)
            _log_useless(found, epoch, embedder)
            snapshot = self._first_whole(furthest_first(found, epoch, embedder), beyond)
            # Others may have removed all of these while they were read, having written newer ones before.
            if snapshot is not None or names == self.names():
                return snapshot
        return None

    def found(self, names: Iterable[str]) -> Found:
        """What those with these names say of themselves."""
        return {name: self._found(name) for name in names}

    def _found(self, name: str) -> Manifest | SnapshotDamaged:
        try:
            return self.manifest(name)
        except SnapshotDamaged as damage:
            return damage

    def _first_whole(self, ranking: Iterable[tuple[str, Manifest]], beyond: int) -> Snapshot | None:
        for name, manifest in ranking:
            if manifest.seq <= beyond:
                return None
            try:
                return self.opened(name, manifest)
            except SnapshotDamaged as damage:
                log.warning("snapshots.ignored", snapshot=name, reason=str(damage))
        return None


def manifest_name(data: bytes) -> str:
    return f"manifest-{hashlib.sha256(data).hexdigest()}.json"


def parse_manifest(data: bytes) -> Manifest:
    """Raises SnapshotDamaged for another format."""
    try:
        manifest = _MANIFEST.validate_json(data)
    except ValidationError as error:
        raise SnapshotDamaged("the manifest is of another format") from error
    if manifest.format != FORMAT:
        raise SnapshotDamaged(f"format {manifest.format}")
    return manifest


def dump_manifest(manifest: Manifest) -> bytes:
    return _MANIFEST.dump_json(manifest)


def furthest_first(found: Found, epoch: str, embedder: str) -> list[tuple[str, Manifest]]:
    """Those of this epoch and embedder; of two that are equally far, the newer first."""
    known = [(name, manifest) for name, manifest in found.items() if isinstance(manifest, Manifest)]
    mine = [(name, manifest) for name, manifest in known if why_foreign(manifest, epoch, embedder) is None]
    return sorted(mine, key=lambda pair: (pair[1].seq, pair[0]), reverse=True)


def reached(found: Found, epoch: str, embedder: str) -> LogPosition | None:
    """How far the furthest of this epoch and embedder goes."""
    return next((manifest.position for _, manifest in furthest_first(found, epoch, embedder)), None)


def spared(found: Found, written: str, like: Manifest) -> set[str]:
    """The names of those that stay after this one was written: it, the furthest like it, and a few of the rest.

    The rest are of other epochs, embedders or formats. If this writer is late, the newest of those is what the others
    need, or the furthest like that; if the newest one's clock was fast, the newest of those that are not named later
    than this one; and if two embedders share an epoch, the newest of that.
    """
    alike = [name for name, _ in furthest_first(found, like.epoch, like.embedder)]
    rest = sorted(found.keys() - {written, *alike})
    earlier = [name for name in rest if name <= written]
    beside = [name for name in rest if _is_of(found[name], like.epoch)]
    needed = (_furthest_like(names[-1], found) for names in (rest, earlier, beside) if names)
    return {written, *alike[:KEPT], *needed}


def _is_of(manifest: Manifest | SnapshotDamaged, epoch: str) -> bool:
    return isinstance(manifest, Manifest) and manifest.epoch == epoch


def _furthest_like(name: str, found: Found) -> str:
    manifest = found[name]
    if isinstance(manifest, SnapshotDamaged):
        return name
    return furthest_first(found, manifest.epoch, manifest.embedder)[0][0]


def why_foreign(manifest: Manifest, epoch: str, embedder: str) -> str | None:
    """Why the snapshot is of no use here, if it is not."""
    if manifest.epoch != epoch:
        return f"of epoch {manifest.epoch}"
    return None if manifest.embedder == embedder else f"keys of embedder {manifest.embedder}"


def _log_useless(found: Found, epoch: str, embedder: str) -> None:
    for name, manifest in found.items():
        if isinstance(manifest, SnapshotDamaged):
            log.warning("snapshots.ignored", snapshot=name, reason=str(manifest))
        elif foreign := why_foreign(manifest, epoch, embedder):
            log.info("snapshots.ignored", snapshot=name, reason=foreign)
