"""Builds large segments: chooses between exact search and inverted lists, and tunes the lists.

Up to 50,000 keys per model are compared exhaustively: 4 ms at 512 floats per key, with nothing to train or to miss.
Beyond that, keys are grouped into inverted lists (IVF) of 4-bit product-quantised codes; a query reads the codes of the
nearest lists and compares the best candidates exactly. How many lists and candidates are needed depends on the data, so
it is measured after training: with queries like the users', against exact search. If keys form no clusters at all,
every list is read.

HNSW was measured and rejected: with hundreds of equal keys, such as the description of every version of a task, its
links form an island, and recall fell to 0.43 (docs/decisions/0009).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import faiss
import numpy as np

from vlibrary.adapters.index.segment import FLAT, LISTS, TUNED_K, Members, Numbers, SearchParams, Segment
from vlibrary.domain.ports.snapshots import MergeStopped
from vlibrary.domain.vector import Array

TRAINING_ROWS_PER_LIST = 40
CODES_TRAINING_ROWS = 20_000
DEAD_SHARE = 0.2  # of a large segment's rows, from which it is rebuilt without them
RECALL = 0.998  # required of the tuning queries; the port promises 0.99
TUNING_QUERIES = 64
ALL = 2**31
LADDER = tuple(
    SearchParams(*step) for step in ((16, 10), (16, 40), (64, 20), (64, 40), (256, 40), (ALL, 40))
)  # fastest first
MAX_K_FACTOR = 100
NOISE = 0.8  # norm of the noise added to a key for a tuning query: users' queries are not centroids


@dataclass(frozen=True)
class IndexLimits:
    """Sizes at which the index changes its structure.

    exact: the most keys per model that are searched exhaustively. merged: the most keys copied while changes are
    applied; larger merges run in the background.
    """

    exact: int = 50_000
    merged: int = 4_096


def build(parts: Sequence[Segment], limits: IndexLimits, image_size: int, stop: threading.Event) -> Segment:
    """Merge the live keys of the parts into one segment.

    If the first part has lists, it is copied with its dead rows, and the other parts are added to the copy. Peak memory
    is the old rows plus the new ones. image_size: where the image part of a row ends. Raises MergeStopped soon after
    `stop` is set.
    """
    faiss.omp_set_num_threads(1)  # for this thread; the other cores serve searches
    live = sum(part.live_row_count for part in parts)
    first, rest = parts[0], parts
    if _can_grow(first, limits, live):
        flat, lists = _copy(first, FLAT), _copy(first, LISTS)
        members, alive, rest = [first.members], first.alive, parts[1:]
    else:
        flat, lists = faiss.IndexFlatIP(first.flat.d), None if live <= limits.exact else _train_lists(parts, live)
        members, alive = [], np.zeros(0, np.bool_)
    for rows in chain.from_iterable(part.live_rows() for part in rest):
        if stop.is_set():
            raise MergeStopped
        flat.add(rows)
        if lists is not None:
            lists.add(rows)
    merged = Members.concatenate([*members, *(part.live_members for part in rest)])
    alive = np.concatenate([alive, np.ones(len(merged.ids) - len(alive), np.bool_)])
    segment = Segment(flat, merged, alive, lists)
    return segment if lists is None else replace(segment, params=_tune(segment, image_size))


def list_count(keys: int) -> int:
    """Return the number of inverted lists for so many keys: 2·√n, with at least 8 keys per list on average."""
    return max(1, min(round(2 * math.sqrt(keys)), keys // 8))


def _can_grow(main: Segment, limits: IndexLimits, live: int) -> bool:
    """Return whether rows can be added to a copy of it: few rows are dead, and the list count is not far too low."""
    if main.lists is None or live <= limits.exact or main.live_row_count < (1 - DEAD_SHARE) * main.row_count:
        return False
    return int(main.lists.nlist) * 2 > list_count(live)


def _train_lists(parts: Sequence[Segment], keys: int) -> faiss.IndexIVFPQFastScan:
    size, count = parts[0].flat.d, list_count(keys)
    numbers_per_code = 1 if size % 2 else 2
    lists = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(size), size, count, size // numbers_per_code, 4, faiss.METRIC_INNER_PRODUCT
    )
    lists.by_residual = False  # one look-up table per query instead of one per list
    lists.cp.niter = 8
    for clustering in (lists.cp, lists.pq.cp):
        clustering.min_points_per_centroid = 1  # no warning about few keys
    lists.train(_sample(parts, max(CODES_TRAINING_ROWS, TRAINING_ROWS_PER_LIST * count)))
    return lists


def _sample(parts: Sequence[Segment], count: int) -> Array:
    """Return about `count` live rows at even distances."""
    live = [np.nonzero(part.alive[part.members.owners])[0] for part in parts]
    step = max(1, sum(map(len, live)) // count)
    return np.concatenate(
        [part.flat.reconstruct_batch(numbers[::step]) for part, numbers in zip(parts, live, strict=True)]
    )


def _copy(segment: Segment, part: str) -> faiss.Index:
    """Copy an index into its own memory: adding to one that is memory-mapped from a snapshot aborts the process."""
    mapped = segment.backing.get(part)
    if mapped is None:
        return faiss.clone_index(segment.lists if part == LISTS else segment.flat)
    mapped.seek(0)
    return faiss.read_index(faiss.PyCallbackIOReader(mapped.read))


def _tune(segment: Segment, image_size: int) -> SearchParams:
    """Return the fastest parameters that reach RECALL for queries of either part and of both."""
    nlist = int(segment.lists.nlist)
    queries = _tuning_queries(segment, image_size)
    expected = [_owners(segment, segment.search_exact(query, TUNED_K, None)) or set() for query in queries]
    for step in LADDER:
        params = replace(step, nprobe=min(step.nprobe, nlist))
        candidate = replace(segment, params=params)
        found = [_owners(segment, candidate.search_lists(query, TUNED_K, None)) for query in queries]
        # A search whose lists find too little (None) falls back to exact search.
        pairs = [(one, right) for one, right in zip(found, expected, strict=True) if right]
        recalls = [1.0 if one is None else len(one & right) / len(right) for one, right in pairs]
        if np.mean(recalls) >= RECALL:
            return params
    return SearchParams(nlist, MAX_K_FACTOR)


def _owners(segment: Segment, numbers: Numbers | None) -> set[int] | None:
    return None if numbers is None else set(segment.members.owners[numbers].tolist())


def _tuning_queries(segment: Segment, image_size: int) -> Array:
    """Return random keys plus noise, each as a query of both parts, the image and the text: [3 · TUNING_QUERIES, d]."""
    rng = np.random.default_rng(0)
    rows = segment.flat.reconstruct_batch(rng.integers(segment.row_count, size=TUNING_QUERIES))
    noise = [rng.normal(size=part.shape) for part in (rows[:, :image_size], rows[:, image_size:])]
    image, text = (
        part + NOISE * (one / np.linalg.norm(one, axis=1, keepdims=True)).astype(np.float32)
        for part, one in zip((rows[:, :image_size], rows[:, image_size:]), noise, strict=True)
    )
    pairs = [(image, text), (image, np.zeros_like(text)), (np.zeros_like(image), text)]
    return np.concatenate([np.concatenate(pair, axis=1) for pair in pairs]).astype(np.float32)
