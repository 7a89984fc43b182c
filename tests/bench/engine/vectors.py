"""The time that loading a vector adds to a request: from the object store, and when it is in its slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from tests.bench.engine.subject import Subject
from tests.bench.spread import Spread, seconds
from tests.model.samples import vector
from vlibrary.adapters.artifacts.folder import FolderArtifacts
from vlibrary.domain.ports.artifacts import Artifacts
from vlibrary.domain.vector import ModelSpec
from vlibrary.domain.wire import ArtifactAtStrength
from vlibrary.formats.artifact import encode, sha256_of
from vlibrary.steering.slot_table import SlotTable
from vlibrary.worker.residency import Residency

# What an 8 B model's vector has: 32 layers of width 4096, two branches, about 1 MB.
REAL = ModelSpec("bench/real-size", "f" * 64, "Real", layers=32, hidden_size=4096)


def stored(store: Artifacts, spec: ModelSpec, count: int) -> list[ArtifactAtStrength]:
    """Put `count` different vectors into the store; return their references."""
    references = []
    for seed in range(count):
        data = encode(vector(spec, seed))
        digest = sha256_of(data)
        store.put(f"v/{digest}", data, digest)
        references.append(ArtifactAtStrength("v", f"v/{digest}", digest))
    return references


def cost_of_fetching(subject: Subject) -> Mapping[str, Spread]:
    """Measure the milliseconds from a reference to a filled slot, for vectors of the size of an 8 B model."""
    model, count = subject.lvlm.model, subject.size.singles
    store = FolderArtifacts(subject.scratch / "real-size")
    table = SlotTable(REAL, count, model.device, model.dtype)
    residency = Residency(store, table.check, count, observe_load=lambda _seconds: None)

    def fetch(reference: ArtifactAtStrength) -> None:
        found, key = residency.get((reference,))
        assert found is not None
        table.load(found, key=key)
        if model.device.type == "cuda":
            torch.cuda.synchronize()

    references = stored(store, REAL, count)
    cold, warm = (_milliseconds([partial(fetch, one) for one in references]) for _ in range(2))
    return {"cold_ms": cold, "warm_ms": warm}


def _milliseconds(actions: Sequence[partial[None]]) -> Spread:
    return Spread.of([1000 * seconds(action) for action in actions])
