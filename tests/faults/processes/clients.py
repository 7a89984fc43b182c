"""A client of a cycle: sends random requests, one at a time, about vectors that no other client changes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from http import HTTPStatus

from tests.faults.checks.ledger import Entry, Ledger, Pointer, State, attempt
from tests.faults.processes.api_process import Door
from vlibrary.client import ServiceError

NAMES = ("hues", "forms", "sums")
MOST_MATCHES = 100
NEAR = 0.999
# More than the longest deadline of a registration.
GRACES_S = (0.3, 1.0)


class Actor:
    """One client, across all processes of a cycle. name: unique in the cycle.

    purged_s: how long its collectors keep the objects of purged vectors.
    """

    purged_s = 0.0

    def __init__(self, name: str, rng: random.Random, ledger: Ledger) -> None:
        self._name = name
        self._rng = rng
        self._ledger = ledger
        self._doors: Sequence[Door] = ()
        self._entries: list[Entry] = []
        self._pointers: list[Pointer] = []

    def work(self, doors: Sequence[Door], acts: int) -> None:
        """Send this many random requests, or fewer if the service dies. doors: the replicas to choose from."""
        self._doors = doors
        choices: dict[Callable[[], None], int] = {
            self.register: 8,
            self.repeat: 2,
            self.delete: 4,
            self.restore: 2,
            self.purge: 1,
            self.move_alias: 2,
            self.drop_alias: 1,
            self.retrieve: 4,
            self.download: 2,
            self.save_snapshot: 1,
            self.collect: 1,
        }
        for _ in range(acts):
            act = self._rng.choices(list(choices), list(choices.values()))[0]
            try:
                act()
            except ServiceError as error:
                if error.status == 0 and len(self._doors) == 1:
                    return
                self._judge(act.__name__, error)

    def register(self) -> None:
        number = len(self._entries)
        seed = self._rng.randrange(2**31)
        entry = Entry(f"{self._name}-{number}", self._rng.choice(NAMES), seed)
        self._entries.append(entry)
        self._ledger.entries.append(entry)
        register(self._door, entry)

    def repeat(self) -> None:
        """Repeat a registration under its key, as a client does that got no response."""
        entry = self._one(State.ABSENT, State.ACTIVE, State.DELETED)
        if entry is not None:
            register(self._door, entry, self._ledger)

    def delete(self) -> None:
        entry = self._one(State.ACTIVE)
        if entry is not None and self._ledger.may_delete(entry):
            with attempt(entry.possible, State.DELETED):
                door = self._door
                door.delete_vector(_id(entry), revision=door.get_vector(_id(entry)).revision)

    def restore(self) -> None:
        entry = self._one(State.DELETED)
        if entry is not None:
            with attempt(entry.possible, State.ACTIVE):
                self._door.restore_vector(_id(entry))

    def purge(self) -> None:
        entry = self._one(State.DELETED)
        if entry is not None:
            with attempt(entry.possible, State.PURGED):
                self._door.purge_vector(_id(entry))

    def move_alias(self) -> None:
        entry = self._one(State.ACTIVE)
        if entry is None:
            return
        pointer = self._pointer(entry.name)
        door = self._door
        revision = _revision(door, pointer)
        with attempt(pointer.possible, entry.vector_id):
            door.set_alias(pointer.name, pointer.alias, _id(entry), revision=revision)

    def drop_alias(self) -> None:
        pointers = [pointer for pointer in self._pointers if None not in pointer.possible]
        if pointers:
            pointer = self._rng.choice(pointers)
            door = self._door
            revision = _revision(door, pointer)
            if revision is None:
                self._ledger.expect(False, f"{pointer} is not there")
                return
            with attempt(pointer.possible, None):
                door.delete_alias(pointer.name, pointer.alias, revision)

    def retrieve(self) -> None:
        """Check that every replica immediately finds acknowledged vectors, and no deleted ones."""
        if not self._entries:
            return
        asked = self._rng.choice(self._entries)
        matches = {match.id: match for match in self._door.retrieve(asked.description, k=MOST_MATCHES)}
        for entry in self._entries:
            found = entry.vector_id in matches
            if entry.is_certainly(State.ACTIVE):
                self._ledger.expect(found, f"{entry} was not found")
            elif State.ACTIVE not in entry.possible:
                self._ledger.expect(not found, f"{entry} was found")
        if asked.is_certainly(State.ACTIVE) and asked.vector_id in matches:
            self._ledger.expect(matches[asked.vector_id].score > NEAR, f"{asked} has another vector's key")

    def download(self) -> None:
        entry = self._one(State.ACTIVE)
        if entry is not None:
            same = self._door.get_artifact(_id(entry)) == entry.artifact
            self._ledger.expect(same, f"{entry} came with other bytes")

    def save_snapshot(self) -> None:
        self._door.save_snapshot()

    def collect(self) -> None:
        self._door.collect(self._rng.choice(GRACES_S), self.purged_s)

    @property
    def _door(self) -> Door:
        return self._rng.choice(self._doors)

    def _one(self, *states: State) -> Entry | None:
        """Return a random own entry that is certainly in one of these states."""
        fitting = [entry for entry in self._entries if entry.is_certainly(*states)]
        return self._rng.choice(fitting) if fitting else None

    def _pointer(self, name: str) -> Pointer:
        for pointer in self._pointers:
            if pointer.name == name:
                return pointer
        pointer = Pointer(name, f"of-{self._name}")
        self._pointers.append(pointer)
        self._ledger.pointers.append(pointer)
        return pointer

    def _judge(self, act: str, error: ServiceError) -> None:
        """Judge a response. Since no other client changes the vector, only an early repeat may be refused."""
        early = act == "repeat" and error.status == HTTPStatus.CONFLICT
        broken = error.status == HTTPStatus.INTERNAL_SERVER_ERROR
        fine = early or error.status == 0 or (error.status >= HTTPStatus.INTERNAL_SERVER_ERROR and not broken)
        self._ledger.expect(fine, f"{self._name}: {act} was answered with {error.status}: {error}")


def register(door: Door, entry: Entry, ledger: Ledger | None = None) -> None:
    """Register the entry, perhaps again. Record a violation if a repeat creates another vector."""
    if entry.is_certainly(State.DELETED):
        becoming = State.DELETED
    elif entry.is_certainly(State.ABSENT, State.ACTIVE):
        becoming = State.ACTIVE
    else:
        return
    with attempt(entry.possible, becoming):
        made = door.register(entry.artifact, entry.card, idempotency_key=entry.key).id
    if ledger is not None:
        ledger.expect(entry.vector_id in (None, made), f"{entry} became a second vector, {made}")
    entry.vector_id = made


def register_until_known(door: Door, entry: Entry, ledger: Ledger) -> bool:
    """Repeat once; return whether the outcome is known, which it is not before the first attempt's deadline."""
    with suppress(ServiceError):
        register(door, entry, ledger)
    return len(entry.possible) == 1


def _revision(door: Door, pointer: Pointer) -> int | None:
    """Return the alias's revision; None if it does not exist."""
    return next((one.revision for one in door.list_aliases(pointer.name) if one.alias == pointer.alias), None)


def _id(entry: Entry) -> str:
    assert entry.vector_id is not None
    return entry.vector_id
