"""What the clients of a cycle know: what was acknowledged, and what may have happened without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeVar

from tests.support import samples
from tests.support.memory.worker import MODEL
from vlibrary.client import ServiceError

T = TypeVar("T")


class State(StrEnum):
    """What a registration has come to."""

    ABSENT = "absent"
    ACTIVE = "active"
    DELETED = "deleted"
    PURGED = "purged"


@dataclass(eq=False)
class Entry:
    """One registration under a key of its own, by one client who asks one thing at a time.

    seed: of the vector's numbers. possible: the states that fit all answers so far.
    """

    key: str
    name: str
    seed: int
    vector_id: str | None = None
    possible: set[State] = field(default_factory=lambda: {State.ABSENT})

    @property
    def description(self) -> str:
        """Nobody else's, so that the vector can be told by it."""
        return f"what is {self.key} {self.seed * 7919 % 99_991}"

    @property
    def artifact(self) -> bytes:
        return samples.artifact(MODEL, self.seed)

    @property
    def card(self) -> str:
        return samples.card(self.name, self.description)

    def become_active(self) -> None:
        """It was acknowledged."""
        self.possible = {State.ACTIVE}

    def surely(self, *states: State) -> bool:
        """Whether it is in one of these, for all that can have happened."""
        return self.possible <= set(states)


@dataclass(eq=False)
class Pointer:
    """An alias that one client moves. possible: the vector ids that it may point to; None: there is no alias."""

    name: str
    alias: str
    possible: set[str | None] = field(default_factory=lambda: {None})


@dataclass(frozen=True)
class Known:
    """The possible states at one moment, by key, and by name and alias."""

    entries: dict[str, set[State]]
    pointers: dict[tuple[str, str], set[str | None]]


@dataclass
class Ledger:
    """All that the clients of a cycle know, and what they saw that must not be. Threads share it."""

    entries: list[Entry] = field(default_factory=list)
    pointers: list[Pointer] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def expect(self, holds: bool, violation: str) -> None:
        """Write the violation down unless it holds."""
        if not holds:
            self.violations.append(violation)

    def known(self) -> Known:
        """What is known of everything now."""
        return Known(
            {entry.key: set(entry.possible) for entry in self.entries},
            {(pointer.name, pointer.alias): set(pointer.possible) for pointer in self.pointers},
        )

    def forget_all_but(self, known: Known) -> None:
        """The library was put back to what it was then: nothing that came later has happened."""
        for entry in self.entries:
            entry.possible = set(known.entries.get(entry.key, {State.ABSENT}))
        for pointer in self.pointers:
            pointer.possible = set(known.pointers.get((pointer.name, pointer.alias), {None}))

    def may_delete(self, entry: Entry) -> bool:
        """Whether no alias can point to the entry's vector."""
        return all(entry.vector_id not in pointer.possible for pointer in self.pointers)


@contextmanager
def attempt(possible: set[T], becoming: T) -> Iterator[None]:
    """A request that would change the state to this one; the set then holds what may be true after its answer."""
    before = set(possible)
    possible.add(becoming)
    try:
        yield
    except ServiceError as error:
        if refused(error):
            possible -= {becoming} - before
        raise
    possible &= {becoming}


def refused(error: ServiceError) -> bool:
    """Whether surely nothing has happened. Without an answer, or with one of the 500s, nobody knows."""
    return 400 <= error.status < 500
