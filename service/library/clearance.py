"""Whether the collector may work: a restored catalogue knows fewer objects than its store holds.

What a backup does not know is unreferenced, though somebody may still want it. So the collector works only on a
catalogue whose history was cleared for it: while the library was still empty, and after a restoration by an examination
that found nothing wrong. The mark lies in the artifact store, beside what the collector would remove, and names a place
in the change log. So a catalogue that was restored by other means than ours, or one that never belonged to this store,
is noticed as well: its epoch is another one, or that place holds another entry, or none.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from itertools import takewhile

from ulid import ULID

from service.domain.errors import ArtifactLost, CollectorPaused
from service.domain.objects import is_artifact
from service.domain.ports import Artifacts, Catalogue, Position

PREFIX = "collector/"
_PAUSED = PREFIX + "paused."
_MARK = re.compile(PREFIX + r"(?:paused\.\w+|(?P<epoch>[0-9a-f]{32})\.(?P<seq>\d+)\.(?P<mark>\w*))")
_EMPTY = hashlib.sha256(b"").hexdigest()


def is_mark(key: str) -> bool:
    """Whether the object is such a mark, and so no artifact; a draft of one that a killed process left is neither."""
    return _MARK.fullmatch(key) is not None


def marks(artifacts: Artifacts) -> frozenset[str]:
    """The keys of all that there are."""
    keys = (found.key for found in artifacts.list(after=PREFIX))
    return frozenset(filter(is_mark, takewhile(lambda key: key.startswith(PREFIX), keys)))


def check_cleared(catalogue: Catalogue, artifacts: Artifacts) -> Position:
    """The catalogue's position. Raises CollectorPaused unless its history was cleared, or all is empty."""
    position = catalogue.position()
    known = marks(artifacts)
    cleared = _allows(known, position, catalogue, artifacts)
    if not cleared:
        # Nothing protects a listing on its way: a bit that was flipped there is another one the next time, or none.
        again = marks(artifacts)
        known, cleared = known | again, _allows(again, position, catalogue, artifacts)
    if not cleared or any(mark.startswith(_PAUSED) for mark in known):
        raise CollectorPaused(
            "The library was restored, or met this store, since the collector last was allowed to work. It may not "
            "know all objects that are still wanted.",
            "Run `vlibrary doctor --deep`; when it finds nothing wrong, the collector may work again.",
        )
    return position


def begin(catalogue: Catalogue, artifacts: Artifacts) -> None:
    """Clear a library that is still empty, and note how far one has come that was cleared; others are left alone."""
    with suppress(CollectorPaused):
        note_progress(artifacts, check_cleared(catalogue, artifacts))


def note_progress(artifacts: Artifacts, position: Position) -> None:
    """Remember a later place of the history that was cleared, so that the loss of a shorter end is noticed.

    Whatever else is marked stays: a pause, or the history that a restoration is just putting in this one's place.
    """
    _put_mark(artifacts, position)
    for other in marks(artifacts):
        found = _MARK.fullmatch(other)
        if found is not None and found["epoch"] == position.epoch and int(found["seq"]) < position.seq:
            artifacts.delete(other)


def clear(artifacts: Artifacts, position: Position, *, instead_of: Collection[str]) -> None:
    """Let the collector work on catalogues with this place in their history.

    instead_of: the marks that there were before the library was found to be sound; a pause that was made since stays.
    """
    mark = _put_mark(artifacts, position)
    for other in set(instead_of) - {mark}:
        artifacts.delete(other)


def pause(artifacts: Artifacts) -> None:
    """Let the collector work on no catalogue."""
    artifacts.put(f"{_PAUSED}{ULID()}", b"", _EMPTY)


def _put_mark(artifacts: Artifacts, position: Position) -> str:
    mark = f"{PREFIX}{position.epoch}.{position.seq}.{position.mark}"
    # It may be lost while it is made: to somebody who has just noted a later place, and makes do with that.
    with suppress(ArtifactLost):
        artifacts.put(mark, b"", _EMPTY)
    return mark


def _allows(known: Collection[str], position: Position, catalogue: Catalogue, artifacts: Artifacts) -> bool:
    """Whether these marks clear the catalogue's history, or none is needed."""
    ours = [mark for mark in known if mark.startswith(f"{PREFIX}{position.epoch}.")]
    return all(_is_true(mark, catalogue) for mark in ours) if ours else _is_new(position, artifacts)


def _is_true(mark: str, catalogue: Catalogue) -> bool:
    """Whether the log still has the entry that the mark names."""
    _, seq, entry_mark = mark.removeprefix(PREFIX).split(".")
    return seq == "0" or [entry.mark for entry in catalogue.changes(int(seq) - 1, limit=1)] == [entry_mark]


def _is_new(position: Position, artifacts: Artifacts) -> bool:
    return position.seq == 0 and not any(is_artifact(found.key) for found in artifacts.list())
