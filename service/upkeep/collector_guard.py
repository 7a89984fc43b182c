"""Whether the collector may work: a restored catalogue knows fewer objects than its store holds.

What a backup does not know is unreferenced, though somebody may still want it. So the collector works only on a
catalogue whose history was cleared for it: while the library was still empty, and after a restoration by an examination
that found nothing wrong. The mark lies in the artifact store, beside what the collector would remove, and names a place
in the change log. So a catalogue that was restored by other means than ours, or one that never belonged to this store,
is noticed as well: its epoch is another one, or that place holds another entry, or none. And since a cleared store has
marks of one epoch only, two libraries that share a store notice each other: a mark of another epoch stops both.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice, takewhile

from ulid import ULID

from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable, CollectorPaused
from vlibrary.domain.objects import is_artifact
from vlibrary.domain.ports import Artifacts, Catalogue, Position

PREFIX = "collector/"
_PAUSED = PREFIX + "paused."
# A pause that only the end of a restoration ends.
_RESTORING = PREFIX + "restoring."
# Of a library that works here though it was not cleared, so that no other one's collector removes what it stores.
_UNCLEARED = PREFIX + "uncleared."
_EPOCH = "[0-9a-f]{32}"
_MARK = re.compile(
    rf"{PREFIX}(?:(?:paused|restoring)\.\w+|uncleared\.(?P<uncleared>{_EPOCH})|(?P<epoch>{_EPOCH})\.(?P<seq>\d+)\.\w*)"
)
FEW = 500
_EMPTY = hashlib.sha256(b"").hexdigest()


def is_mark(key: str) -> bool:
    """Whether the object is such a mark, and so no artifact; a draft of one that a killed process left is neither."""
    return _MARK.fullmatch(key) is not None


def is_restoring(mark: str) -> bool:
    """Whether the mark is that of a restoration which has not come to its end."""
    return mark.startswith(_RESTORING)


def epoch_of(mark: str) -> str | None:
    """Of the catalogue that the mark belongs to; None for a pause, which belongs to none."""
    found = _MARK.fullmatch(mark)
    return None if found is None else found["epoch"] or found["uncleared"]


def marks(artifacts: Artifacts) -> frozenset[str]:
    """The keys of all that there are."""
    keys = (found.key for found in artifacts.list(after=PREFIX))
    return frozenset(filter(is_mark, takewhile(lambda key: key.startswith(PREFIX), keys)))


def has_mark(artifacts: Artifacts, epoch: str) -> bool:
    """Whether a mark tells that the catalogue with this epoch uses the store."""
    return epoch in map(epoch_of, marks(artifacts))


def check_cleared(catalogue: Catalogue, artifacts: Artifacts) -> Position:
    """The catalogue's position. Raises CollectorPaused unless its history alone was cleared, or all is new."""
    position = catalogue.position()
    known = marks(artifacts)
    cleared = _allows(known, position, catalogue, artifacts)
    if not cleared:
        # Nothing protects a listing on its way: a bit that was flipped there is another one the next time, or none.
        again = marks(artifacts)
        known, cleared = known | again, _allows(again, position, catalogue, artifacts)
    if not cleared or any(mark.startswith((_PAUSED, _RESTORING)) for mark in known):
        raise CollectorPaused(
            "The library was restored, or met this store or another library in it, since the collector last was "
            "allowed to work. It may not know all objects that are still wanted.",
            "Run `vlibrary doctor --deep`; when it finds nothing wrong, the collector may work again.",
        )
    return position


def begin(catalogue: Catalogue, artifacts: Artifacts) -> None:
    """Clear a library that is new to a new store, and note how far one has come that was cleared.

    Any other one leaves a mark only that it is here: from then on, no other library's collector works on this store.
    """
    for _ in range(2):
        with suppress(CollectorPaused):
            note_progress(artifacts, check_cleared(catalogue, artifacts))
            return
        epoch = catalogue.position().epoch
        if has_mark(artifacts, epoch):
            return
        with suppress(ArtifactLost):  # to somebody who is just clearing the library
            _put(artifacts, _UNCLEARED + epoch)


def note_progress(artifacts: Artifacts, position: Position) -> None:
    """Remember a later place of the history that was cleared, so that the loss of a shorter end is noticed.

    Whatever else is marked stays: a pause, or the history that a restoration is just putting in this one's place.
    """
    _put_mark(artifacts, position)
    for other in marks(artifacts):
        found = _MARK.fullmatch(other)
        if found is None or position.epoch not in (found["epoch"], found["uncleared"]):
            continue
        if found["uncleared"] or int(found["seq"]) < position.seq:
            artifacts.delete(other)


def clear(artifacts: Artifacts, position: Position, *, instead_of: Collection[str]) -> None:
    """Let the collector work on catalogues with this place in their history.

    instead_of: the marks that there were before the library was found to be sound; what was marked since stays, such
    as a pause.
    """
    mark = _put_mark(artifacts, position)
    for other in set(instead_of) - {mark}:
        artifacts.delete(other)


def pause(artifacts: Artifacts) -> None:
    """Let the collector work on no catalogue."""
    _put(artifacts, f"{_PAUSED}{ULID()}")


@contextmanager
def restoring(artifacts: Artifacts) -> Iterator[None]:
    """Let the collector work on no catalogue meanwhile, nor afterwards before an examination finds nothing wrong.

    An examination that begins earlier does not count; so it is for a restoration that is killed, until one comes to its
    end.
    """
    begun = [*filter(is_restoring, marks(artifacts)), f"{_RESTORING}{ULID()}"]
    _put(artifacts, begun[-1])
    try:
        yield
    except BaseException:
        with suppress(ArtifactsUnavailable):
            _end(artifacts, begun)
        raise
    _end(artifacts, begun)


def _end(artifacts: Artifacts, begun: Iterable[str]) -> None:
    pause(artifacts)
    for mark in begun:
        artifacts.delete(mark)


def _put_mark(artifacts: Artifacts, position: Position) -> str:
    mark = f"{PREFIX}{position.epoch}.{position.seq}.{position.mark}"
    # It may be lost while it is made: to somebody who has just noted a later place, and makes do with that.
    with suppress(ArtifactLost):
        _put(artifacts, mark)
    return mark


def _put(artifacts: Artifacts, mark: str) -> None:
    artifacts.put(mark, b"", _EMPTY)


def _allows(known: Collection[str], position: Position, catalogue: Catalogue, artifacts: Artifacts) -> bool:
    """Whether these marks clear the catalogue's history and no other one, or none is needed."""
    if {epoch_of(mark) for mark in known} - {None, position.epoch}:
        return False
    ours = [mark for mark in known if mark.startswith(f"{PREFIX}{position.epoch}.")]
    if ours:
        return all(_is_true(mark, catalogue) for mark in ours)
    # Not without any mark of ours, which a damaged listing may have hidden, and a pause with it.
    return (position.seq == 0 or _UNCLEARED + position.epoch in known) and _knows_all(catalogue, artifacts)


def _is_true(mark: str, catalogue: Catalogue) -> bool:
    """Whether the log still has the entry that the mark names."""
    _, seq, entry_mark = mark.removeprefix(PREFIX).split(".")
    return seq == "0" or [entry.mark for entry in catalogue.changes(int(seq) - 1, limit=1)] == [entry_mark]


def _knows_all(catalogue: Catalogue, artifacts: Artifacts) -> bool:
    """Whether the store is as good as new: nothing is in it, or a few vectors only, all of them the catalogue's.

    A library may have registered some before its first mark, if the store was away when its service started.
    """
    keys = list(islice(filter(is_artifact, (found.key for found in artifacts.list())), FEW + 1))
    return len(keys) <= FEW and catalogue.references(keys) == set(keys)
