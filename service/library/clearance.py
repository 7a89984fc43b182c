"""Whether the collector may work: a restored catalogue knows fewer objects than its store holds.

What a backup does not know is unreferenced, though somebody may still want it. So the collector works only on a
catalogue whose epoch was cleared for it: by its first run, and after a restoration by an examination that found nothing
wrong. The mark lies in the artifact store, beside what the collector would remove. So a catalogue that was restored by
other means than ours is noticed as well: its epoch is a new one.
"""

from __future__ import annotations

import hashlib
import re
from itertools import takewhile

from service.domain.errors import CollectorPaused
from service.domain.ports import Artifacts

PREFIX = "collector/"
_PAUSED = "paused"  # an epoch that no catalogue has
_MARK = re.compile(f"{PREFIX}([0-9a-f]{{32}}|{_PAUSED})")
_EMPTY = hashlib.sha256(b"").hexdigest()


def is_mark(key: str) -> bool:
    """Whether the object is such a mark, and so no artifact; a draft of one that a killed process left is neither."""
    return _MARK.fullmatch(key) is not None


def check_cleared(artifacts: Artifacts, epoch: str) -> None:
    """Raises CollectorPaused unless this epoch was cleared, or none ever was."""
    known = _marks(artifacts)
    if PREFIX + _PAUSED in known or (known and PREFIX + epoch not in known):
        raise CollectorPaused(
            "The library was restored since the collector last ran, and may not know objects that are still wanted.",
            "Run `vlibrary doctor --deep`; when it finds nothing wrong, the collector may work again.",
        )


def clear(artifacts: Artifacts, epoch: str) -> None:
    """Let the collector work on this epoch, and on no other."""
    mark = PREFIX + epoch
    artifacts.put(mark, b"", _EMPTY)
    for other in _marks(artifacts):
        if other != mark:
            artifacts.delete(other)


def pause(artifacts: Artifacts) -> None:
    """Let the collector work on no epoch."""
    clear(artifacts, _PAUSED)


def _marks(artifacts: Artifacts) -> list[str]:
    keys = (found.key for found in artifacts.list(after=PREFIX))
    return list(filter(is_mark, takewhile(lambda key: key.startswith(PREFIX), keys)))
