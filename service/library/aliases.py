"""Aliases: name@production points to one vector of the name, and moves to another by compare-and-swap."""

from __future__ import annotations

from collections.abc import Sequence

from vlibrary.domain.labels import check_alias
from vlibrary.domain.ports.aliases import Aliases
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import ANONYMOUS, Alias
from vlibrary.library.references import resolve


def list_aliases(aliases: Aliases, name: str | None = None) -> Sequence[Alias]:
    """Return all aliases of the name, or of every name, ordered by name and alias."""
    return aliases.list(name)


def get_alias(name: str, alias: str, aliases: Aliases) -> Alias:
    """Return the alias. Raises InvalidInput for an invalid alias, AliasNotFound."""
    check_alias(alias)
    return aliases.get(name, alias)


def set_alias(
    name: str, alias: str, reference: str, catalogue: Catalogue, *, expected: int, actor: str = ANONYMOUS
) -> Alias:
    """Point the alias to the vector that the reference resolves to, which may be another alias of the name.

    expected: the alias's current revision, 0 to create it. Raises InvalidInput, VectorNotFound (also for a vector of
    another name), AliasNotFound (the reference), AliasTaken, StaleRevision.
    """
    check_alias(alias)
    return catalogue.aliases.set(name, alias, resolve(reference, catalogue).id, expected=expected, actor=actor)


def drop_alias(name: str, alias: str, aliases: Aliases, *, expected: int, actor: str = ANONYMOUS) -> None:
    """Remove the alias if its revision is the expected one. Raises InvalidInput, AliasNotFound, StaleRevision."""
    check_alias(alias)
    aliases.drop(name, alias, expected=expected, actor=actor)
