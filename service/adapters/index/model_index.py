"""A model: all keys of one model, as one large segment and small ones beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from vlibrary.adapters.index.build import DEAD_SHARE, IndexLimits
from vlibrary.adapters.index.segment import Segment
from vlibrary.domain.changes import LogPosition

LOOSE_SHARE = 0.05


@dataclass(frozen=True, eq=False)
class ModelIndex:
    """main: made in the background. sealed: being merged into it now. delta: newer keys, longest first."""

    main: Segment | None = None
    sealed: tuple[Segment, ...] = ()
    delta: tuple[Segment, ...] = ()

    @property
    def segments(self) -> tuple[Segment, ...]:
        return (*self._settled, *self.delta)

    @property
    def _settled(self) -> tuple[Segment, ...]:
        """What a merge that is under way works on."""
        return (() if self.main is None else (self.main,)) + self.sealed

    def plus(self, segment: Segment, limits: IndexLimits) -> ModelIndex:
        return replace(self, delta=_put(self.delta, segment, limits.merged))

    def without(self, vector_ids: Iterable[str], limits: IndexLimits) -> ModelIndex:
        gone = set(vector_ids)
        return ModelIndex(
            main=None if self.main is None else self.main.without(gone),
            sealed=tuple(segment.without(gone) for segment in self.sealed),
            delta=_compact(self.delta, gone, limits.merged),
        )

    def wants_merge(self, limits: IndexLimits) -> bool:
        """Whether searches would gain by one main segment of everything."""
        main_rows = 0 if self.main is None else self.main.rows
        loose = sum(segment.rows for segment in self.delta)
        return (
            loose > max(limits.merged, min(LOOSE_SHARE * main_rows, 4 * limits.merged))
            or (self.main is not None and self.main.live_rows < (1 - DEAD_SHARE) * main_rows)
            or self._outgrown(limits)
        )

    def _outgrown(self, limits: IndexLimits) -> bool:
        exact = self.main is None or self.main.lists is None
        return exact and sum(segment.live_rows for segment in self.segments) > limits.exact

    def seal(self) -> ModelIndex:
        return replace(self, sealed=(*self.sealed, *self.delta), delta=())

    def unseal(self) -> ModelIndex:
        return replace(self, sealed=(), delta=(*self.sealed, *self.delta))

    def merged(self, sealed: ModelIndex, built: Segment) -> ModelIndex | None:
        """This model with what was built of its state when it was sealed; None when it was reset since.

        What has died in between is dead in the new segment too.
        """
        now, then = self._settled, sealed._settled
        if [segment.name for segment in now] != [segment.name for segment in then]:
            return None
        died = {
            after.members.ids[number]
            for before, after in zip(then, now, strict=True)
            for number in np.nonzero(before.alive & ~after.alive)[0].tolist()
        }
        return ModelIndex(built.without(died), (), self.delta)


@dataclass(frozen=True, eq=False)
class IndexState:
    """What searches see: one reference to it is one moment. models: by the fingerprint of the base model."""

    position: LogPosition | None = None
    models: Mapping[str, ModelIndex] = field(default_factory=dict)


def _put(delta: tuple[Segment, ...], segment: Segment, limit: int) -> tuple[Segment, ...]:
    """The segments with one more, merged with those before it that are not more than twice as long.

    So a key is copied a logarithmic number of times while the delta grows, and a search asks few segments.
    """
    while delta and delta[-1].live_rows <= min(2 * segment.live_rows, limit - segment.live_rows):
        segment = _joined(delta[-1], segment)
        delta = delta[:-1]
    return (*delta, segment)


def _compact(delta: tuple[Segment, ...], gone: set[str], limit: int) -> tuple[Segment, ...]:
    """The segments without these vectors; one that is half dead is written anew, so dead rows never pile up."""
    compacted: tuple[Segment, ...] = ()
    for segment in delta:
        left = segment.without(gone)
        if left.live_rows > left.rows / 2:
            compacted = (*compacted, left)
        elif left.live_rows:
            compacted = _put(compacted, _joined(left), limit)
    return compacted


def _joined(*segments: Segment) -> Segment:
    living = [segment.living() for segment in segments]
    return Segment.of(
        [vector_id for members in living for vector_id in members.ids],
        np.concatenate([members.counts for members in living]).tolist(),
        np.concatenate([rows for segment in segments for rows in segment.chunks()]),
    )
