"""Segments of the task index: sets of keys that never change, and flags of the vectors that are still alive.

FAISS crashes when an index is searched while rows are added, so rows are never added to a segment. Every segment can
be searched exactly (`flat`); a large one also has inverted lists, which propose candidates fast.

To a search, deleted vectors, vectors that do not pass a filter and the many keys of one vector are all the same: rows
to skip. Candidates are proposed regardless of them, and more are fetched, from more lists, until enough rows remain. If
so few rows pass that this would fetch about as many, the passing rows are compared directly instead.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from mmap import mmap
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt

from vlibrary.domain.vector import Array

# Far above the rounding error of float32 dot products of unit vectors (about 1e-6), far below a relevant difference.
MARGIN = 1e-4
PASSING_PER_CANDIDATE = 2  # with fewer, comparing all passing rows is cheaper
FLAT, LISTS = "flat", "lists"  # the FAISS indexes of a segment, as named in snapshots
TUNED_K = 10  # SearchParams are tuned for this k
CHUNK = 1_024  # rows copied at once

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Members:
    """The vectors of a segment, in the order of their rows.

    counts: number of rows of each vector. registered: sequence number of its registration.
    """

    ids: Sequence[str]
    counts: npt.NDArray[np.int32]
    registered: Numbers

    @classmethod
    def concatenate(cls, parts: Sequence[Members]) -> Members:
        return cls(
            list(chain.from_iterable(part.ids for part in parts)),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.registered for part in parts]),
        )

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each vector; the last one if a vector was deleted and restored."""
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    @cached_property
    def owners(self) -> npt.NDArray[np.int32]:
        """The number of each row's vector."""
        return np.repeat(np.arange(len(self.ids), dtype=np.int32), self.counts)

    @cached_property
    def starts(self) -> Numbers:
        """The number of each vector's first row."""
        starts: Numbers = np.cumsum(self.counts, dtype=np.int64) - self.counts
        return starts

    def select(self, flags: Flags) -> Members:
        """Return the members with a flag."""
        (numbers,) = np.nonzero(flags)
        ids = [self.ids[number] for number in numbers.tolist()]
        return Members(ids, self.counts[numbers], self.registered[numbers])

    def flags(self, among: frozenset[str]) -> Flags:
        """Return which members are among these vectors."""
        flags = np.zeros(len(self.ids), np.bool_)
        shared = self.numbers.keys() & among  # iterates over the smaller of the two
        flags[[self.numbers[vector_id] for vector_id in shared]] = True
        return flags


@dataclass(frozen=True)
class SearchParams:
    """How inverted lists are searched, as in FAISS. nprobe: lists read. k_factor: candidates compared per result."""

    nprobe: int = 1
    k_factor: int = 4


class Candidate(NamedTuple):
    """A row that may be a hit. registered: sequence number of its vector's registration. row: [d]."""

    vector_id: str
    registered: int
    row: Array


@dataclass(frozen=True, eq=False)
class Segment:
    """A set of keys that never changes.

    flat: all rows [n, d], for exact search. alive: flags of the members that can be found. lists: inverted lists of the
    same rows; None if exact search is fast enough. name: identifies the keys, not the flags. backing: the files of FLAT
    and LISTS, if the segment was loaded from a snapshot.
    """

    flat: faiss.IndexFlatIP
    members: Members
    alive: Flags
    lists: Any = None
    params: SearchParams = SearchParams()
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    backing: Mapping[str, mmap] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, members: Members, rows: Array) -> Segment:
        """Create a segment without lists. rows: [sum of the members' counts, d], grouped by vector."""
        flat = faiss.IndexFlatIP(rows.shape[1])
        flat.add(np.ascontiguousarray(rows))
        return cls(flat, members, np.ones(len(members.ids), np.bool_))

    @property
    def row_count(self) -> int:
        return int(self.flat.ntotal)

    @cached_property
    def live_row_count(self) -> int:
        return int(self.members.counts[self.alive].sum())

    def without(self, vector_ids: Iterable[str]) -> Segment:
        """Return the segment with these vectors marked dead; itself if it has none of them."""
        numbers = self.members.numbers
        dead = [numbers[vector_id] for vector_id in vector_ids if vector_id in numbers]
        if not dead:
            return self
        alive = self.alive.copy()
        alive[dead] = False
        return replace(self, alive=alive)

    @property
    def live_members(self) -> Members:
        return self.members.select(self.alive)

    def live_rows(self) -> Iterator[Array]:
        """Yield the rows of the live members, in order, in chunks [≤ CHUNK, d]."""
        (numbers,) = np.nonzero(self.alive[self.members.owners])
        for start in range(0, len(numbers), CHUNK):
            yield self.flat.reconstruct_batch(numbers[start : start + CHUNK])

    def rows_of(self, vector_id: str) -> Array | None:
        """Return the rows of a live vector, [its count, d]; None if the segment does not have it."""
        number = self.members.numbers.get(vector_id)
        if number is None or not self.alive[number]:
            return None
        rows: Array = self.flat.reconstruct_n(int(self.members.starts[number]), int(self.members.counts[number]))
        return rows

    def candidates(self, row: Array, k: int, among: frozenset[str] | None) -> Iterable[Candidate]:
        """Return candidates that include the best rows of the k best vectors, with all ties at the k-th place."""
        numbers = self.search_lists(row, k, among)
        if numbers is None:
            numbers = self.search_exact(row, k, among)
        if not len(numbers):
            return []
        rows = self.flat.reconstruct_batch(numbers)
        owners = self.members.owners[numbers]
        ids, registered = self.members.ids, self.members.registered[owners].tolist()
        return map(Candidate, [ids[owner] for owner in owners.tolist()], registered, rows)

    def search_lists(self, row: Array, k: int, among: frozenset[str] | None) -> Numbers | None:
        """Return the best rows of the k best vectors that the lists find.

        None if comparing all passing rows is cheaper, or if the lists found fewer than k vectors.
        """
        if self.lists is None:
            return None
        passing = self.live_row_count
        if among is not None:
            passing = math.floor(min(1.0, len(among) / len(self.members.ids)) * passing)
        fetched = math.ceil(self.params.k_factor * max(k, TUNED_K) * self.row_count / passing) if passing else 0
        while passing > PASSING_PER_CANDIDATE * fetched:
            estimates, numbers = self._fetch(row, fetched)
            # Of rows that are equal the lists return any, so none may be cut off with the last one's estimate.
            cut_off = estimates[-1] if len(numbers) == fetched else -np.inf
            passes = self._passes(numbers, among)
            estimates, numbers = estimates[passes], numbers[passes]
            scores = self.flat.reconstruct_batch(numbers) @ row if len(numbers) else np.zeros(0, np.float32)
            order = np.argsort(-scores)
            best, least = self._select_best(scores[order], numbers[order], k)
            chosen = order[best]
            if least > -np.inf and estimates[chosen].min() > cut_off:
                found: Numbers = numbers[chosen]
                return found
            fetched *= 4
        return None

    def search_exact(self, row: Array, k: int, among: frozenset[str] | None) -> Numbers:
        """Return the best rows of the k best vectors, ties included, by comparing all passing rows.

        One vector may own many of the best rows, so more are fetched until k vectors are clearly above the rest.
        """
        passing = self.alive if among is None else self.alive & self.members.flags(among)
        count = int(self.members.counts[passing].sum())
        if count == 0:
            return np.zeros(0, np.int64)
        # The selector does not own the bits, so both must outlive the search.
        bits = np.packbits(passing[self.members.owners], bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        params = None if count == self.row_count else faiss.SearchParameters(sel=selector)
        fetched = 4 * k
        while True:
            fetched = min(fetched, count)
            scores, numbers = (found[0] for found in self.flat.search(row[None], fetched, params=params))
            best, least = self._select_best(scores, numbers, k)
            if fetched == count or least > scores[-1] + MARGIN:
                found: Numbers = numbers[best]
                return found
            fetched *= 4

    def _fetch(self, row: Array, count: int) -> tuple[Array, Numbers]:
        """Return the estimated scores and numbers of the `count` best rows by the lists; the more, the more lists."""
        widening = max(1.0, count / (self.params.k_factor * TUNED_K))
        nprobe = min(int(self.lists.nlist), round(self.params.nprobe * widening))
        estimates, numbers = self.lists.search(row[None], count, params=faiss.IVFSearchParameters(nprobe=nprobe))
        found = numbers[0] >= 0  # FAISS pads with -1
        return estimates[0][found], numbers[0][found]

    def _passes(self, numbers: Numbers, among: frozenset[str] | None) -> Flags:
        owners = self.members.owners[numbers]
        passes = self.alive[owners]
        if among is not None:
            ids = self.members.ids
            passes &= np.array([ids[owner] in among for owner in owners.tolist()], np.bool_)
        return passes

    def _select_best(self, scores: Array, numbers: Numbers, k: int) -> tuple[Flags, float]:
        """Return which ranked rows are the best ones of the k best vectors, and the score of the k-th vector.

        With fewer than k vectors: the best rows of all, and -inf. Rows within MARGIN count as equal.
        """
        _, first, vector = np.unique(self.members.owners[numbers], return_index=True, return_inverse=True)
        least = float(scores[np.sort(first)[k - 1]]) if len(first) >= k else -np.inf
        best: Flags = scores >= np.maximum(scores[first][vector], least) - MARGIN
        return best, least
