"""The port of the task index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.query import TaskEmbedding
from vlibrary.domain.vector import Array


@dataclass(frozen=True)
class Hit:
    """A vector found by one of its keys. score: that of its best key. keys: all of its keys as rows [n, row_size]."""

    vector_id: str
    score: float
    keys: Array = field(default_factory=lambda: np.zeros((0, 0), np.float32), compare=False, repr=False)


class IndexGap(Exception):
    """The changes do not follow the index's position: reset it and replay the log. Never reaches a client."""


class TaskIndex(Protocol):
    """Search over task keys: a cache of the catalogue that can be rebuilt from the change log at any time.

    Any number of threads may search while one applies changes.
    """

    @property
    def position(self) -> LogPosition | None:
        """The position up to which the change log is applied; None before the first reset."""
        ...

    def reset(self, epoch: str, *, replacing: LogPosition | None) -> None:
        """Empty the index and start at seq 0 of this epoch, but only if its position is still `replacing`.

        If several threads find the same position outdated, only one resets, so none discards a rebuilt index.
        """
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Apply entries that follow the position; skip entries that were applied before.

        The keys of a vector's newest entry replace its earlier ones. Keys of another embedder than the index's and keys
        that are not finite are ignored. Raises IndexGap, leaving the index unchanged, if an entry is missing or the
        index was never reset.
        """
        ...

    def search(self, query: TaskEmbedding, *, model: str, k: int, among: frozenset[str] | None = None) -> list[Hit]:
        """Return the k best vectors for this model, best first, one hit per vector.

        Of equal scores the last registered vector comes first: by the seq of its PUBLISHED entry, not by id, and later
        changes do not make a vector newer.
        model: fingerprint of the base model, so that results do not depend on the name that it is served under.
        among: consider only these vectors, for example the ids that pass a catalogue filter.
        Scores equal those of vlibrary.domain.query.score bit for bit. A small index is exact; a large one may miss
        fewer than one in a hundred of the ten best, with any filter. Raises InvalidQuery for an embedding that is not
        finite.
        """
        ...
