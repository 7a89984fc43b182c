"""Import on every catalogue: ids are kept, object keys are not, and purged vectors are not imported."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest

from tests.support.library import memory_library, register
from tests.support.memory.worker import MODEL
from tests.support.samples import artifact, card
from vlibrary.domain.errors import VectorExists, VectorPurged
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import Query
from vlibrary.formats.archive import Item, open_archive, pack
from vlibrary.formats.card import parse_card
from vlibrary.library.library import Library
from vlibrary.library.references import resolve
from vlibrary.library.retrieve import retrieve
from vlibrary.library.transfer import Loaded, Loader, Outcome, export

VECTOR_ID = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"


def load(library: Library, data: bytes, *, update: bool = False) -> Loaded:
    """Return the outcome of the archive's only vector."""
    loader = Loader(
        library=library,
        artifact_bytes=10_000,
        card_bytes=10_000,
        update=update,
    )
    (loaded,) = loader.load(open_archive(io.BytesIO(data)))
    return loaded


def test_an_imported_vector_keeps_its_id_and_gets_its_own_object(catalogue: Catalogue) -> None:
    library = replace(memory_library(), catalogue=catalogue)
    text = card("colour", "Which hue?", tags=["a"], metadata={"shots": 16}).encode()
    data = b"".join(pack([Item.of(VECTOR_ID, "colour", 7, artifact(MODEL), text)]))
    assert load(library, data).outcome is Outcome.IMPORTED
    record = resolve("colour:1", catalogue)
    assert (record.id, record.tags, record.metadata) == (VECTOR_ID, ("a",), {"shots": 16})
    assert VECTOR_ID not in record.object_key
    assert library.artifacts.get(record.object_key, record.sha256) == artifact(MODEL)
    before = catalogue.change_log.position()
    assert load(library, data).outcome is Outcome.PRESENT
    assert catalogue.change_log.position() == before


def test_a_vector_that_was_purged_is_not_imported_again(catalogue: Catalogue) -> None:
    library = replace(memory_library(), catalogue=catalogue)
    record = register(library, "colour", "Which hue?")
    data = b"".join(export(Filter(), library))
    forget(library, record.id)
    assert isinstance(load(library, data).error, VectorExists)


def test_an_imported_vector_that_was_purged_is_not_imported_again(catalogue: Catalogue) -> None:
    library = replace(memory_library(), catalogue=catalogue)
    text = card("colour", "Which hue?").encode()
    data = b"".join(pack([Item.of(VECTOR_ID, "colour", 1, artifact(MODEL), text)]))
    assert load(library, data).outcome is Outcome.IMPORTED
    forget(library, VECTOR_ID)
    assert isinstance(load(library, data).error, VectorPurged)


def packed(name: str = "colour", description: str = "Which hue?", **more: Any) -> bytes:
    """Return an archive of one vector with this card."""
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
def test_a_vector_with_another_card_is_changed_only_on_request(catalogue: Catalogue, other: bytes) -> None:
    library = replace(memory_library(), catalogue=catalogue)
    first = load(library, packed(tags=["a"], metadata={"shots": 1})).record
    assert first is not None
    before = catalogue.change_log.position()
    assert load(library, other).outcome is Outcome.DIFFERS
    assert (catalogue.change_log.position(), catalogue.vectors.get(VECTOR_ID).revision) == (before, 1)
    updated = load(library, other, update=True)
    assert updated.outcome is Outcome.UPDATED
    assert updated.seq == catalogue.change_log.position().seq
    record = catalogue.vectors.get(VECTOR_ID)
    text = parse_card(open_archive(io.BytesIO(other)).item(updated.entry, artifact_bytes=9_999, card_bytes=9_999).card)
    assert (record.card.description, record.tags, dict(record.metadata)) == (text.description, text.tags, text.metadata)
    assert type(record.metadata.get("shots")) is type(text.metadata.get("shots"))
    assert (record.version, record.revision, record.created_at) == (1, 2, first.created_at)
    assert load(library, other, update=True).outcome is Outcome.PRESENT
    found = retrieve(Query(text=text.description), library, k=1, model_id=None)
    assert found.matches[0].score == pytest.approx(1.0)


def test_a_deleted_vector_is_not_updated(catalogue: Catalogue) -> None:
    library = replace(memory_library(), catalogue=catalogue)
    load(library, packed())
    catalogue.vectors.delete(VECTOR_ID)
    assert load(library, packed()).outcome is Outcome.PRESENT
    assert load(library, packed(tags=["b"]), update=True).outcome is Outcome.DIFFERS
    assert catalogue.vectors.get(VECTOR_ID, deleted=True).tags == ()


def test_the_same_bytes_under_another_name_are_another_vector(catalogue: Catalogue) -> None:
    library = replace(memory_library(), catalogue=catalogue)
    load(library, packed())
    refused = load(library, packed("form"), update=True)
    assert isinstance(refused.error, VectorExists)
    assert "colour version 1" in refused.error.detail


def forget(library: Library, vector_id: str) -> None:
    library.catalogue.vectors.delete(vector_id)
    library.catalogue.vectors.purge(vector_id)
