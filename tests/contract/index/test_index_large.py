"""The task index with inverted lists: recall, and merges that block neither searches nor changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support.indexes import MergedIndex
from tests.support.registrations import EMBEDDER, deleted, direction, embedding, published
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.domain.changes import Change, LogPosition
from vlibrary.domain.ports.snapshots import MergeStopped
from vlibrary.domain.ports.task_index import Hit
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, unit
from vlibrary.domain.vector import Array

SPEC = EmbedderSpec("tests/large", EMBEDDER.fingerprint, image_size=24, text_size=24)
TASKS, KEYS_PER_TASK = 4_000, 2
K = 10


def near(rng: np.random.Generator, part: Array, distance: float) -> Array:
    return unit(part + distance * direction(rng, part.size))


class Library:
    """Tasks in 60 topics, each with keys near its topic; some share a description bit for bit."""

    def __init__(self, *, topics: int = 60) -> None:
        rng = np.random.default_rng(7)
        places = [(direction(rng, 24), direction(rng, 24)) for _ in range(topics)]
        descriptions = [direction(rng, 24) for _ in range(10)]
        self.log: list[Change] = []
        self.queries: list[TaskEmbedding] = []
        for seq in range(1, TASKS + 1):
            image, text = places[rng.integers(topics)]
            image, text = near(rng, image, 0.8), near(rng, text, 0.8)
            keys = [TaskEmbedding(near(rng, image, 0.4), near(rng, text, 0.4)) for _ in range(KEYS_PER_TASK)]
            if seq % 4 == 0:
                keys.append(TaskEmbedding(text=descriptions[seq % 10]))
            self.log.append(published(seq, f"v{seq:05}", *keys))
            if seq % 100 == 0:
                image, text = near(rng, image, 0.6), near(rng, text, 0.6)
                self.queries += [TaskEmbedding(image, text), TaskEmbedding(image=image), TaskEmbedding(text=text)]
        self.queries += [TaskEmbedding(text=near(rng, description, 0.3)) for description in descriptions]

    def filled(self, index: FaissIndex) -> FaissIndex:
        index.reset("epoch", replacing=index.position)
        for start in range(0, len(self.log), 500):
            index.apply(self.log[start : start + 500])
        return index


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


@pytest.fixture(scope="module")
def exact_index(library: Library) -> FaissIndex:
    return library.filled(FaissIndex(SPEC))


@pytest.fixture(scope="module")
def large(library: Library) -> FaissIndex:
    index = library.filled(MergedIndex(SPEC, IndexLimits(exact=1_000, merged=500)))
    main = index.state.models["m"].main
    assert main is not None
    assert main.lists is not None
    assert main.row_count > 8_000
    return index


def recall(found: list[Hit], right: list[Hit]) -> float:
    """Return the share of the expected scores that were found; of equal scores any counts."""
    return sum(hit.score >= right[-1].score for hit in found) / len(right)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.001])
def test_recall_is_99_percent_with_any_filter(
    library: Library, exact_index: FaissIndex, large: FaissIndex, share: float
) -> None:
    rng = np.random.default_rng(1)
    recalls = []
    for query in library.queries:
        ids = [library.log[number].vector_id for number in rng.choice(TASKS, round(TASKS * share), replace=False)]
        among = None if share == 1.0 else frozenset(ids)
        right = exact_index.search(query, model="m", k=K, among=among)
        found = large.search(query, model="m", k=K, among=among)
        assert len(found) == len(right)
        assert among is None or {hit.vector_id for hit in found} <= among
        recalls.append(recall(found, right))
    assert np.mean(recalls) >= 0.99


def test_keys_without_clusters_are_found() -> None:
    rng = np.random.default_rng(2)
    parts = [TaskEmbedding(direction(rng, 24), direction(rng, 24)) for _ in range(3_000)]
    log = [published(seq, f"v{seq:05}", part) for seq, part in enumerate(parts, start=1)]
    indexes = [FaissIndex(SPEC), MergedIndex(SPEC, IndexLimits(exact=1_000, merged=500))]
    for index in indexes:
        index.reset("epoch", replacing=index.position)
        index.apply(log)
    queries = [TaskEmbedding(direction(rng, 24), direction(rng, 24)) for _ in range(60)]
    right, found = ([index.search(query, model="m", k=K) for query in queries] for index in indexes)
    assert np.mean([recall(one, other) for one, other in zip(found, right, strict=True)]) >= 0.99


def test_a_large_index_that_shrinks_becomes_exact(library: Library) -> None:
    index = library.filled(MergedIndex(SPEC, IndexLimits(exact=1_000, merged=500)))
    gone = [deleted(TASKS + number, f"v{number:05}") for number in range(1, TASKS - 300 + 1)]
    index.apply(gone)
    main = index.state.models["m"].main
    assert main is not None
    assert main.lists is None
    assert main.row_count < 1_000
    assert {hit.vector_id for hit in index.search(library.queries[0], model="m", k=500)} == {
        change.vector_id for change in library.log[-300:]
    }


class TestChangesDuringMerge:
    """Changes at a fixed point of a merge: the merge calls the test."""

    def test_changes_during_a_merge_are_applied(self, rng: np.random.Generator) -> None:
        index = FaissIndex(EMBEDDER, IndexLimits(exact=40, merged=16))
        index.reset("epoch", replacing=index.position)
        parts = [embedding(rng) for _ in range(121)]
        index.apply([published(seq, f"v{seq}", parts[seq]) for seq in range(1, 101)])

        def change() -> None:
            index.apply([deleted(101, "v7"), deleted(102, "v8"), published(103, "v8", parts[120])])
            index.apply([published(104 + number, f"w{number}", parts[101 + number]) for number in range(10)])

        assert _change_during_merge(index, change)
        everything = {hit.vector_id for hit in index.search(parts[1], model="m", k=500)}
        assert everything == {f"v{seq}" for seq in range(1, 101) if seq != 7} | {f"w{number}" for number in range(10)}
        assert index.search(parts[8], model="m", k=1)[0].vector_id != "v8"
        assert index.search(parts[120], model="m", k=1)[0].vector_id == "v8"

    def test_a_reset_during_a_merge_discards_it(self, rng: np.random.Generator) -> None:
        index = FaissIndex(EMBEDDER, IndexLimits(exact=40, merged=16))
        index.reset("epoch", replacing=index.position)
        index.apply([published(seq, f"v{seq}", embedding(rng)) for seq in range(1, 101)])

        def change() -> None:
            index.reset("later", replacing=index.position)
            index.apply([published(1, "new", embedding(rng))])

        _change_during_merge(index, change)
        assert index.position == LogPosition("later", 1)
        assert [hit.vector_id for hit in index.search(embedding(rng), model="m", k=500)] == ["new"]

    def test_a_stopped_merge_changes_nothing(self, rng: np.random.Generator) -> None:
        index = FaissIndex(EMBEDDER, IndexLimits(exact=40, merged=16))
        index.reset("epoch", replacing=index.position)
        index.apply([published(seq, f"v{seq}", embedding(rng)) for seq in range(1, 101)])
        stop = threading.Event()
        stop.set()
        with pytest.raises(MergeStopped):
            index.compact(stop)
        assert len(index.search(embedding(rng), model="m", k=500)) == 100
        assert index.compact()
        assert not index.compact()
        assert len(index.search(embedding(rng), model="m", k=500)) == 100


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _change_during_merge(index: FaissIndex, change: Callable[[], None]) -> bool:
    """Run a merge, and make the change after it has sealed its segments; return whether there was a merge."""
    changed = False

    class MeddlingStop(threading.Event):
        def is_set(self) -> bool:
            nonlocal changed
            if not changed:
                changed = True
                change()
            return False

    return index.compact(MeddlingStop()) and changed


def test_merges_block_neither_searches_nor_changes(library: Library) -> None:
    """Soak test with threads that search, apply and merge; every result is of one consistent state."""
    index = FaissIndex(SPEC, IndexLimits(exact=500, merged=200))
    index.reset("epoch", replacing=index.position)
    done = threading.Event()
    target = library.queries[0]
    pinned = published(1, "pinned", target)
    index.apply([pinned])
    longest_apply = 0.0

    def look(_: int) -> int:
        looks = 0
        while not done.is_set():
            hits = index.search(target, model="m", k=K)
            assert hits[0].vector_id == "pinned"
            assert len({hit.vector_id for hit in hits}) == len(hits)
            looks += 1
        return looks

    def merge() -> int:
        merges = 0
        while not done.is_set():
            merges += index.compact()
            time.sleep(0.001)
        return merges

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look, number) for number in range(3)]
        merging = pool.submit(merge)
        try:
            seq = 1
            for round_ in range(60):
                batch = [published(seq + 1 + n, f"r{round_}-{n}", embedding_of(library, seq + n)) for n in range(60)]
                seq += len(batch)
                if round_ >= 2:
                    batch += [deleted(seq + 1 + n, f"r{round_ - 2}-{2 * n}") for n in range(30)]
                    seq += 30
                started = time.monotonic()
                index.apply(batch)
                longest_apply = max(longest_apply, time.monotonic() - started)
        finally:
            done.set()
        assert all(future.result() > 0 for future in looking)
        assert merging.result() > 0
    while index.compact():
        pass
    assert len(index.search(target, model="m", k=10_000)) == 1 + 60 * 60 - 58 * 30
    assert longest_apply < 2.0


def embedding_of(library: Library, number: int) -> TaskEmbedding:
    return library.log[number % TASKS].keys[0].embedding
