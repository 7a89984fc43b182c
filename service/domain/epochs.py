"""What the audit log tells of a catalogue's earlier epochs, by which the collector's old marks are known as its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

RENEWED = "catalogue.renew_epoch"


def renewal(old: str, seq: int, replaced: Iterable[str] = ()) -> dict[str, Any]:
    """The detail of the entry RENEWED.

    replaced: the epochs of the catalogue in whose place another one was put, whose own entries are lost with it.
    """
    return {"old": old, "seq": seq, "replaced": sorted(replaced)}


def former(detail: Mapping[str, Any]) -> frozenset[str]:
    """The epochs that ended with this entry; one of an earlier release tells of no replaced ones."""
    return frozenset([detail["old"], *detail.get("replaced", ())])
