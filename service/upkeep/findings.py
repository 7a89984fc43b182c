"""Findings of an examination: what is wrong in the library, and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """WRONG: an invariant of the library is violated. WASTE: nothing is lost; garbage collection removes it."""

    WRONG = "wrong"
    WASTE = "waste"


@dataclass(frozen=True)
class Finding:
    """kind: machine-readable, such as object-missing. subject: the vector, object, alias ... in question."""

    kind: str
    level: Level
    subject: str
    detail: str
    cure: str


@dataclass(frozen=True)
class Progress:
    """part: what is being examined. done: how many items of it.

    cursor: where to resume an interrupted examination; None from a pass that can only start over.
    """

    part: str
    done: int
    cursor: str | None = None


Report = Iterator[Finding | Progress]


def wrong(kind: str, subject: str, detail: str, cure: str) -> Finding:
    return Finding(kind, Level.WRONG, subject, detail, cure)


def waste(kind: str, subject: str, detail: str) -> Finding:
    return Finding(kind, Level.WASTE, subject, detail, "Run `vlibrary gc` to remove it.")
