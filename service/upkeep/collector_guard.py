"""Collector guard: decides whether garbage collection is allowed.

A restored catalogue references fewer objects than its store holds, so after a restoration every object registered since
the backup looks like garbage. Collection is therefore allowed only for a catalogue history that has been cleared: while
the library was still empty, or by an examination that found nothing wrong.

The state is kept as empty marker objects in the artifact store, next to the objects that the collector would delete. A
marker names an entry of the change log, so a catalogue that was restored by other means, or that never belonged to this
store, is detected too: its epoch differs, or its log has another entry or none at that position. An allowed store has
markers of one epoch only, so two libraries that share a store detect each other: a marker of another epoch stops both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice, takewhile

from ulid import ULID

from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable, CollectorPaused
from vlibrary.domain.ports.artifacts import Artifacts, is_artifact_key
from vlibrary.domain.ports.catalogue import Catalogue

PREFIX = "collector/"
_PAUSED = PREFIX + "paused."
# A pause that ends only when the restoration, or a later one, ends.
_RESTORING = PREFIX + "restoring."
# Marker of a library that is not allowed to collect; it stops the collectors of other libraries.
_UNCLEARED = PREFIX + "uncleared."
_EPOCH = "[0-9a-f]{32}"
_MARKER = re.compile(
    rf"{PREFIX}(?:(?:paused|restoring)\.\w+|uncleared\.(?P<uncleared>{_EPOCH})|(?P<epoch>{_EPOCH})\.(?P<seq>\d+)\.\w*)"
)
# A store with at most this many objects can still count as new.
MAX_NEW_OBJECTS = 500
_EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()


def is_marker(key: str) -> bool:
    """Return whether the key is that of a collector marker; temporary files of interrupted writes are not."""
    return _MARKER.fullmatch(key) is not None


def is_restoration_marker(key: str) -> bool:
    """Return whether the marker belongs to a restoration that has not finished."""
    return key.startswith(_RESTORING)


def epoch_of(key: str) -> str | None:
    """Return the catalogue epoch of a marker; None for a pause, which has none."""
    found = _MARKER.fullmatch(key)
    return None if found is None else found["epoch"] or found["uncleared"]


def list_markers(artifacts: Artifacts) -> frozenset[str]:
    """Return the keys of all collector markers in the store."""
    keys = (found.key for found in artifacts.list(after=PREFIX))
    return frozenset(filter(is_marker, takewhile(lambda key: key.startswith(PREFIX), keys)))


def has_marker(artifacts: Artifacts, epoch: str) -> bool:
    """Return whether the store has a marker of the catalogue with this epoch."""
    return epoch in map(epoch_of, list_markers(artifacts))


def check_collection_allowed(catalogue: Catalogue, artifacts: Artifacts) -> LogPosition:
    """Return the catalogue's position. Raises CollectorPaused unless only its history is cleared, or all is new."""
    position = catalogue.change_log.position()
    markers = list_markers(artifacts)
    allowed = _allow_collection(markers, position, catalogue, artifacts)
    if not allowed:
        # Listings carry no checksum; a bit that flipped in transit will not flip again.
        again = list_markers(artifacts)
        markers, allowed = markers | again, _allow_collection(again, position, catalogue, artifacts)
    if not allowed or any(marker.startswith((_PAUSED, _RESTORING)) for marker in markers):
        raise CollectorPaused(
            "Garbage collection is paused: since it was last allowed, the library was restored, moved to this store, "
            "or found another library in it. The catalogue may not reference all objects that are still needed.",
            "Run `vlibrary doctor --deep`; garbage collection is allowed again when it finds nothing wrong.",
        )
    return position


def update_markers(catalogue: Catalogue, artifacts: Artifacts) -> None:
    """Record the position of a library that may collect, and allow collection for a new library in a new store.

    For any other library, only record that it uses this store: that stops the collectors of other libraries.
    """
    for _ in range(2):
        with suppress(CollectorPaused):
            record_progress(artifacts, check_collection_allowed(catalogue, artifacts))
            return
        epoch = catalogue.change_log.position().epoch
        if has_marker(artifacts, epoch):
            return
        with suppress(ArtifactLost):  # deleted by a process that is allowing collection right now
            _put(artifacts, _UNCLEARED + epoch)


def record_progress(artifacts: Artifacts, position: LogPosition) -> None:
    """Record a later position of the allowed history, so that the loss of a shorter log tail is detected.

    Other markers stay: pauses, and the epoch of a restoration that is replacing this one.
    """
    _put_position(artifacts, position)
    for other in list_markers(artifacts):
        found = _MARKER.fullmatch(other)
        if found is None or position.epoch not in (found["epoch"], found["uncleared"]):
            continue
        if found["uncleared"] or int(found["seq"]) < position.seq:
            artifacts.delete(other)


def allow_collection(artifacts: Artifacts, position: LogPosition, *, instead_of: Collection[str]) -> None:
    """Allow collection for catalogues whose history contains this position.

    instead_of: the markers listed before the library was examined. Later ones, such as a new pause, stay.
    """
    marker = _put_position(artifacts, position)
    for other in set(instead_of) - {marker}:
        artifacts.delete(other)


def pause_collection(artifacts: Artifacts) -> None:
    """Forbid collection for every catalogue."""
    _put(artifacts, f"{_PAUSED}{ULID()}")


@contextmanager
def pausing_for_restoration(artifacts: Artifacts) -> Iterator[None]:
    """Forbid collection during the block, and afterwards until an examination finds nothing wrong.

    Examinations that start earlier do not count. If the process is killed, the pause lasts until a later restoration
    finishes.
    """
    started = [*filter(is_restoration_marker, list_markers(artifacts)), f"{_RESTORING}{ULID()}"]
    _put(artifacts, started[-1])
    try:
        yield
    except BaseException:
        with suppress(ArtifactsUnavailable):
            _end_restorations(artifacts, started)
        raise
    _end_restorations(artifacts, started)


def _end_restorations(artifacts: Artifacts, markers: Iterable[str]) -> None:
    pause_collection(artifacts)
    for marker in markers:
        artifacts.delete(marker)


def _put_position(artifacts: Artifacts, position: LogPosition) -> str:
    marker = f"{PREFIX}{position.epoch}.{position.seq}.{position.token}"
    # ArtifactLost: deleted at once by a process that has just recorded a later position, which serves as well.
    with suppress(ArtifactLost):
        _put(artifacts, marker)
    return marker


def _put(artifacts: Artifacts, marker: str) -> None:
    artifacts.put(marker, b"", _EMPTY_SHA256)


def _allow_collection(markers: Collection[str], now: LogPosition, catalogue: Catalogue, artifacts: Artifacts) -> bool:
    """Return whether the markers clear the catalogue's history and no other, or everything is new."""
    if {epoch_of(marker) for marker in markers} - {None, now.epoch}:
        return False
    prefix = f"{PREFIX}{now.epoch}."
    own = [marker.removeprefix(prefix).split(".") for marker in markers if marker.startswith(prefix)]
    if own:  # the change log must still have the entries that the markers name
        read = catalogue.change_log.read
        return all(seq == "0" or [one.token for one in read(int(seq) - 1, limit=1)] == [token] for seq, token in own)
    # Without a marker of this epoch, the log must be empty: a damaged listing may have hidden a marker and a pause.
    return (now.seq == 0 or _UNCLEARED + now.epoch in markers) and _is_store_new(catalogue, artifacts)


def _is_store_new(catalogue: Catalogue, artifacts: Artifacts) -> bool:
    """Return whether the store is empty, or holds a few artifacts that the catalogue references.

    A library can have registered some before its first marker, if the store was unavailable when its service started.
    """
    keys = list(islice(filter(is_artifact_key, (found.key for found in artifacts.list())), MAX_NEW_OBJECTS + 1))
    return len(keys) <= MAX_NEW_OBJECTS and catalogue.registrations.find_referenced(keys) == set(keys)
