"""References to vectors: an id, name:3, name@alias, or a name alone for its newest version."""

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
_FORMS = "Use an id, name:3, name@alias, or name for the newest version; GET /vectors lists the vectors."


def resolve(reference: str, catalogue: Catalogue) -> VectorRecord:
    """Return the active vector that the reference names. Raises VectorNotFound, AliasNotFound."""
    if re.fullmatch(VECTOR_ID_PATTERN, reference):
        with suppress(VectorNotFound):  # a name of 26 digits looks like an id
            return catalogue.vectors.get(reference)
    name, separator, rest = _split(reference)
    if separator == "@" and re.fullmatch(ALIAS_PATTERN, rest):
        return _get_by_alias(name, rest, catalogue)
    if separator == ":" and _VERSION.fullmatch(rest):
        return _get_first(Filter(name=name, version=int(rest)), reference, catalogue)
    if separator:
        raise _not_found(reference)
    return _get_first(Filter(name=name), reference, catalogue)


def resolve_fixed(reference: str, catalogue: Catalogue, *, status: Status | None = Status.ACTIVE) -> VectorRecord:
    """Return the vector that an id or name:3 names permanently, so that a repeated write cannot hit another vector.

    status: None accepts deleted vectors too. Raises VectorNotFound, and InvalidInput for a moving reference.
    """
    if re.fullmatch(VECTOR_ID_PATTERN, reference):
        return catalogue.vectors.get(reference, deleted=status is not Status.ACTIVE)
    name, separator, rest = _split(reference)
    if separator == ":" and _VERSION.fullmatch(rest):
        return _get_first(Filter(name=name, version=int(rest), status=status), reference, catalogue)
    raise InvalidInput(f"{reference!r:.80} is a moving reference.", "Use an id or name:version to modify a vector.")


def _split(reference: str) -> tuple[str, str, str]:
    """Return the name, the separator and the rest. Raises VectorNotFound for an invalid name."""
    found = re.fullmatch(r"([^:@]+)([:@]?)(.*)", reference)
    if found is None or not re.fullmatch(NAME_PATTERN, found[1]):
        raise _not_found(reference)
    return found[1], found[2], found[3]


def _get_by_alias(name: str, alias: str, catalogue: Catalogue) -> VectorRecord:
    """Return the alias's vector; retry if the alias moves and its former target is deleted between the two reads."""
    target = catalogue.aliases.get(name, alias)
    while True:
        try:
            return catalogue.vectors.get(target.vector_id)
        except VectorNotFound:
            latest = catalogue.aliases.get(name, alias)
            if latest.vector_id == target.vector_id:
                raise
            target = latest


def _get_first(which: Filter, reference: str, catalogue: Catalogue) -> VectorRecord:
    found = catalogue.vectors.page(which, limit=1).records
    if not found:
        raise _not_found(reference)
    return found[0]


def _not_found(reference: str) -> VectorNotFound:
    return VectorNotFound(f"No vector matches {reference!r:.120}.", _FORMS)
