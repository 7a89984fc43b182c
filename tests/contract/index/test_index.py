"""Contract of the TaskIndex port, on the in-memory index and on FAISS."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.support.exact_search import exact
from tests.support.indexes import ALL
from tests.support.memory.index import MemoryIndex
from tests.support.registrations import EMBEDDER, deleted, direction, embedding, published
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.index.late_index import LateIndex
from vlibrary.domain.changes import Change, ChangeKind, LogPosition
from vlibrary.domain.errors import InvalidQuery, WorkerUnavailable
from vlibrary.domain.ports.task_index import Hit, IndexGap, TaskIndex
from vlibrary.domain.query import EmbedderSpec, TaskEmbedding, score


@pytest.fixture(params=ALL)
def index(request: pytest.FixtureRequest) -> TaskIndex:
    empty = ALL[request.param](EMBEDDER)
    empty.reset("epoch", replacing=empty.position)
    return empty


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


class TestPosition:
    def test_position_is_none_before_the_first_reset(self) -> None:
        for make in ALL.values():
            assert make(EMBEDDER).position is None

    def test_a_late_reset_does_not_discard_a_rebuilt_index(self, index: TaskIndex, rng: np.random.Generator) -> None:
        outdated = index.position
        index.reset("later", replacing=outdated)
        index.apply([published(1, "v", embedding(rng))])
        index.reset("later", replacing=outdated)
        index.reset("epoch", replacing=None)
        assert index.position == LogPosition("later", 1)
        assert len(index.search(embedding(rng), model="m", k=9)) == 1

    def test_position_advances_with_applied_changes(self, index: TaskIndex, rng: np.random.Generator) -> None:
        assert index.position == LogPosition("epoch", 0)
        index.apply([published(1, "a", embedding(rng)), deleted(2, "a")])
        assert index.position == LogPosition("epoch", 2)
        index.apply([])
        assert index.position == LogPosition("epoch", 2)
        index.reset("later", replacing=index.position)
        assert index.position == LogPosition("later", 0)

    def test_repeated_changes_are_skipped(self, index: TaskIndex, rng: np.random.Generator) -> None:
        log = [published(1, "a", embedding(rng)), published(2, "b", embedding(rng)), deleted(3, "a")]
        index.apply(log)
        index.apply(log)
        index.apply([*log[1:], published(4, "c", embedding(rng))])
        hits = index.search(embedding(rng), model="m", k=9)
        assert sorted(hit.vector_id for hit in hits) == ["b", "c"]

    @pytest.mark.parametrize("numbers", [[2], [1, 3], [1, 2, 2], [2, 1]])
    def test_a_gap_raises_and_leaves_the_index_unchanged(
        self, index: TaskIndex, rng: np.random.Generator, numbers: list[int]
    ) -> None:
        with pytest.raises(IndexGap):
            index.apply([published(number, f"v{number}", embedding(rng)) for number in numbers])
        assert index.position == LogPosition("epoch", 0)
        assert index.search(embedding(rng), model="m", k=9) == []

    def test_applying_before_a_reset_raises(self, rng: np.random.Generator) -> None:
        for make in ALL.values():
            with pytest.raises(IndexGap):
                make(EMBEDDER).apply([published(1, "a", embedding(rng))])


class TestSearch:
    def test_a_vector_is_found_once_by_its_best_key(self, index: TaskIndex, rng: np.random.Generator) -> None:
        keys = [embedding(rng) for _ in range(40)]
        index.apply([published(1, "many", *keys), published(2, "one", embedding(rng))])
        hits = index.search(keys[7], model="m", k=2)
        assert [hit.vector_id for hit in hits] == ["many", "one"]
        assert hits[0].score == score(keys[7], keys[7], EMBEDDER)

    def test_k_vectors_are_returned_although_one_owns_all_the_best_keys(
        self, index: TaskIndex, rng: np.random.Generator
    ) -> None:
        query = embedding(rng)
        crowd = [published(1, "crowd", *[query] * 64)]
        others = [published(number, f"v{number}", embedding(rng)) for number in range(2, 30)]
        index.apply(crowd + others)
        assert index.search(query, model="m", k=5) == exact(crowd + others, query, "m", 5)
        assert len({hit.vector_id for hit in index.search(query, model="m", k=5)}) == 5

    def test_a_part_that_a_key_lacks_scores_zero(self, index: TaskIndex, rng: np.random.Generator) -> None:
        text_only = embedding(rng, image=False)
        log = [published(1, "text", text_only), published(2, "both", embedding(rng))]
        index.apply(log)
        by_image = embedding(rng, text=False)
        assert Hit("text", 0.0) in index.search(by_image, model="m", k=2)
        assert index.search(text_only, model="m", k=1)[0].vector_id == "text"
        for query in (by_image, text_only, embedding(rng)):
            assert index.search(query, model="m", k=2) == exact(log, query, "m", 2)

    def test_models_have_separate_indexes(self, index: TaskIndex, rng: np.random.Generator) -> None:
        index.apply([published(1, "a", embedding(rng), model="m"), published(2, "b", embedding(rng), model="n")])
        assert [hit.vector_id for hit in index.search(embedding(rng), model="n", k=9)] == ["b"]
        assert index.search(embedding(rng), model="unknown", k=9) == []

    def test_keys_of_another_embedder_are_ignored(self, index: TaskIndex, rng: np.random.Generator) -> None:
        wide = TaskEmbedding(image=np.ones(99, np.float32))
        index.apply(
            [
                published(1, "same size", embedding(rng), embedder="f" * 64),
                published(2, "other size", wide, embedder="e" * 64),
                published(3, "ours", embedding(rng)),
                published(4, "unnamed", embedding(rng), embedder=None),
                deleted(5, "other size"),
            ]
        )
        hits = index.search(embedding(rng), model="m", k=9)
        assert sorted(hit.vector_id for hit in hits) == ["ours", "unnamed"]

    def test_a_non_finite_key_is_ignored(self, index: TaskIndex, rng: np.random.Generator) -> None:
        broken = embedding(rng)
        assert broken.text is not None
        broken.text[0] = np.nan
        log = [published(1, "a", broken, embedding(rng)), published(2, "b", broken), published(3, "c", embedding(rng))]
        index.apply(log)
        hits = index.search(embedding(rng), model="m", k=9)
        assert sorted(hit.vector_id for hit in hits) == ["a", "c"]
        assert np.isfinite([hit.score for hit in hits]).all()

    def test_a_non_finite_query_raises(self, index: TaskIndex, rng: np.random.Generator) -> None:
        index.apply([published(1, "a", embedding(rng))])
        with pytest.raises(InvalidQuery, match="not a finite vector of 11 numbers"):
            index.search(TaskEmbedding(image=np.full(6, np.nan, np.float32)), model="m", k=1)
        with pytest.raises(InvalidQuery):
            index.search(TaskEmbedding(), model="m", k=1)

    def test_a_query_of_another_embedder_raises(self, index: TaskIndex, rng: np.random.Generator) -> None:
        index.apply([published(1, "a", embedding(rng))])
        with pytest.raises(InvalidQuery):
            index.search(TaskEmbedding(image=direction(rng, 99)), model="m", k=1)

    def test_a_k_above_the_number_of_vectors_returns_all(self, index: TaskIndex, rng: np.random.Generator) -> None:
        log = [published(number, f"v{number:03}", embedding(rng), embedding(rng)) for number in range(1, 81)]
        index.apply(log)
        query = embedding(rng)
        assert index.search(query, model="m", k=1_000) == exact(log, query, "m", 1_000)

    def test_a_later_entry_replaces_the_keys(self, index: TaskIndex, rng: np.random.Generator) -> None:
        old, new = embedding(rng), embedding(rng)
        log = [
            published(1, "a", old),
            published(2, "b", old),
            replace(published(3, "a", new), kind=ChangeKind.REKEYED),
            deleted(4, "b"),
            replace(published(5, "b", new), kind=ChangeKind.RESTORED),
        ]
        index.apply(log[:2])
        index.apply(log[2:])
        hits = index.search(new, model="m", k=9)
        assert hits == [Hit("b", score(new, new, EMBEDDER)), Hit("a", score(new, new, EMBEDDER))]
        assert max(hit.score for hit in index.search(old, model="m", k=9)) < 0.99

    @pytest.mark.parametrize("k", [-1, 0])
    def test_a_k_below_one_returns_nothing(self, index: TaskIndex, rng: np.random.Generator, k: int) -> None:
        index.apply([published(1, "a", embedding(rng))])
        assert index.search(embedding(rng), model="m", k=k) == []

    def test_deleted_vectors_are_not_found(self, index: TaskIndex, rng: np.random.Generator) -> None:
        log = [published(number, f"v{number:03}", embedding(rng), embedding(rng)) for number in range(1, 101)]
        index.apply(log)
        query = embedding(rng)
        for _ in range(95):
            best = index.search(query, model="m", k=1)[0]
            log.append(deleted(len(log) + 1, best.vector_id))
            index.apply(log[-1:])
            assert index.search(query, model="m", k=3) == exact(log, query, "m", 3)


class TestFilters:
    @pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
    def test_the_best_passing_vectors_are_found(self, index: TaskIndex, rng: np.random.Generator, share: float) -> None:
        log = [published(number, f"v{number:04}", embedding(rng)) for number in range(1, 2_001)]
        index.apply(log)
        for _ in range(5):
            among = frozenset(f"v{number:04}" for number in 1 + rng.choice(2_000, int(2_000 * share), replace=False))
            query = embedding(rng)
            assert index.search(query, model="m", k=10, among=among) == exact(log, query, "m", 10, among)

    def test_a_filter_can_pass_only_vectors_far_from_the_query(
        self, index: TaskIndex, rng: np.random.Generator
    ) -> None:
        log = [published(number, f"v{number:04}", embedding(rng)) for number in range(1, 1_001)]
        index.apply(log)
        query = embedding(rng)
        far = frozenset(hit.vector_id for hit in exact(log, query, "m", 1_000)[500:])
        assert index.search(query, model="m", k=10, among=far) == exact(log, query, "m", 10, far)

    def test_only_passing_vectors_are_returned(self, index: TaskIndex, rng: np.random.Generator) -> None:
        target = embedding(rng)
        index.apply([published(1, "a", target), published(2, "b", embedding(rng)), published(3, "c", target)])
        assert index.search(target, model="m", k=9, among=frozenset()) == []
        assert index.search(target, model="m", k=9, among=frozenset(["unknown"])) == []
        found = index.search(target, model="m", k=9, among=frozenset(["b", "c", "unknown"]))
        assert [hit.vector_id for hit in found] == ["c", "b"]
        index.apply([deleted(4, "c")])
        assert [hit.vector_id for hit in index.search(target, model="m", k=9, among=frozenset("bc"))] == ["b"]


@pytest.mark.parametrize("kind", ["memory", "exact", "lists"])
def test_searches_during_changes_see_a_consistent_state(kind: str) -> None:
    rng = np.random.default_rng(3)
    index = ALL[kind](EMBEDDER)
    index.reset("epoch", replacing=index.position)
    target = embedding(rng)
    # A pair is published in one batch and deleted in one batch: a search sees both of them or neither.
    batches: list[list[Change]] = []
    for number in range(0, 300, 2):
        if number >= 20:
            gone = number - 20
            batches.append([deleted(2 * number - 19 + i, f"v{gone + i}") for i in range(2)])
        seq = sum(map(len, batches))
        batches.append([published(seq + 1 + i, f"v{number + i}", target, embedding(rng)) for i in range(2)])
    log = [change for batch in batches for change in batch]
    renumbered = iter(range(1, len(log) + 1))
    batches = [[_renumber(change, next(renumbered)) for change in batch] for batch in batches]
    done = threading.Event()

    def look(_: int) -> int:
        looks = 0
        while not done.is_set() or looks == 0:
            best = [int(hit.vector_id[1:]) for hit in index.search(target, model="m", k=50)]
            assert all((number ^ 1) in best for number in best)
            looks += 1
        return looks

    with ThreadPoolExecutor(4) as pool:
        looking = [pool.submit(look, number) for number in range(4)]
        for batch in batches:
            index.apply(batch)
        done.set()
        assert all(future.result() > 0 for future in looking)
    assert index.position == LogPosition("epoch", len(log))


def _renumber(change: Change, seq: int) -> Change:
    return replace(change, seq=seq)


class TestFaissSegments:
    """The segments, which no search shows: their number and dead rows stay bounded as the index grows and shrinks."""

    def test_single_changes_create_few_segments(self, rng: np.random.Generator) -> None:
        lengths = self._lengths([[published(seq, f"v{seq}", embedding(rng))] for seq in range(1, 1_001)])
        assert sum(lengths) == 1_000
        assert all(longer > 2 * shorter for longer, shorter in pairwise(lengths))

    def test_dead_rows_never_outnumber_live_rows(self, rng: np.random.Generator) -> None:
        made = [published(seq, f"v{seq}", embedding(rng)) for seq in range(1, 101)]
        gone = [[deleted(100 + seq, f"v{seq}")] for seq in range(1, 96)]
        assert sum(self._lengths([made, *gone])) <= 2 * 5
        assert self._lengths([made, [change for batch in gone for change in batch]]) == [5]
        assert self._lengths([[*made, *(change for batch in gone for change in batch)]]) == [5]

    def _lengths(self, batches: list[list[Change]]) -> list[int]:
        index = FaissIndex(EMBEDDER)
        index.reset("epoch", replacing=index.position)
        for batch in batches:
            index.apply(batch)
        (model,) = index.state.models.values()
        return [segment.row_count for segment in model.segments]


def test_scores_and_ties_do_not_depend_on_the_summation_order() -> None:
    """At the size of a real embedder, with rows at every offset and in batches of every length."""
    rng = np.random.default_rng(5)
    spec = EmbedderSpec("tests/wide", EMBEDDER.fingerprint, image_size=384, text_size=385)
    parts = [TaskEmbedding(direction(rng, 384), direction(rng, 385)) for _ in range(40)]
    log = [
        published(seq, f"v{rng.integers(10**9):09}", *[parts[n] for n in rng.integers(0, 40, size=rng.integers(1, 6))])
        for seq in range(1, 200)
    ]
    fast, plain = FaissIndex(spec), MemoryIndex(spec)
    for index in (fast, plain):
        index.reset("epoch", replacing=index.position)
        for start in range(0, len(log), 13):
            index.apply(log[start : start + 13])
    for query in parts:
        for k in (1, 10, 50):
            assert fast.search(query, model="m", k=k) == plain.search(query, model="m", k=k)


def test_an_index_without_an_embedder_says_what_it_waits_for(rng: np.random.Generator) -> None:
    index = LateIndex()
    assert index.position is None
    for use in (
        lambda: index.reset("epoch", replacing=None),
        lambda: index.apply([]),
        lambda: index.search(embedding(rng), model="m", k=1),
    ):
        with pytest.raises(WorkerUnavailable, match="no worker has reported its embedder"):
            use()
