"""The index of one model: a large main segment, and a delta of small segments with newer keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vlibrary.adapters.index.build import DEAD_SHARE, IndexLimits
from vlibrary.adapters.index.segment import Members, Segment
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.vector import Array

DELTA_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class ModelIndex:
    """The segments of one model.

    main: built in the background. sealed: segments that are being merged into the next main. delta: newer segments,
    longest first.
    """

    main: Segment | None = None
    sealed: tuple[Segment, ...] = ()
    delta: tuple[Segment, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        return (*self.merging, *self.delta)

    @property
    def merging(self) -> tuple[Segment, ...]:
        """The segments that a running merge reads."""
        return (() if self.main is None else (self.main,)) + self.sealed

    def rows_of(self, vector_id: str) -> Array:
        """Return all rows of a vector that a search found in this index, [n, d]."""
        found = (segment.rows_of(vector_id) for segment in self.segments)
        return next(rows for rows in found if rows is not None)

    def add(self, segment: Segment, limits: IndexLimits) -> ModelIndex:
        return replace(self, delta=_append(self.delta, segment, limits.merged))

    def without(self, vector_ids: Iterable[str], limits: IndexLimits) -> ModelIndex:
        dead = set(vector_ids)
        return ModelIndex(
            main=None if self.main is None else self.main.without(dead),
            sealed=tuple(segment.without(dead) for segment in self.sealed),
            delta=_compact(self.delta, dead, limits.merged),
        )

    def needs_merge(self, limits: IndexLimits) -> bool:
        """Return whether merging all segments into one would speed up searches."""
        main_rows = 0 if self.main is None else self.main.row_count
        if sum(segment.row_count for segment in self.delta) > max(
            limits.merged, min(DELTA_SHARE * main_rows, 4 * limits.merged)
        ):
            return True
        if self.main is not None and self.main.live_row_count < (1 - DEAD_SHARE) * main_rows:
            return True
        exact = self.main is None or self.main.lists is None
        return exact and sum(segment.live_row_count for segment in self.segments) > limits.exact

    def seal(self) -> ModelIndex:
        return replace(self, sealed=(*self.sealed, *self.delta), delta=())

    def unseal(self) -> ModelIndex:
        return replace(self, sealed=(), delta=(*self.sealed, *self.delta))

    def complete_merge(self, sealed: ModelIndex, built: Segment) -> ModelIndex:
        """Return this index with the segment that was built from its sealed state.

        Vectors that died during the merge are marked dead in the new segment. If the index was reset during the merge,
        the segment is dropped.
        """
        now, then = self.merging, sealed.merging
        if [segment.name for segment in now] != [segment.name for segment in then]:
            return self
        died = {
            after.members.ids[number]
            for before, after in zip(then, now, strict=True)
            for number in np.nonzero(before.alive & ~after.alive)[0].tolist()
        }
        return ModelIndex(built.without(died), (), self.delta)


@dataclass(frozen=True, eq=False)
class IndexState:
    """All that a search reads, at one log position. models: by fingerprint of the base model."""

    position: LogPosition | None = None
    models: Mapping[str, ModelIndex] = field(default_factory=dict)


def _append(delta: tuple[Segment, ...], segment: Segment, limit: int) -> tuple[Segment, ...]:
    """Append a segment, merged with the preceding ones that are at most twice as long.

    So each key is copied a logarithmic number of times as the delta grows, and a search reads few segments.
    """
    while delta and delta[-1].live_row_count <= min(2 * segment.live_row_count, limit - segment.live_row_count):
        segment = _merge(delta[-1], segment)
        delta = delta[:-1]
    return (*delta, segment)


def _compact(delta: tuple[Segment, ...], dead: set[str], limit: int) -> tuple[Segment, ...]:
    """Mark these vectors dead; rewrite a segment that is at least half dead, so that dead rows do not pile up."""
    compacted: tuple[Segment, ...] = ()
    for segment in delta:
        left = segment.without(dead)
        if left.live_row_count > left.row_count / 2:
            compacted = (*compacted, left)
        elif left.live_row_count:
            compacted = _append(compacted, _merge(left), limit)
    return compacted


def _merge(*segments: Segment) -> Segment:
    return Segment.from_rows(
        Members.concatenate([segment.live_members for segment in segments]),
        np.concatenate([rows for segment in segments for rows in segment.live_rows()]),
    )
