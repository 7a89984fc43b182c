"""Ledger of a cycle: what was acknowledged to its clients, and what may have happened without a response."""

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
    """State of a registration."""

    ABSENT = "absent"
    ACTIVE = "active"
    DELETED = "deleted"
    PURGED = "purged"


@dataclass(eq=False)
class Entry:
    """One registration under its own idempotency key, by a client that sends one request at a time.

    seed: of the vector's numbers. possible: the states that agree with all responses so far.
    """

    key: str
    name: str
    seed: int
    vector_id: str | None = None
    possible: set[State] = field(default_factory=lambda: {State.ABSENT})

    @property
    def description(self) -> str:
        """A unique description, which identifies the vector."""
        return f"what is {self.key} {self.seed * 7919 % 99_991}"

    @property
    def artifact(self) -> bytes:
        return samples.artifact(MODEL, self.seed)

    @property
    def card(self) -> str:
        return samples.card(self.name, self.description)

    def become_active(self) -> None:
        """Record that it was acknowledged."""
        self.possible = {State.ACTIVE}

    def is_certainly(self, *states: State) -> bool:
        """Return whether it is in one of these states, whatever happened."""
        return self.possible <= set(states)


@dataclass(eq=False)
class Pointer:
    """An alias that one client moves. possible: the vector ids that it may refer to; None: it does not exist."""

    name: str
    alias: str
    possible: set[str | None] = field(default_factory=lambda: {None})


@dataclass(frozen=True)
class Known:
    """The possible states at one time, by idempotency key, and by name and alias."""

    entries: dict[str, set[State]]
    pointers: dict[tuple[str, str], set[str | None]]


@dataclass
class Ledger:
    """What the clients of a cycle know, and the violations that they observed. Thread-safe."""

    entries: list[Entry] = field(default_factory=list)
    pointers: list[Pointer] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def expect(self, holds: bool, violation: str) -> None:
        """Record the violation unless the condition holds."""
        if not holds:
            self.violations.append(violation)

    def known(self) -> Known:
        """Return what is known now."""
        return Known(
            {entry.key: set(entry.possible) for entry in self.entries},
            {(pointer.name, pointer.alias): set(pointer.possible) for pointer in self.pointers},
        )

    def reset_to(self, known: Known) -> None:
        """Forget everything later than this state, to which the library was restored."""
        for entry in self.entries:
            entry.possible = set(known.entries.get(entry.key, {State.ABSENT}))
        for pointer in self.pointers:
            pointer.possible = set(known.pointers.get((pointer.name, pointer.alias), {None}))

    def may_delete(self, entry: Entry) -> bool:
        """Return whether no alias can refer to the entry's vector."""
        return all(entry.vector_id not in pointer.possible for pointer in self.pointers)


@contextmanager
def attempt(possible: set[T], becoming: T) -> Iterator[None]:
    """Track a request that would change the state to this one; the set then holds the states possible afterwards."""
    before = set(possible)
    possible.add(becoming)
    try:
        yield
    except ServiceError as error:
        if had_no_effect(error):
            possible -= {becoming} - before
        raise
    possible &= {becoming}


def had_no_effect(error: ServiceError) -> bool:
    """Return whether the request certainly had no effect. That is unknown without a response, or with a 5xx."""
    return 400 <= error.status < 500
