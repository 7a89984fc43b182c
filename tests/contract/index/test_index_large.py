"""The task index where it holds more keys than it compares one by one: what it finds, and that nobody waits for it."""

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
    """Tasks in 60 topics; each has keys near one of them, and some share a description to the last bit."""

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
    """The share of the right scores that were found: of equal ones, any will do."""
    return sum(hit.score >= right[-1].score for hit in found) / len(right)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 0.01, 0.001])
def test_recall_is_99_in_100_whatever_is_filtered_out(
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


def test_keys_that_form_no_groups_are_found_as_well() -> None:
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


def test_a_large_index_shrinks_to_an_exact_one(library: Library) -> None:
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


class TestMergingBeside:
    """What happens while a merge is under way, step by step: the merge waits inside for the test."""

    def test_changes_made_meanwhile_are_kept(self, rng: np.random.Generator) -> None:
        index = FaissIndex(EMBEDDER, IndexLimits(exact=40, merged=16))
        index.reset("epoch", replacing=index.position)
        parts = [embedding(rng) for _ in range(121)]
        index.apply([published(seq, f"v{seq}", parts[seq]) for seq in range(1, 101)])

        def change() -> None:
            index.apply([deleted(101, "v7"), deleted(102, "v8"), published(103, "v8", parts[120])])
            index.apply([published(104 + number, f"w{number}", parts[101 + number]) for number in range(10)])

        assert _beside_a_merge(index, change)
        everything = {hit.vector_id for hit in index.search(parts[1], model="m", k=500)}
        assert everything == {f"v{seq}" for seq in range(1, 101) if seq != 7} | {f"w{number}" for number in range(10)}
        assert index.search(parts[8], model="m", k=1)[0].vector_id != "v8"
        assert index.search(parts[120], model="m", k=1)[0].vector_id == "v8"

    def test_a_reset_meanwhile_wins(self, rng: np.random.Generator) -> None:
        index = FaissIndex(EMBEDDER, IndexLimits(exact=40, merged=16))
        index.reset("epoch", replacing=index.position)
        index.apply([published(seq, f"v{seq}", embedding(rng)) for seq in range(1, 101)])

        def change() -> None:
            index.reset("later", replacing=index.position)
            index.apply([published(1, "new", embedding(rng))])

        _beside_a_merge(index, change)
        assert index.position == LogPosition("later", 1)
        assert [hit.vector_id for hit in index.search(embedding(rng), model="m", k=500)] == ["new"]

    def test_a_stopped_merge_leaves_everything_as_it_was(self, rng: np.random.Generator) -> None:
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


def _beside_a_merge(index: FaissIndex, change: Callable[[], None]) -> bool:
    """Makes the change when a merge has sealed its keys but not yet put them back; whether it was a merge."""
    changed = False

    class MeddlingStop(threading.Event):
        def is_set(self) -> bool:
            nonlocal changed
            if not changed:
                changed = True
                change()
            return False

    return index.compact(MeddlingStop()) and changed


def test_searches_and_changes_go_on_while_it_merges(library: Library) -> None:
    """A soak: searching threads beside one that applies and one that merges; every answer is of one moment."""
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
