"""Segments of the task index: keys that never change once built, and which of their vectors still count.

An add beside a search crashes FAISS, so a segment is never added to; what changes is a bit a vector, in a copy. Every
segment can be searched exactly (`flat`); a large one also has inverted lists that propose candidates fast.

Deleted vectors, vectors that a filter leaves out, and the many keys of one vector are the same thing to a search: rows
that do not count. The proposals are made without regard to them, and more are fetched until enough of them count, from
as many more lists. When so few rows pass that this would fetch nearly as many, those that pass are compared instead.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from mmap import mmap
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from vlibrary.domain.vector import Array

# Far above what float32 sums of unit vectors can be off (about 1e-6), far below a difference that matters.
MARGIN = 1e-4
PASSING_PER_PROPOSAL = 2  # with fewer, comparing all that pass is cheaper
FLAT, LISTS = "flat", "lists"  # the parts of a segment that FAISS holds
USUAL_K = 10  # a SearchParams is measured for this many
CHUNK = 1_024  # rows copied at once

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Members:
    """Whose rows a segment holds: ids of vectors, and how many rows in a row each one has."""

    ids: Sequence[str]
    counts: npt.NDArray[np.int32]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Each vector's number; of one that was deleted and came back, the last one's."""
        return dict(zip(self.ids, range(len(self.ids)), strict=True))

    @cached_property
    def owners(self) -> npt.NDArray[np.int32]:
        """The number of the vector that each row belongs to."""
        return np.repeat(np.arange(len(self.ids), dtype=np.int32), self.counts)

    def flags(self, among: frozenset[str]) -> Flags:
        """Which vectors are among these."""
        flags = np.zeros(len(self.ids), np.bool_)
        shared = self.numbers.keys() & among  # walks the smaller of the two
        flags[[self.numbers[vector_id] for vector_id in shared]] = True
        return flags


@dataclass(frozen=True)
class SearchParams:
    """How far lists are searched. lists: how many are read; proposals: rows compared for each vector asked for."""

    lists: int = 1
    proposals: int = 4


@dataclass(frozen=True, eq=False)
class Segment:
    """Keys that never change.

    flat: all rows [n, d], for exact search. alive: which of the members still count.
    lists: an index over the same rows; None where exact search is fast enough.
    name: of the keys, not of their aliveness. backing: files that FLAT and LISTS lie in,
    if they were read from a snapshot.
    """

    flat: faiss.IndexFlatIP
    members: Members
    alive: Flags
    lists: Any = None
    search_params: SearchParams = SearchParams()
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    backing: Mapping[str, mmap] = field(default_factory=dict)

    @classmethod
    def of(cls, ids: Sequence[str], counts: Sequence[int], rows: Array) -> Segment:
        """An exact segment. rows: [sum of counts, d], each vector's together."""
        flat = faiss.IndexFlatIP(rows.shape[1])
        flat.add(np.ascontiguousarray(rows))
        return cls(flat, Members(list(ids), np.array(counts, np.int32)), np.ones(len(ids), np.bool_))

    @property
    def rows(self) -> int:
        return int(self.flat.ntotal)

    @cached_property
    def live_rows(self) -> int:
        return int(self.members.counts[self.alive].sum())

    def without(self, vector_ids: Iterable[str]) -> Segment:
        """The same keys, without these vectors; itself when it has none of them."""
        numbers = self.members.numbers
        gone = [numbers[vector_id] for vector_id in vector_ids if vector_id in numbers]
        if not gone:
            return self
        alive = self.alive.copy()
        alive[gone] = False
        return replace(self, alive=alive)

    def living(self) -> Members:
        """Whose rows `chunks` yields."""
        (numbers,) = np.nonzero(self.alive)
        return Members([self.members.ids[number] for number in numbers.tolist()], self.members.counts[numbers])

    def live_keys(self) -> Iterator[tuple[str, Array]]:
        """The rows that count, each with the id of its vector."""
        members = self.living()
        owners = (vector_id for vector_id, count in zip(members.ids, members.counts, strict=True) for _ in range(count))
        return zip(owners, chain.from_iterable(self.chunks()), strict=True)

    def chunks(self) -> Iterator[Array]:
        """The rows that count, in order, a few at a time."""
        (numbers,) = np.nonzero(self.alive[self.members.owners])
        for start in range(0, len(numbers), CHUNK):
            yield self.flat.reconstruct_batch(numbers[start : start + CHUNK])

    def candidates(self, row: Array, k: int, among: frozenset[str] | None) -> list[tuple[str, Array]]:
        """Ids and rows among which are the best rows of the segment's k best vectors, ties included when exact."""
        numbers = self.proposed(row, k, among)
        if numbers is None:
            numbers = self.compared(row, k, among)
        if not len(numbers):
            return []
        rows = self.flat.reconstruct_batch(numbers)
        ids, owners = self.members.ids, self.members.owners
        return [(ids[owners[number]], row) for number, row in zip(numbers, rows, strict=True)]

    def proposed(self, row: Array, k: int, among: frozenset[str] | None) -> Numbers | None:
        """The best rows of the k best vectors, as far as the lists find them.

        None when comparing every row that passes is cheaper, or the lists found too little.
        """
        if self.lists is None:
            return None
        passing = self.live_rows if among is None else min(1.0, len(among) / len(self.members.ids)) * self.live_rows
        fetched = math.ceil(self.search_params.proposals * max(k, USUAL_K) * self.rows / passing) if passing else 0
        while passing > PASSING_PER_PROPOSAL * fetched:
            numbers = self._counting(self._nearest(row, fetched), among)
            scores = self.flat.reconstruct_batch(numbers) @ row if len(numbers) else np.zeros(0, np.float32)
            order = np.argsort(-scores)
            best, least = self._best(scores[order], numbers[order], k)
            if least > -np.inf:
                return best
            fetched *= 4
        return None

    def compared(self, row: Array, k: int, among: frozenset[str] | None) -> Numbers:
        """The best rows of the k best vectors, surely: every row that passes is compared.

        One vector may hold many of the best rows, so more are fetched until k vectors lie clearly above the rest.
        """
        passing = self.alive if among is None else self.alive & self.members.flags(among)
        count = int(self.members.counts[passing].sum())
        if count == 0:
            return np.zeros(0, np.int64)
        # The selector does not own the bits, so both must outlive the search.
        bits = np.packbits(passing[self.members.owners], bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        selection = None if count == self.rows else faiss.SearchParameters(sel=selector)
        fetched = 4 * k
        while True:
            fetched = min(fetched, count)
            scores, numbers = (found[0] for found in self.flat.search(row[None], fetched, params=selection))
            best, least = self._best(scores, numbers, k)
            if fetched == count or least > scores[-1] + MARGIN:
                return best
            fetched *= 4

    def _nearest(self, row: Array, count: int) -> Numbers:
        """The numbers of about so many rows that look best to the lists; of more rows, from more lists."""
        widening = max(1.0, count / (self.search_params.proposals * USUAL_K))
        read = min(int(self.lists.nlist), round(self.search_params.lists * widening))
        numbers = self.lists.search(row[None], count, params=faiss.IVFSearchParameters(nprobe=read))[1][0]
        found: Numbers = numbers[numbers >= 0]  # FAISS fills up with -1
        return found

    def _counting(self, numbers: Numbers, among: frozenset[str] | None) -> Numbers:
        owners = self.members.owners[numbers]
        counts = self.alive[owners]
        if among is not None:
            ids = self.members.ids
            counts &= np.array([ids[owner] in among for owner in owners.tolist()], np.bool_)
        return numbers[counts]

    def _best(self, scores: Array, numbers: Numbers, k: int) -> tuple[Numbers, float]:
        """Of a ranking of rows: the best ones of each of the k best vectors, and the k-th vector's score.

        All vectors' best rows and -inf when they are fewer than k. Rows within the margin are taken as equal.
        """
        _, first, vector = np.unique(self.members.owners[numbers], return_index=True, return_inverse=True)
        least = float(scores[np.sort(first)[k - 1]]) if len(first) >= k else -np.inf
        best: Numbers = numbers[scores >= np.maximum(scores[first][vector], least) - MARGIN]
        return best, least
