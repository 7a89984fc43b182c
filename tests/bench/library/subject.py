"""A SQL catalogue and the task index built from it, as in an api process."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine

from tests.bench.library.keys import BUCKETS, KEYS, SPEC, Tasks, keys_of
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.registrations import draft, upload
from vlibrary.adapters.index.build import IndexLimits
from vlibrary.adapters.index.faiss_index import FaissIndex
from vlibrary.adapters.index.segment import Segment
from vlibrary.adapters.sql import registrations
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect, for_writing
from vlibrary.adapters.sql.schema import upgrade
from vlibrary.adapters.sql.transactions import Writer
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.registration import ANONYMOUS
from vlibrary.domain.vector import Array
from vlibrary.library.reindex import catch_up

BATCH = 500


class Prepared(MemoryWorker):
    """Returns a prepared embedding, so that only the retrieval is measured."""

    def __init__(self) -> None:
        super().__init__(MemoryArtifacts())
        self.next = TaskEmbedding()

    def embed(self, query: Query) -> TaskEmbedding:
        return self.next


@dataclass(frozen=True, eq=False)
class Subject:
    """The library under test. rows: all keys [n, d], ordered by vector; ids, buckets: of each row's vector."""

    catalogue: Catalogue
    index: FaissIndex
    exact: FaissIndex
    rows: Array
    ids: list[str]
    buckets: list[int]
    queries: list[TaskEmbedding]

    @property
    def main(self) -> Segment:
        main = self.index.state.models[MODEL.fingerprint].main
        assert main is not None
        return main

    @property
    def vectors(self) -> list[str]:
        return self.ids[::KEYS]


def build(keys: int, queries: int, limits: IndexLimits, scratch: Path, registered: Callable[[int], object]) -> Subject:
    """Register vectors with `keys` keys; index them as a service does, and a second time for exact search.

    registered: called with the number of keys registered since the last call.
    """
    rng = np.random.default_rng(0)
    tasks = Tasks.random(keys // KEYS, rng)
    rows = tasks.rows(slice(None), rng)
    url = f"sqlite:///{scratch / 'catalogue.db'}"
    upgrade(url)
    engine = connect(url)
    vectors: list[str] = []
    for start in range(0, len(tasks), BATCH):
        vectors += _register(engine, rows[start * KEYS : (start + BATCH) * KEYS], start)
        registered(BATCH * KEYS)
    catalogue = sql_catalogue(engine)
    index, exact = FaissIndex(SPEC, limits), FaissIndex(SPEC, IndexLimits(exact=keys))
    for one in (index, exact):
        catch_up(catalogue.change_log, one)
        while one.compact():
            pass
    ids = [vector_id for vector_id in vectors for _ in range(KEYS)]
    buckets = [number // KEYS % BUCKETS for number in range(len(rows))]
    return Subject(catalogue, index, exact, rows, ids, buckets, tasks.queries(queries, rng))


def _register(engine: Engine, rows: Array, first: int) -> list[str]:
    """Register one vector per group of keys, all in one transaction; return their ids."""
    ids = []
    with for_writing(engine).begin() as connection:
        for number in range(len(rows) // KEYS):
            writer, new = Writer(connection, ANONYMOUS, uuid.uuid4().hex), upload()
            card: dict[str, Any] = {
                "keys": keys_of(rows[number * KEYS : (number + 1) * KEYS]),
                "embedder": SPEC.fingerprint,
                "tags": (f"bucket-{(first + number) % BUCKETS}",),
            }
            assert registrations.reserve(writer, new) is None
            registrations.publish(writer, new, draft(new, f"task-{first + number}", model=MODEL, **card))
            ids.append(new.vector_id)
    return ids
