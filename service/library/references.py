"""What a text means that names a vector: its id, name:3, name@alias, or a name alone for its newest version."""

from __future__ import annotations

import re
from contextlib import suppress

from vlibrary.domain.card import NAME_PATTERN, Status, VectorRecord
from vlibrary.domain.errors import InvalidInput, VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.labels import ALIAS_PATTERN, VECTOR_ID_PATTERN
from vlibrary.domain.ports.catalogue import Catalogue

MAX_REFERENCE = 256
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_FORMS = "Name it by its id, as name:3, as name@alias, or as name for the newest version; GET /vectors lists them."


def resolve(reference: str, catalogue: Catalogue) -> VectorRecord:
    """The active vector that is meant. Raises VectorNotFound, AliasNotFound."""
    if re.fullmatch(VECTOR_ID_PATTERN, reference):
        with suppress(VectorNotFound):  # a name of 26 digits looks like an id
            return catalogue.vectors.get(reference)
    name, mark, rest = _parts(reference)
    if mark == "@" and re.fullmatch(ALIAS_PATTERN, rest):
        return _aliased(name, rest, catalogue)
    if mark == ":" and _VERSION.fullmatch(rest):
        return _first(Filter(name=name, version=int(rest)), reference, catalogue)
    if mark:
        raise _not_found(reference)
    return _first(Filter(name=name), reference, catalogue)


def resolve_fixed(reference: str, catalogue: Catalogue, *, status: Status | None = Status.ACTIVE) -> VectorRecord:
    """The vector that an id or name:3 means, which is the same one for ever: what may be changed or deleted by it.

    status: None takes deleted ones too. Raises VectorNotFound, and InvalidInput for a reference that can move on to
    another vector: repeating a request must not hit the next one.
    """
    if re.fullmatch(VECTOR_ID_PATTERN, reference):
        return catalogue.vectors.get(reference, deleted=status is not Status.ACTIVE)
    name, mark, rest = _parts(reference)
    if mark == ":" and _VERSION.fullmatch(rest):
        return _first(Filter(name=name, version=int(rest), status=status), reference, catalogue)
    raise InvalidInput(
        f"{reference!r:.80} may mean another vector tomorrow.", "Name the vector to change by its id, or as name:3."
    )


def _parts(reference: str) -> tuple[str, str, str]:
    """Name, mark and what follows it. Raises VectorNotFound unless the first could be a name."""
    found = re.fullmatch(r"([^:@]+)([:@]?)(.*)", reference)
    if found is None or not re.fullmatch(NAME_PATTERN, found[1]):
        raise _not_found(reference)
    return found[1], found[2], found[3]


def _aliased(name: str, alias: str, catalogue: Catalogue) -> VectorRecord:
    """Asks again when the alias moves on, and its old vector goes, between the two questions."""
    pointed = catalogue.aliases.get(name, alias)
    while True:
        try:
            return catalogue.vectors.get(pointed.vector_id)
        except VectorNotFound:
            now = catalogue.aliases.get(name, alias)
            if now.vector_id == pointed.vector_id:
                raise
            pointed = now


def _first(which: Filter, reference: str, catalogue: Catalogue) -> VectorRecord:
    found = catalogue.vectors.page(which, limit=1).records
    if not found:
        raise _not_found(reference)
    return found[0]


def _not_found(reference: str) -> VectorNotFound:
    return VectorNotFound(f"There is no vector {reference!r:.120}.", _FORMS)
