"""What every task index does alike: which changes are news, which keys can be compared, how hits are ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.domain.ports import Change, Hit, IndexGap, Position
from service.domain.query import EmbedderSpec


def follow(position: Position | None, changes: Sequence[Change]) -> tuple[Position, list[Change]]:
    """The position after these changes, and those among them that are new. Raises IndexGap when one is missing."""
    if position is None:
        raise IndexGap("The index has no position yet: reset it first.")
    fresh = [change for change in changes if change.seq > position.seq]
    for expected, change in enumerate(fresh, start=position.seq + 1):
        if change.seq != expected:
            raise IndexGap(f"Change {expected} is missing before {change.seq}.")
    return Position(position.epoch, position.seq + len(fresh)), fresh


def comparable(change: Change, spec: EmbedderSpec) -> bool:
    """Whether the change's keys live in this embedder's space; unnamed ones are the service's own."""
    return change.embedder is None or change.embedder == spec.fingerprint


def best_hits(scored: Iterable[tuple[str, float]], k: int) -> list[Hit]:
    """The k best vectors of (vector id, score of one of its keys), best first, ties by id."""
    best: dict[str, float] = {}
    for vector_id, score in scored:
        best[vector_id] = max(score, best.get(vector_id, score))
    ranked = sorted(best.items(), key=lambda item: (-item[1], item[0]))
    return [Hit(vector_id, score) for vector_id, score in ranked[: max(k, 0)]]
