"""Whether the collector may work: a restored catalogue knows fewer objects than its store holds.

What a backup does not know is unreferenced, though somebody may still want it. So the collector works only on a
catalogue whose history was cleared for it: by its first run, and after a restoration by an examination that found
nothing wrong. The mark lies in the artifact store, beside what the collector would remove, and names a place in the
change log. So a catalogue that was restored by other means than ours is noticed as well: its epoch is a new one, or
that place holds another entry, or none.
"""

from __future__ import annotations

import hashlib
import re
from itertools import takewhile

from service.domain.errors import CollectorPaused
from service.domain.ports import Artifacts, Catalogue, Position

PREFIX = "collector/"
_PAUSED = PREFIX + "paused"
_MARK = re.compile(PREFIX + r"(?:paused|(?P<epoch>[0-9a-f]{32})\.(?P<seq>\d+)\.(?P<mark>\w*))")
_EMPTY = hashlib.sha256(b"").hexdigest()


def is_mark(key: str) -> bool:
    """Whether the object is such a mark, and so no artifact; a draft of one that a killed process left is neither."""
    return _MARK.fullmatch(key) is not None


def check_cleared(catalogue: Catalogue, artifacts: Artifacts) -> Position:
    """The catalogue's position. Raises CollectorPaused unless its history was cleared, or none ever was."""
    position = catalogue.position()
    known = _marks(artifacts)
    if _PAUSED in known or (known and not any(_is_of(mark, catalogue, position) for mark in known)):
        raise CollectorPaused(
            "The library was restored since the collector last ran, and may not know objects that are still wanted.",
            "Run `vlibrary doctor --deep`; when it finds nothing wrong, the collector may work again.",
        )
    return position


def clear(artifacts: Artifacts, position: Position) -> None:
    """Let the collector work on catalogues with this place in their history, and on no other."""
    _leave_only(artifacts, f"{PREFIX}{position.epoch}.{position.seq}.{position.mark}")


def pause(artifacts: Artifacts) -> None:
    """Let the collector work on no catalogue."""
    _leave_only(artifacts, _PAUSED)


def _is_of(mark: str, catalogue: Catalogue, position: Position) -> bool:
    found = _MARK.fullmatch(mark)
    if found is None or found["epoch"] != position.epoch:
        return False
    seq = int(found["seq"])
    return seq == 0 or [entry.mark for entry in catalogue.changes(seq - 1, limit=1)] == [found["mark"]]


def _leave_only(artifacts: Artifacts, mark: str) -> None:
    artifacts.put(mark, b"", _EMPTY)
    for other in _marks(artifacts):
        if other != mark:
            artifacts.delete(other)


def _marks(artifacts: Artifacts) -> list[str]:
    keys = (found.key for found in artifacts.list(after=PREFIX))
    return list(filter(is_mark, takewhile(lambda key: key.startswith(PREFIX), keys)))
