"""Of equally good vectors the last registered wins, whatever their ids and however the index came to its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.support.indexes import ALL, MergedIndex, RestartedIndex
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.index import MemoryIndex
from tests.support.memory.worker import EMBEDDER as WORKER_EMBEDDER
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.registrations import EMBEDDER, deleted, embedding, published
from tests.support.samples import artifact, card
from vlibrary.adapters.clock import SystemClock
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.snapshots.folder import FolderSnapshots
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.domain.changes import Change, ChangeKind
from vlibrary.domain.ports.task_index import TaskIndex
from vlibrary.domain.query import Query
from vlibrary.formats.card import parse_card
from vlibrary.library.library import Library
from vlibrary.library.publish import Submission, publish
from vlibrary.library.reindex import catch_up
from vlibrary.library.retrieve import retrieve

OLDEST_ID = "01" + "0" * 24
DESCRIPTION = "what colour is the square?"


@pytest.fixture(params=ALL)
def index(request: pytest.FixtureRequest) -> TaskIndex:
    return started(ALL[request.param](EMBEDDER))


def started(index: TaskIndex) -> TaskIndex:
    index.reset("epoch", replacing=index.position)
    return index


def search(index: TaskIndex, k: int = 9) -> list[str]:
    query = embedding(np.random.default_rng(1))
    return [hit.vector_id for hit in index.search(query, model="m", k=k)]


def equal(seq: int, vector_id: str, kind: ChangeKind = ChangeKind.PUBLISHED, *, registered: int = 0) -> Change:
    change = published(seq, vector_id, embedding(np.random.default_rng(2)))
    return replace(change, kind=kind, registered=registered or seq)


def test_the_last_registered_comes_first_whatever_its_id(index: TaskIndex) -> None:
    ids = [f"v{number:02}" for number in np.random.default_rng(0).permutation(60)]
    for seq, vector_id in enumerate(ids, start=1):
        index.apply([equal(seq, vector_id)])
    for k in (1, 2, 7):
        assert search(index, k) == ids[::-1][:k]


def test_one_batch_gives_the_same_order_as_single_changes(index: TaskIndex) -> None:
    index.apply([equal(seq, vector_id) for seq, vector_id in enumerate("cab", start=1)])
    assert search(index) == ["b", "a", "c"]


@pytest.mark.parametrize("batches", [1, 5])
def test_amending_and_restoring_does_not_make_a_vector_newer(index: TaskIndex, batches: int) -> None:
    log = [
        equal(1, "c"),
        equal(2, "a"),
        equal(3, "b"),
        equal(4, "c", ChangeKind.REKEYED, registered=1),
        deleted(5, "a"),
        equal(6, "a", ChangeKind.RESTORED, registered=2),
    ]
    for part in np.array_split(np.arange(len(log)), batches):
        index.apply([log[number] for number in part])
    assert search(index) == ["b", "a", "c"]


@pytest.mark.parametrize("kind", [MergedIndex, RestartedIndex])
def test_inverted_lists_find_the_newest_of_many_equal_vectors(kind: type[MergedIndex]) -> None:
    rng = np.random.default_rng(3)
    index = started(kind(EMBEDDER, IndexLimits(exact=500, merged=100)))
    ids = [f"v{number:04}" for number in rng.permutation(4_000)]
    for start in range(0, 4_000, 1_000):
        index.apply(
            [
                equal(seq, ids[seq - 1]) if seq % 2 == 0 else published(seq, ids[seq - 1], embedding(rng))
                for seq in range(start + 1, start + 1_001)
            ]
        )
    amended = [2 * number for number in rng.permutation(range(1, 2_001)).tolist()]  # rows are not in registration order
    index.apply(
        [
            equal(4_001 + number, ids[registered - 1], ChangeKind.REKEYED, registered=registered)
            for number, registered in enumerate(amended)
        ]
    )
    query = embedding(np.random.default_rng(2))
    for k in (1, 2, 10, 40):
        hits = index.search(query, model="m", k=k)
        assert [hit.vector_id for hit in hits] == [ids[seq - 1] for seq in range(4_000, 0, -2)][:k]


class TestImported:
    """A vector keeps its id when it is imported, so a later version can have an older id than its predecessor."""

    @pytest.fixture
    def engine(self, new_sqlite: Callable[[], str]) -> Iterator[Engine]:
        engine = connect(new_sqlite())
        yield engine
        engine.dispose()

    @pytest.mark.parametrize("make", [MemoryIndex, FaissIndex])
    def test_the_later_version_is_retrieved(
        self, engine: Engine, make: Callable[..., TaskIndex], tmp_path: Path
    ) -> None:
        catalogue, artifacts, index = sql_catalogue(engine), MemoryArtifacts(), make(WORKER_EMBEDDER)
        library = Library(
            catalogue=catalogue, artifacts=artifacts, index=index, worker=MemoryWorker(artifacts), clock=SystemClock()
        )

        def register(seed: int, vector_id: str | None = None) -> None:
            submission = Submission(artifact(MODEL, seed), parse_card(card("colour", DESCRIPTION)), vector_id=vector_id)
            publish(submission, library)

        def versions(index: TaskIndex, k: int) -> list[int]:
            found = retrieve(Query(DESCRIPTION), replace(library, index=index), k=k, model_id=None)
            return [match.record.version for match in found.matches]

        register(0)
        register(1, OLDEST_ID)
        assert (versions(index, 1), versions(index, 2)) == ([2], [2, 1])
        rebuilt = make(WORKER_EMBEDDER)
        catch_up(catalogue.change_log, rebuilt)
        assert (versions(rebuilt, 1), versions(rebuilt, 2)) == ([2], [2, 1])
        if isinstance(index, FaissIndex):
            snapshots = FolderSnapshots(tmp_path)
            index.save(snapshots)
            restarted = FaissIndex(WORKER_EMBEDDER)
            assert restarted.load(snapshots, catalogue.change_log.position().epoch) == index.position
            assert (versions(restarted, 1), versions(restarted, 2)) == ([2], [2, 1])
