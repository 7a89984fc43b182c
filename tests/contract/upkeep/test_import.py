"""Importing on every catalogue: ids are kept, object keys are not, and what was purged does not come back."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from tests.support.library import memory_ports, register
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.api.http.deps import Ports
from vlibrary.domain.errors import VectorExists, VectorPurged
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports import Catalogue
from vlibrary.domain.query import Query
from vlibrary.formats.archive import Item, open_archive, pack
from vlibrary.formats.card import parse_card
from vlibrary.library.references import resolve
from vlibrary.library.retrieve import retrieve
from vlibrary.library.transfer import Loaded, Loader, Outcome, export

VECTOR_ID = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"


def load(ports: Ports, data: bytes, *, update: bool = False) -> Loaded:
    """What became of the archive's only vector."""
    loader = Loader(
        catalogue=ports.catalogue,
        artifacts=ports.artifacts,
        worker=ports.worker,
        clock=ports.clock,
        artifact_bytes=10_000,
        card_bytes=10_000,
        update=update,
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


def packed(name: str = "colour", description: str = "Which hue?", **more: Any) -> bytes:
    """An archive of one vector with this card."""
    text = card(name, description, **more).encode()
    return b"".join(pack([Item.of(VECTOR_ID, name, 1, artifact(MODEL), text)]))


@pytest.mark.parametrize(
    "other",
    [
        packed(description="Which colour?", tags=["a"], metadata={"shots": 1}),
        packed(tags=["a", "b"], metadata={"shots": 1}),
        packed(tags=["a"], metadata={"shots": True}),
        packed(),
    ],
    ids=["description", "tags", "metadata", "nothing"],
)
def test_a_vector_with_another_card_stays_as_it_is_unless_it_shall_be_updated(
    catalogue: Catalogue, other: bytes
) -> None:
    ports = replace(memory_ports(), catalogue=catalogue)
    first = load(ports, packed(tags=["a"], metadata={"shots": 1})).record
    assert first is not None
    before = catalogue.position()
    assert load(ports, other).outcome is Outcome.DIFFERS
    assert (catalogue.position(), catalogue.get(VECTOR_ID).revision) == (before, 1)
    updated = load(ports, other, update=True)
    assert updated.outcome is Outcome.UPDATED
    assert updated.seq == catalogue.position().seq
    record = catalogue.get(VECTOR_ID)
    text = parse_card(open_archive(io.BytesIO(other)).item(updated.entry, artifact_bytes=9_999, card_bytes=9_999).card)
    assert (record.card.description, record.tags, dict(record.metadata)) == (text.description, text.tags, text.metadata)
    assert type(record.metadata.get("shots")) is type(text.metadata.get("shots"))
    assert (record.version, record.revision, record.created_at) == (1, 2, first.created_at)
    assert load(ports, other, update=True).outcome is Outcome.PRESENT
    found = retrieve(Query(text=text.description), k=1, model_id=None, **asked(ports))
    assert found[0].score == pytest.approx(1.0)


def test_a_deleted_vector_is_not_updated(catalogue: Catalogue) -> None:
    ports = replace(memory_ports(), catalogue=catalogue)
    load(ports, packed())
    catalogue.delete(VECTOR_ID)
    assert load(ports, packed()).outcome is Outcome.PRESENT
    assert load(ports, packed(tags=["b"]), update=True).outcome is Outcome.DIFFERS
    assert catalogue.get(VECTOR_ID, deleted=True).tags == ()


def test_the_same_bytes_under_another_name_are_another_vector(catalogue: Catalogue) -> None:
    ports = replace(memory_ports(), catalogue=catalogue)
    load(ports, packed())
    refused = load(ports, packed("form"), update=True)
    assert isinstance(refused.error, VectorExists)
    assert "colour version 1" in refused.error.detail


def asked(ports: Ports) -> dict[str, Any]:
    return {"catalogue": ports.catalogue, "index": ports.index, "worker": ports.worker}


def forget(ports: Ports, vector_id: str) -> None:
    ports.catalogue.delete(vector_id)
    ports.catalogue.purge(vector_id)
