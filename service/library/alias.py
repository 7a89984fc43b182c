"""Names that move: name@production points to one vector of the name, and to another after a compare-and-swap."""

from __future__ import annotations

from vlibrary.domain.labels import check_alias
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import ANONYMOUS, Alias
from vlibrary.library.references import resolve


def find_alias(name: str, alias: str, *, catalogue: Catalogue) -> Alias:
    """Where it points. Raises InvalidInput for what can be no alias, AliasNotFound."""
    check_alias(alias)
    return catalogue.aliases.get(name, alias)


def point(
    name: str, alias: str, reference: str, *, expected: int, catalogue: Catalogue, actor: str = ANONYMOUS
) -> Alias:
    """Point the alias to the vector that the reference means now; another alias of the name will do, to promote it.

    expected: the alias's revision as the caller read it; 0 when there shall be none yet. Raises VectorNotFound (also
    for a vector of another name), AliasNotFound (the reference), AliasTaken, StaleRevision, InvalidInput.
    """
    check_alias(alias)
    return catalogue.aliases.set(name, alias, resolve(reference, catalogue).id, expected=expected, actor=actor)


def drop(name: str, alias: str, *, expected: int, catalogue: Catalogue, actor: str = ANONYMOUS) -> None:
    """Forget the alias if it is at this revision. Raises InvalidInput, AliasNotFound, StaleRevision."""
    check_alias(alias)
    catalogue.aliases.drop(name, alias, expected=expected, actor=actor)
