"""A real catalogue and the task index filled from it, as an api process holds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.adapters.catalogue_sql import SqlCatalogue
from service.adapters.database import connect
from service.adapters.index_faiss import FaissIndex
from service.adapters.index_kinds import Kinds
from service.adapters.index_segment import Segment
from service.adapters.memory import MemoryArtifacts
from service.adapters.memory_worker import MODEL, MemoryWorker
from service.adapters.schema import upgrade
from service.domain.ports import Catalogue
from service.domain.query import Query, TaskEmbedding
from service.domain.vector import Array
from service.library.reindex import catch_up
from tests.bench.library_keys import BUCKETS, KEYS, SPEC, Tasks, keys_of
from tests.support.registrations import register

MODEL_ID = MODEL.model_id


class Prepared(MemoryWorker):
    """Has the query's embedding at hand, so that only the retrieval is measured."""

    def __init__(self) -> None:
        super().__init__(MemoryArtifacts())
        self.next = TaskEmbedding()

    def embed(self, query: Query) -> TaskEmbedding:
        return self.next


@dataclass(frozen=True, eq=False)
class Subject:
    """rows: all keys [n, d], in the order of their vectors; ids, buckets: of the vector that each belongs to."""

    catalogue: Catalogue
    index: FaissIndex
    exact: FaissIndex
    rows: Array
    ids: list[str]
    buckets: list[int]
    queries: list[TaskEmbedding]

    @property
    def main(self) -> Segment:
        main = self.index.state.shelves[MODEL_ID].main
        assert main is not None
        return main

    @property
    def vectors(self) -> list[str]:
        return self.ids[::KEYS]


def build(keys: int, queries: int, kinds: Kinds, scratch: Path) -> Subject:
    """Registers so many keys, and has them indexed, once as a service would and once exactly."""
    rng = np.random.default_rng(0)
    tasks = Tasks.random(keys // KEYS, rng)
    rows = tasks.rows(slice(None), rng)
    url = f"sqlite:///{scratch / 'catalogue.db'}"
    upgrade(url)
    catalogue = SqlCatalogue(connect(url))
    ids = []
    for number in range(len(tasks)):
        record = register(
            catalogue,
            f"task-{number}",
            model=MODEL,
            keys=keys_of(rows[number * KEYS : (number + 1) * KEYS]),
            embedder=SPEC.fingerprint,
            tags=(f"bucket-{number % BUCKETS}",),
        )
        ids += [record.id] * KEYS
    index, exact = FaissIndex(SPEC, kinds), FaissIndex(SPEC, Kinds(exact=keys))
    for one in (index, exact):
        catch_up(catalogue, one)
        while one.compact():
            pass
    buckets = [number // KEYS % BUCKETS for number in range(len(rows))]
    return Subject(catalogue, index, exact, rows, ids, buckets, tasks.queries(queries, rng))
