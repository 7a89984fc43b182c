"""Importing on every catalogue: ids are kept, object keys are not, and what was purged does not come back."""

from __future__ import annotations

import io
from dataclasses import replace

from service.adapters.memory_worker import MODEL
from service.api.deps import Ports
from service.archive import Item, open_archive, pack
from service.domain.errors import VectorExists, VectorPurged
from service.domain.filters import Filter
from service.domain.ports import Catalogue
from service.library.archive import Loaded, Loader, Outcome, export
from service.library.lifecycle import purge
from service.library.resolve import resolve
from service.library.retire import retire
from tests.support.library import memory_ports, register
from tests.support.samples import artifact, card

VECTOR_ID = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"


def load(ports: Ports, data: bytes) -> Loaded:
    """What became of the archive's only vector."""
    loader = Loader(
        catalogue=ports.catalogue,
        artifacts=ports.artifacts,
        index=ports.index,
        worker=ports.worker,
        clock=ports.clock,
        artifact_bytes=10_000,
        card_bytes=10_000,
    )
    (loaded,) = loader.load(open_archive(io.BytesIO(data)))
    return loaded


def test_an_imported_vector_keeps_its_id_and_gets_an_object_of_its_own(catalogue: Catalogue) -> None:
    ports = replace(memory_ports(), catalogue=catalogue)
    text = card("colour", "Which hue?", tags=["a"], metadata={"shots": 16}).encode()
    data = b"".join(pack([Item.of(VECTOR_ID, "colour", 7, artifact(MODEL), text)]))
    assert load(ports, data).outcome is Outcome.IMPORTED
    record = resolve("colour:1", catalogue)
    assert (record.id, record.tags, record.metadata) == (VECTOR_ID, ("a",), {"shots": 16})
    assert VECTOR_ID not in record.object_key
    assert ports.artifacts.get(record.object_key, record.sha256) == artifact(MODEL)
    before = catalogue.position()
    assert load(ports, data).outcome is Outcome.PRESENT
    assert catalogue.position() == before


def test_a_vector_that_was_purged_is_not_imported_again(catalogue: Catalogue) -> None:
    ports = replace(memory_ports(), catalogue=catalogue)
    record = register(ports, "colour", "Which hue?")
    data = b"".join(export(Filter(), catalogue=catalogue, artifacts=ports.artifacts))
    forget(ports, record.id)
    assert isinstance(load(ports, data).error, VectorExists)


def test_an_imported_vector_that_was_purged_is_not_imported_again(catalogue: Catalogue) -> None:
    ports = replace(memory_ports(), catalogue=catalogue)
    text = card("colour", "Which hue?").encode()
    data = b"".join(pack([Item.of(VECTOR_ID, "colour", 1, artifact(MODEL), text)]))
    assert load(ports, data).outcome is Outcome.IMPORTED
    forget(ports, VECTOR_ID)
    assert isinstance(load(ports, data).error, VectorPurged)


def forget(ports: Ports, vector_id: str) -> None:
    retire(vector_id, catalogue=ports.catalogue, index=ports.index)
    purge(vector_id, catalogue=ports.catalogue, index=ports.index)
