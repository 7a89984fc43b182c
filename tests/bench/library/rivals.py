"""Other vector stores with the same keys: each searches for the ten nearest, with and without a filter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.postgres_server import NotAvailable, PostgresServer
from vlibrary.domain.vector import Array

K = 10
BATCH = 5_000

Ask = Callable[[Array], object]


@dataclass(frozen=True)
class Rival:
    """Searches of one store by a query row [d]. filtered: among one bucket of a hundred."""

    plain: Ask
    filtered: Ask


class Absent(Exception):
    """The store is not available on this machine; the message says why."""


@contextmanager
def pgvector(rows: Array, buckets: list[int], bucket: int, scratch: Path) -> Iterator[Rival]:
    """PostgreSQL with an HNSW index and a B-tree on the bucket, over a socket, prepared statements."""
    try:
        server = PostgresServer.create()
    except NotAvailable as reason:
        raise Absent(str(reason)) from reason
    import psycopg

    try:
        with psycopg.connect(server.url(server.new_database()).replace("+psycopg", ""), autocommit=True) as connection:
            _fill_postgres(connection, rows, buckets)
            plain = "SELECT id FROM keys ORDER BY row <#> %s::vector LIMIT 10"
            filtered = f"SELECT id FROM keys WHERE bucket = {bucket} ORDER BY row <#> %s::vector LIMIT 10"
            yield Rival(*(_postgres_ask(connection, query) for query in (plain, filtered)))
    finally:
        server.stop()


def _fill_postgres(connection: Any, rows: Array, buckets: list[int]) -> None:
    connection.execute("CREATE EXTENSION vector")
    connection.execute("SET maintenance_work_mem = '1GB'")
    connection.execute("SET max_parallel_maintenance_workers = 0")
    connection.execute(f"CREATE TABLE keys (id int PRIMARY KEY, bucket int, row vector({rows.shape[1]}))")
    with connection.cursor().copy("COPY keys FROM STDIN") as copy:
        for number, (row, bucket) in enumerate(zip(rows, buckets, strict=True)):
            copy.write_row((number, bucket, _text(row)))
    connection.execute("CREATE INDEX ON keys USING hnsw (row vector_ip_ops)")
    connection.execute("CREATE INDEX ON keys (bucket)")
    connection.execute("ANALYZE keys")


def _postgres_ask(connection: Any, query: str) -> Ask:
    return lambda row: connection.execute(query, (_text(row),), prepare=True).fetchall()


def _text(row: Array) -> str:
    return "[" + ",".join(map(str, row.tolist())) + "]"


@contextmanager
def chroma(rows: Array, buckets: list[int], bucket: int, scratch: Path) -> Iterator[Rival]:
    """Chroma in this process, without HTTP."""
    try:
        import chromadb
    except ImportError as reason:
        raise Absent("the package chromadb (extra: bench) is not installed") from reason
    client = chromadb.PersistentClient(
        str(scratch / "chroma"), settings=chromadb.config.Settings(anonymized_telemetry=False)
    )
    keys = client.create_collection("keys", metadata={"hnsw:space": "ip"}, embedding_function=None)
    for start in range(0, len(rows), BATCH):
        part = range(start, min(start + BATCH, len(rows)))
        keys.add(
            ids=[str(number) for number in part],
            embeddings=rows[part.start : part.stop],
            metadatas=[{"bucket": buckets[number]} for number in part],
        )
    ask = partial(keys.query, n_results=K, include=["distances"])
    yield Rival(
        lambda row: ask(query_embeddings=row[None]),
        lambda row: ask(query_embeddings=row[None], where={"bucket": bucket}),
    )


@contextmanager
def lancedb(rows: Array, buckets: list[int], bucket: int, scratch: Path) -> Iterator[Rival]:
    """LanceDB inside this process, IVF_HNSW_SQ, with a scalar index on the bucket."""
    try:
        import lancedb as lance
        import pyarrow as arrow
    except ImportError as reason:
        raise Absent("the package lancedb (extra: bench) is not installed") from reason
    size = rows.shape[1]
    data = arrow.table(
        {
            "id": np.arange(len(rows)),
            "bucket": buckets,
            "vector": arrow.FixedSizeListArray.from_arrays(arrow.array(rows.reshape(-1)), size),
        }
    )
    table = lance.connect(str(scratch / "lance")).create_table("keys", data)
    table.create_index(metric="dot", index_type="IVF_HNSW_SQ")
    table.create_scalar_index("bucket")
    yield Rival(
        lambda row: table.search(row).distance_type("dot").limit(K).select(["id", "_distance"]).to_arrow(),
        lambda row: (
            table.search(row)
            .distance_type("dot")
            .where(f"bucket = {bucket}")
            .limit(K)
            .select(["id", "_distance"])
            .to_arrow()
        ),
    )


RIVALS = {"pgvector": pgvector, "chroma": chroma, "lancedb": lancedb}
