"""Which kind of FAISS index holds how many keys, and how it is built without getting in anybody's way.

Up to 50,000 keys of a model all are compared: 4 ms at 512 floats a key, and nothing to build or to miss. Beyond, the
keys are grouped into inverted lists (IVF) of 4-bit codes; a query reads the codes of the nearest lists and compares the
rows that look best. How many lists and how many rows that takes depends on the data, so it is measured when the lists
are built: with queries like the users', against exact search. Keys that form no groups at all get all lists read.

A graph (HNSW) was measured too, and left: where hundreds of keys are equal, such as the description of every version of
a task, its links lead nowhere else, and recall fell to 0.43 (docs/decisions/0009).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import faiss
import numpy as np

from vlibrary.adapters.index.segment import FLAT, LISTS, USUAL_K, Members, Numbers, SearchParams, Segment
from vlibrary.domain.ports.snapshots import MergeStopped
from vlibrary.domain.vector import Array

TRAINING_ROWS_PER_LIST = 40
CODES_TRAINING_ROWS = 20_000
DEAD_SHARE = 0.2  # of a large segment's rows, before they are left out by writing it anew
RECALL = 0.998  # of the trial queries; the contract promises .99
TRIALS = 64
ALL = 2**31
# Lists read and rows compared for each vector asked for, from the fastest on.
LADDER = ((16, 10), (16, 40), (64, 20), (64, 40), (256, 40), (ALL, 40))
MOST_PROPOSALS = 100
TRIAL_NOISE = 0.8  # length of what is added to a part of a key: users' queries are not the training queries' mean


@dataclass(frozen=True)
class IndexLimits:
    """exact: up to how many keys of one model all are compared.

    merged: the most keys that are copied while changes are applied; larger merges are left to the background.
    """

    exact: int = 50_000
    merged: int = 4_096


def build(parts: Sequence[Segment], limits: IndexLimits, image_size: int, stop: threading.Event) -> Segment:
    """One segment of everything that counts in these. Memory: the new rows beside the old ones, and no third copy.

    A first part that has lists already is copied, dead rows included, and the others are added to the copy.
    image_size: where a row's image part ends. Raises MergeStopped soon after stop is set.
    """
    faiss.omp_set_num_threads(1)  # of this thread: the other cores are for searches
    live = sum(part.live_rows for part in parts)
    if _can_grow(parts[0], limits, live):
        flat, lists = _copied(parts[0], FLAT), _copied(parts[0], LISTS)
        members, alive, parts = parts[0].members, parts[0].alive, parts[1:]
    else:
        flat, lists = faiss.IndexFlatIP(parts[0].flat.d), None if live <= limits.exact else _new_lists(parts, live)
        members, alive = Members([], np.zeros(0, np.int32)), np.zeros(0, np.bool_)
    for rows in chain.from_iterable(part.chunks() for part in parts):
        if stop.is_set():
            raise MergeStopped
        flat.add(rows)
        if lists is not None:
            lists.add(rows)
    living = [part.living() for part in parts]
    members = Members(
        [*members.ids, *chain.from_iterable(part.ids for part in living)],
        np.concatenate([members.counts, *(part.counts for part in living)]),
    )
    alive = np.concatenate([alive, np.ones(len(members.ids) - len(alive), np.bool_)])
    segment = Segment(flat, members, alive, lists)
    return segment if lists is None else replace(segment, search_params=_tried(segment, image_size))


def lists_for(keys: int) -> int:
    """How many inverted lists: 2·√n, but no nearly empty ones."""
    return max(1, min(round(2 * math.sqrt(keys)), keys // 8))


def _can_grow(main: Segment, limits: IndexLimits, live: int) -> bool:
    """Whether rows can be added to a copy of it: few of its own are dead, and its lists are not far too few."""
    if main.lists is None or live <= limits.exact or main.live_rows < (1 - DEAD_SHARE) * main.rows:
        return False
    return int(main.lists.nlist) * 2 > lists_for(live)


def _new_lists(parts: Sequence[Segment], keys: int) -> faiss.IndexIVFPQFastScan:
    size, count = parts[0].flat.d, lists_for(keys)
    numbers_per_code = 1 if size % 2 else 2
    lists = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(size), size, count, size // numbers_per_code, 4, faiss.METRIC_INNER_PRODUCT
    )
    lists.by_residual = False  # one look-up table a query instead of one a list
    lists.cp.niter = 8
    for clustering in (lists.cp, lists.pq.cp):
        clustering.min_points_per_centroid = 1  # no warning about few keys
    lists.train(_sample(parts, max(CODES_TRAINING_ROWS, TRAINING_ROWS_PER_LIST * count)))
    return lists


def _sample(parts: Sequence[Segment], count: int) -> Array:
    """About so many of the rows, taken evenly."""
    living = [np.nonzero(part.alive[part.members.owners])[0] for part in parts]
    step = max(1, sum(map(len, living)) // count)
    return np.concatenate(
        [part.flat.reconstruct_batch(numbers[::step]) for part, numbers in zip(parts, living, strict=True)]
    )


def _copied(segment: Segment, part: str) -> faiss.Index:
    """A copy that owns its memory: an index that lies in a snapshot's does not, and adding to it ends the process."""
    mapped = segment.backing.get(part)
    if mapped is None:
        return faiss.clone_index(segment.lists if part == LISTS else segment.flat)
    mapped.seek(0)
    return faiss.read_index(faiss.PyCallbackIOReader(mapped.read))


def _tried(segment: Segment, image_size: int) -> SearchParams:
    """The least that finds nearly all of what exact search finds, for queries of either part and of both."""
    nlist = int(segment.lists.nlist)
    queries = _trial_queries(segment, image_size)
    right = [_owners(segment, segment.compared(query, USUAL_K, None)) for query in queries]
    for lists, proposals in LADDER:
        search_params = SearchParams(min(lists, nlist), proposals)
        tried = replace(segment, search_params=search_params)
        found = [_owners(segment, tried.proposed(query, USUAL_K, None)) for query in queries]
        if np.mean([_recall(*pair) for pair in zip(found, right, strict=True)]) >= RECALL:
            return search_params
    return SearchParams(nlist, MOST_PROPOSALS)


def _owners(segment: Segment, numbers: Numbers | None) -> set[int] | None:
    """The vectors that these rows belong to."""
    return None if numbers is None else set(segment.members.owners[numbers].tolist())


def _recall(found: set[int] | None, right: set[int] | None) -> float:
    """The share that was found; all when nothing was proposed, since every row is compared then."""
    return 1.0 if found is None or not right else len(found & right) / len(right)


def _trial_queries(segment: Segment, image_size: int) -> Array:
    """Some keys with noise, each as a query of both parts, of the image and of the text: [3 · TRIALS, d]."""
    rng = np.random.default_rng(0)
    rows = segment.flat.reconstruct_batch(rng.integers(segment.rows, size=TRIALS))
    parts = [rows[:, :image_size], rows[:, image_size:]]
    image, text = (part + TRIAL_NOISE * _directions(rng, part.shape) for part in parts)
    nothing = [np.zeros_like(part) for part in parts]
    both = [(image, text), (image, nothing[1]), (nothing[0], text)]
    return np.concatenate([np.concatenate(pair, axis=1) for pair in both]).astype(np.float32)


def _directions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Random rows of length 1."""
    noise = rng.normal(size=shape)
    directions: Array = (noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(np.float32)
    return directions
