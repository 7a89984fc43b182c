"""The delay until another replica finds a registration, and the number of searches there that miss it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from tests.faults.processes.api_process import Api, Door
from tests.faults.processes.servers import Servers
from tests.support import samples
from tests.support.memory.worker import MODEL
from vlibrary.config import Settings

WRITES_PER_S = 50
CLIENTS = 16
K = 10
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Seen:
    """One registration. acked: time of the acknowledgement; lag_s: from then until a search found it.

    searches: all of them began after the acknowledgement, so every one except the last was wrong.
    """

    acked: float
    lag_s: float
    searches: int


def lag(servers: Servers, folder: Path, duration_s: float) -> dict[str, float]:
    """Register on one api process, search on another at once; both use PostgreSQL and S3.

    lag_misses: searches that began after the acknowledgement and did not find the vector.
    """
    world = servers.world(folder)
    usual = Settings.model_fields["snapshot_changes"].default
    life = replace(world.life(), s3_endpoint_url=servers.s3.endpoint, snapshot_changes=usual)
    with ExitStack() as ending:
        writer, reader = (Api(replace(life, name=name)) for name in ("writer", "reader"))
        for api in (writer, reader):
            ending.callback(api.kill)
        _one(writer.door, reader.door, time.perf_counter(), -1)  # connections, and what is only loaded when needed
        start = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            ask = partial(_one, writer.door, reader.door, start)
            seen = list(pool.map(ask, range(round(duration_s * WRITES_PER_S))))
    lags = [one.lag_s for one in seen]
    return {
        "lag_p99_s": float(np.quantile(lags, 0.99)),
        "lag_misses": float(sum(one.searches - 1 for one in seen)),
        "lag_p50_s": float(np.quantile(lags, 0.5)),
        "lag_writes_per_s": len(seen) / (max(one.acked for one in seen) - start),
    }


def _one(writer: Door, reader: Door, start: float, number: int) -> Seen:
    """Register vector `number` at its scheduled time and search until it is found."""
    time.sleep(max(0.0, start + number / WRITES_PER_S - time.perf_counter()))
    description = f"what is the number {number} {number * 7919 % 99_991}"
    made = writer.register(samples.artifact(MODEL, number + 1), samples.card("numbers", description))
    acked = time.perf_counter()
    searches = 0
    while time.perf_counter() - acked < PATIENCE_S:
        searches += 1
        if any(match.id == made.id for match in reader.retrieve(description, k=K)):
            return Seen(acked, time.perf_counter() - acked, searches)
    raise TimeoutError(f"vector {made.id} was not found on the other replica in {PATIENCE_S:.0f} s")
