"""Registrations per second, compared with bare writes of the same bytes and keys without any guarantee."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
from ulid import ULID

from tests.bench.library.keys import KEYS, SPEC, Tasks, keys_of
from tests.bench.spread import balanced, in_turn
from tests.faults.processes.servers import Servers, ServerWorld
from tests.support import samples
from tests.support.memory.index import MemoryIndex
from tests.support.memory.worker import CONTEXT_LENGTH, MemoryWorker
from vlibrary.adapters.artifacts.s3 import S3Artifacts
from vlibrary.adapters.clock import SystemClock
from vlibrary.adapters.sql.catalogue import sql_catalogue
from vlibrary.adapters.sql.database import connect
from vlibrary.domain.card import VectorCard
from vlibrary.domain.query import Query, TaskEmbedding
from vlibrary.domain.vector import ModelSpec, SteeringVector, check_applicable
from vlibrary.domain.wire import WorkerInfo
from vlibrary.library.library import Library
from vlibrary.library.publish import Submission, publish

CLIENTS = 4
EACH = 6
PAIRS = 12  # all of it stays in the memory of the S3 server, which takes 1 GB
# As large as those of the 7 B models that most vectors are for: 1 MB.
MODEL = ModelSpec("bench/lvlm-7b", "c" * 64, "Llava", layers=32, hidden_size=4_096)


class SizedWorker(MemoryWorker):
    """Serves a model of a usual size; embeds at no cost."""

    def models(self) -> tuple[WorkerInfo, ...]:
        return (WorkerInfo(model=MODEL, embedder=SPEC, context_length=CONTEXT_LENGTH),)

    def check(self, vector: SteeringVector) -> None:
        check_applicable(vector, MODEL)

    def embed(self, query: Query) -> TaskEmbedding:
        return TaskEmbedding(text=np.eye(1, SPEC.text_size, dtype=np.float32)[0])


def registrations(servers: Servers, folder: Path) -> dict[str, float]:
    """Measure register_ratio: registrations per second ÷ bare puts and inserts per second, with CLIENTS threads."""
    world = servers.world(folder)
    artifact = samples.artifact(MODEL)
    card = _card()
    engine = connect(world.database_url)
    artifacts = S3Artifacts(world.client, world.bucket)
    worker = SizedWorker(artifacts)
    library = Library(sql_catalogue(engine), artifacts, MemoryIndex(worker.models()[0].embedder), worker, SystemClock())
    with ThreadPoolExecutor(CLIENTS) as pool, _bare(world, artifact, card) as put:
        times = in_turn(
            partial(_by_all, pool, partial(publish, Submission(artifact, card), library)),
            partial(_by_all, pool, put),
            PAIRS,
        )
    engine.dispose()
    warm = balanced(times)[1:]
    ours, bare = (2 * CLIENTS * EACH / statistics.median(side) for side in zip(*warm, strict=True))
    return {"register_ratio": ours / bare, "registrations_per_s": ours, "bare_per_s": bare}


def _by_all(pool: ThreadPoolExecutor, action: Callable[[], object]) -> None:
    def some() -> None:
        for _ in range(EACH):
            action()

    for done in [pool.submit(some) for _ in range(CLIENTS)]:
        done.result()


@contextmanager
def _bare(world: ServerWorld, artifact: bytes, card: VectorCard) -> Iterator[Callable[[], object]]:
    """Yield a function that puts an object, inserts a row with the same keys and commits; one connection per thread."""
    address = world.database_url.replace("+psycopg", "")
    keys = b"".join(key.embedding.row(SPEC).tobytes() for key in card.keys)
    with psycopg.connect(address) as connection:
        connection.execute("CREATE TABLE bare (id text PRIMARY KEY, keys bytea)")
    own = threading.local()
    with ExitStack() as closing:

        def put() -> None:
            if not hasattr(own, "connection"):
                own.connection = closing.enter_context(psycopg.connect(address))
            name = str(ULID())
            world.client.put_object(Bucket=world.bucket, Key=name, Body=artifact)
            own.connection.execute("INSERT INTO bare VALUES (%s, %s)", (name, keys))
            own.connection.commit()

        yield put


def _card() -> VectorCard:
    rng = np.random.default_rng(0)
    keys = keys_of(Tasks.random(1, rng).rows(slice(None), rng))[: KEYS - 1]  # the description's is added
    return VectorCard("task", "A task.", SPEC.fingerprint, keys)
