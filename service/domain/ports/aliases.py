"""The port of aliases, which move by compare-and-swap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vlibrary.domain.registration import ANONYMOUS, Alias


class Aliases(Protocol):
    """Movable pointers from a name to one of its vectors."""

    def get(self, name: str, alias: str) -> Alias:
        """Return the alias. Raises AliasNotFound."""
        ...

    def list(self, name: str | None = None) -> Sequence[Alias]:
        """Return all aliases of the name, or of every name, ordered by name and alias."""
        ...

    def set(self, name: str, alias: str, vector_id: str, *, expected: int, actor: str = ANONYMOUS) -> Alias:
        """Point the alias to an active vector of the name if its revision is the expected one (0: does not exist).

        The alias matches ALIAS_PATTERN, which use cases check. Raises VectorNotFound (also for a vector of another
        name), AliasTaken (expected 0, but it exists) or StaleRevision.
        """
        ...

    def drop(self, name: str, alias: str, *, expected: int, actor: str = ANONYMOUS) -> None:
        """Remove the alias if its revision is the expected one. Raises AliasNotFound, StaleRevision."""
        ...
