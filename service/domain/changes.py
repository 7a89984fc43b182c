"""The change log: its entries, positions in it, and the epochs that tell one history from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vlibrary.domain.card import TaskKey

# The audit action of a new epoch. Its entries identify the collector's markers of earlier epochs as the library's own.
EPOCH_RENEWED = "catalogue.renew_epoch"


class ChangeKind(StrEnum):
    """What happened to a vector.

    After PUBLISHED, RESTORED and REKEYED it can be found by exactly the keys of the entry; after DELETED and PURGED it
    cannot be found.
    """

    PUBLISHED = "published"
    REKEYED = "rekeyed"
    DELETED = "deleted"
    RESTORED = "restored"
    PURGED = "purged"

    @property
    def findable(self) -> bool:
        """Whether the vector can be found after such a change."""
        return self in (ChangeKind.PUBLISHED, ChangeKind.REKEYED, ChangeKind.RESTORED)


@dataclass(frozen=True)
class Change:
    """One entry of the change log.

    model (fingerprint of the base model), keys and embedder (fingerprint of the embedder that made them) are set for
    findable kinds, to the vector's current values; they are empty if it has been purged since. registered: for the
    same kinds, the seq of the vector's PUBLISHED entry. token: random, assigned when the entry was written.
    """

    seq: int
    kind: ChangeKind
    vector_id: str
    model: str = ""
    keys: tuple[TaskKey, ...] = ()
    embedder: str | None = None
    token: str = ""
    registered: int = 0


@dataclass(frozen=True)
class LogPosition:
    """A place in the change log. epoch: changes when the catalogue is replaced or restored.

    token: that of the entry with this seq; empty at 0. A different token at the same seq means a different history: the
    database was reset to an earlier state without a new epoch, for example by copying its files back.
    """

    epoch: str
    seq: int
    token: str = ""


def renewal_detail(old: str, seq: int, replaced: Iterable[str] = ()) -> dict[str, Any]:
    """Return the detail of an EPOCH_RENEWED audit entry.

    replaced: epochs of a catalogue that a restore has overwritten, whose own entries are lost with it.
    """
    return {"old": old, "seq": seq, "replaced": sorted(replaced)}


def former_epochs(detail: Mapping[str, Any]) -> frozenset[str]:
    """Return the epochs that ended with this EPOCH_RENEWED entry. Early releases wrote no `replaced`."""
    return frozenset([detail["old"], *detail.get("replaced", ())])
