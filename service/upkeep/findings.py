"""What an examination of the library can find, and what is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """WRONG: the library cannot keep a promise. WASTE: nothing is lost; the collector removes it."""

    WRONG = "wrong"
    WASTE = "waste"


@dataclass(frozen=True)
class Finding:
    """kind: a word for machines, such as object-missing. subject: the vector, object, alias ... that it is about."""

    kind: str
    level: Level
    subject: str
    detail: str
    cure: str


@dataclass(frozen=True)
class Progress:
    """part: what is being examined; done: how many things of it.

    cursor: where to go on when it is broken off now; None from a pass that can only be begun anew.
    """

    part: str
    done: int
    cursor: str | None = None


def wrong(kind: str, subject: str, detail: str, cure: str) -> Finding:
    return Finding(kind, Level.WRONG, subject, detail, cure)


def waste(kind: str, subject: str, detail: str) -> Finding:
    return Finding(kind, Level.WASTE, subject, detail, "`vlibrary gc` removes it.")
