"""Naming, amending, aliasing and following vectors, on the in-memory twins."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.support.library import memory_library, register
from tests.support.memory.catalogue import MemoryAliases, MemoryVectors, memory_catalogue
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.samples import artifact, card
from vlibrary.domain.card import Status, VectorRecord
from vlibrary.domain.errors import (
    AliasNotFound,
    AliasTaken,
    InvalidCard,
    InvalidInput,
    NotDeleted,
    SeqNotReached,
    StaleRevision,
    StillAliased,
    VectorNotFound,
)
from vlibrary.domain.filters import Between, Filter, OneOf
from vlibrary.domain.query import EmbedderSpec, Query
from vlibrary.domain.registration import Alias, Amendment
from vlibrary.domain.wire import WorkerInfo
from vlibrary.formats.card import parse_card
from vlibrary.library import audit
from vlibrary.library.aliases import drop_alias, get_alias, set_alias
from vlibrary.library.audit import read_audit
from vlibrary.library.library import Library
from vlibrary.library.lineage import MAX_CHILDREN, lineage
from vlibrary.library.publish import Submission, publish
from vlibrary.library.references import resolve, resolve_fixed
from vlibrary.library.retrieve import retrieve
from vlibrary.library.vectors import amend

HUE = "Which hue has the shape?"
COUNT = "How many dogs are there?"


@pytest.fixture
def library() -> Library:
    return memory_library()


def find(library: Library, text: str, among: Filter | None = None, min_seq: int = 0) -> list[str]:
    found = retrieve(
        Query(text=text),
        k=5,
        model_id=None,
        library=library,
        among=among,
        min_seq=min_seq,
    )
    return [match.record.id for match in found.matches]


def change(library: Library, record: VectorRecord, changes: Amendment, *, revision: int | None = None) -> VectorRecord:
    after, seq = amend(
        record.id,
        changes,
        expected_revision=revision or record.revision,
        library=library,
        actor="ann",
    )
    assert seq == library.catalogue.change_log.position().seq
    return after


def derived(library: Library, name: str, *parents: str) -> VectorRecord:
    submission = Submission(artifact(MODEL), parse_card(card(name, HUE, derived_from=list(parents))))
    return publish(submission, library)


def test_a_reference_is_an_id_version_alias_or_name(library: Library) -> None:
    first, second = (register(library, "colour", HUE, seed=seed) for seed in (1, 2))
    register(library, "count", COUNT)
    set_alias("colour", "production", "colour:1", library.catalogue, expected=0)
    for reference, meant in {
        first.id: first,
        "colour:1": first,
        "colour@production": first,
        "colour:2": second,
        "colour": second,
    }.items():
        assert resolve(reference, library.catalogue).id == meant.id, reference
    library.catalogue.vectors.delete(second.id)
    assert resolve("colour", library.catalogue).id == first.id


@pytest.mark.parametrize(
    "reference",
    ["", ":", "@a", "colour:", "colour:0", "colour:2", "colour:1:1", "colour:1\n", "Colour", "a b", "x" * 200],
)
def test_a_reference_without_vector_is_not_found(library: Library, reference: str) -> None:
    register(library, "colour", HUE)
    with pytest.raises(VectorNotFound, match="name:3"):
        resolve(reference, library.catalogue)


def test_a_name_that_looks_like_an_id_is_resolved(library: Library) -> None:
    number = "0" * 26
    record = register(library, number, HUE)
    assert resolve(number, library.catalogue).id == record.id
    assert resolve(record.id, library.catalogue).id == record.id


def test_unknown_and_invalid_aliases_are_not_found(library: Library) -> None:
    with pytest.raises(AliasNotFound):
        resolve("colour@production", library.catalogue)
    with pytest.raises(VectorNotFound):
        resolve("colour@v3", library.catalogue)


def test_an_alias_that_moves_while_it_is_resolved_leads_to_its_new_vector() -> None:
    moves: list[tuple[VectorRecord, VectorRecord]] = []

    class MovingAliases(MemoryAliases):
        """Moves the alias and deletes its former target right after the alias is first read."""

        def get(self, name: str, alias: str) -> Alias:
            found = super().get(name, alias)
            if moves:
                old, new = moves.pop()
                self.set(name, alias, new.id, expected=found.revision)
                MemoryVectors(self._tables).delete(old.id)
            return found

    catalogue = memory_catalogue(aliases=MovingAliases)
    library = replace(memory_library(), catalogue=catalogue)
    old, new = (register(library, "colour", HUE, seed=seed) for seed in (1, 2))
    catalogue.aliases.set("colour", "production", old.id, expected=0)
    moves.append((old, new))
    assert resolve("colour@production", catalogue).id == new.id


def test_writes_refuse_moving_references(library: Library) -> None:
    record = register(library, "colour", HUE)
    for reference in ("colour:1", record.id):
        assert resolve_fixed(reference, library.catalogue).id == record.id
    for reference in ("colour", "colour@production"):
        with pytest.raises(InvalidInput, match="moving reference"):
            resolve_fixed(reference, library.catalogue)
    library.catalogue.vectors.delete(record.id)
    for reference in ("colour:1", record.id):
        with pytest.raises(VectorNotFound):
            resolve_fixed(reference, library.catalogue)
        assert resolve_fixed(reference, library.catalogue, status=None).status is Status.DELETED


def test_an_amended_vector_is_found_by_its_new_description_only(library: Library) -> None:
    record = register(library, "colour", HUE)
    other = register(library, "animals", "Is there an animal, and what is its shape?")
    assert find(library, HUE) == [record.id, other.id]
    after = change(library, record, Amendment(description=COUNT, tags=("b", "a"), metadata={"shots": 16}))
    assert (after.revision, after.card.description) == (2, COUNT)
    assert (after.tags, after.metadata) == (("a", "b"), {"shots": 16})
    assert find(library, COUNT) == [record.id, other.id]
    assert find(library, HUE) == [other.id, record.id]
    entry = library.catalogue.audit_log.read(0, 100)[-1]
    assert (entry.actor, entry.action, entry.subject) == ("ann", "vector.update", record.id)


def test_fields_omitted_in_an_amendment_are_kept(library: Library) -> None:
    record = change(library, register(library, "colour", HUE), Amendment(tags=("a",)))
    after = change(library, record, Amendment(metadata={"checked": True}))
    assert (after.card.description, after.tags, after.metadata) == (HUE, ("a",), {"checked": True})
    assert find(library, HUE) == [record.id]


def test_an_amendment_of_an_earlier_revision_is_refused(library: Library) -> None:
    record = register(library, "colour", HUE)
    change(library, record, Amendment(tags=("a",)))
    with pytest.raises(StaleRevision):
        change(library, record, Amendment(tags=("b",)))
    assert library.catalogue.vectors.get(record.id).tags == ("a",)


def test_the_last_key_cannot_be_removed(library: Library) -> None:
    with pytest.raises(InvalidCard, match="neither keys nor a description"):
        change(library, register(library, "colour", HUE), Amendment(description=" "))


class OtherEmbedder(MemoryWorker):
    def models(self) -> tuple[WorkerInfo, ...]:
        (info,) = super().models()
        return (replace(info, embedder=EmbedderSpec("other", "2" * 64, 49, 64)),)


def test_a_description_key_must_be_of_the_embedder_of_the_other_keys(library: Library) -> None:
    record = register(library, "colour", HUE)
    changed = replace(library, worker=OtherEmbedder(library.artifacts))
    with pytest.raises(InvalidCard, match="embedder"):
        change(changed, record, Amendment(description=COUNT))
    assert change(changed, record, Amendment(tags=("a",))).tags == ("a",)


def test_an_alias_moves_only_at_the_expected_revision(library: Library) -> None:
    first, second = (register(library, "colour", HUE, seed=seed) for seed in (1, 2))
    made = set_alias("colour", "staging", "colour:2", library.catalogue, expected=0)
    with pytest.raises(AliasTaken):
        set_alias("colour", "staging", "colour:1", library.catalogue, expected=0)
    promoted = set_alias("colour", "production", "colour@staging", library.catalogue, expected=0)
    assert (made.vector_id, promoted.vector_id) == (second.id, second.id)
    moved = set_alias("colour", "production", first.id, library.catalogue, expected=promoted.revision)
    with pytest.raises(StaleRevision):
        drop_alias("colour", "production", library.catalogue.aliases, expected=promoted.revision)
    assert get_alias("colour", "production", library.catalogue.aliases) == moved
    drop_alias("colour", "production", library.catalogue.aliases, expected=moved.revision)
    with pytest.raises(AliasNotFound):
        get_alias("colour", "production", library.catalogue.aliases)


@pytest.mark.parametrize("alias", ["", "3", "v3", "latest", "A", "a b", "a@b", "-a", "a" * 65, "\x00", "\ud800", "a\n"])
def test_an_invalid_alias_is_refused(library: Library, alias: str) -> None:
    register(library, "colour", HUE)
    with pytest.raises(InvalidInput):
        set_alias("colour", alias, "colour", library.catalogue, expected=0)
    with pytest.raises(InvalidInput):
        get_alias("colour", alias, library.catalogue.aliases)
    with pytest.raises(InvalidInput):
        drop_alias("colour", alias, library.catalogue.aliases, expected=1)


def test_an_alias_cannot_point_to_a_vector_of_another_name(library: Library) -> None:
    register(library, "colour", HUE)
    count = register(library, "count", COUNT)
    with pytest.raises(VectorNotFound):
        set_alias("colour", "production", count.id, library.catalogue, expected=0)


def test_of_concurrent_moves_of_an_alias_exactly_one_succeeds(library: Library) -> None:
    register(library, "colour", HUE)
    won: list[int] = []

    def move(number: int) -> None:
        try:
            set_alias("colour", "production", "colour:1", library.catalogue, expected=0)
        except AliasTaken:
            return
        won.append(number)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_deleting_restoring_and_purging(library: Library) -> None:
    record = register(library, "colour", HUE)
    alias = set_alias("colour", "production", "colour", library.catalogue, expected=0)
    with pytest.raises(StillAliased, match="colour@production"):
        library.catalogue.vectors.delete(record.id)
    drop_alias("colour", "production", library.catalogue.aliases, expected=alias.revision)
    with pytest.raises(NotDeleted):
        library.catalogue.vectors.purge(record.id)
    with pytest.raises(StaleRevision):
        library.catalogue.vectors.delete(record.id, expected_revision=7)
    library.catalogue.vectors.delete(record.id, expected_revision=1)
    assert find(library, HUE) == []
    assert library.catalogue.vectors.restore(record.id) == 3
    assert find(library, HUE) == [record.id]
    library.catalogue.vectors.delete(record.id)
    assert library.catalogue.vectors.purge(record.id) == 5
    assert find(library, HUE) == []
    assert library.catalogue.vectors.page(Filter(status=None), limit=5).records == ()


def test_lineage_has_parents_children_and_missing_ids(library: Library) -> None:
    gone = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
    root = register(library, "colour", HUE)
    middle = derived(library, "colour", root.id, gone)
    leaf = derived(library, "count", middle.id)
    library.catalogue.vectors.delete(root.id)
    found = lineage(middle, library.catalogue.vectors)
    assert [parent.id for parent in found.parents] == [root.id]
    assert found.parents[0].status is Status.DELETED
    assert found.missing == (gone,)
    assert [child.id for child in found.children] == [leaf.id]
    assert not found.more


def test_lineage_reports_more_children(library: Library) -> None:
    root = register(library, "colour", HUE)
    for _ in range(MAX_CHILDREN + 1):
        derived(library, "child", root.id)
    found = lineage(root, library.catalogue.vectors)
    assert (len(found.children), found.more) == (MAX_CHILDREN, True)


def test_the_audit_log_is_filtered_and_paged(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 4)
    for number in range(10):
        library.catalogue.audit_log.append("test.note", f"thing-{number % 2}", {}, actor="ann" if number % 3 else "bob")
    page = read_audit(library.catalogue.audit_log, after=0, limit=2, subject="thing-1", actor="ann")
    assert [entry.seq for entry in page.entries] == [2, 6]
    rest = read_audit(library.catalogue.audit_log, after=page.next or 0, limit=2, subject="thing-1", actor="ann")
    assert [entry.seq for entry in rest.entries] == [8]
    assert rest.next is None


def test_a_filtered_audit_page_reads_a_limited_number_of_entries(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "BATCH", 2)
    monkeypatch.setattr(audit, "MAX_READ", 4)
    for _ in range(9):
        library.catalogue.audit_log.append("test.note", "thing", {}, actor="ann")
    page = read_audit(library.catalogue.audit_log, after=0, limit=5, actor="nobody")
    assert (page.entries, page.next) == ((), 4)


def test_retrieval_applies_the_filter(library: Library) -> None:
    first, second, _ = (register(library, "colour", HUE, seed=seed) for seed in (1, 2, 3))
    change(library, first, Amendment(tags=("checked",), metadata={"shots": 16}))
    change(library, second, Amendment(metadata={"shots": 4}))
    assert len(find(library, HUE)) == 3
    assert find(library, HUE, Filter(tags=("checked",))) == [first.id]
    assert find(library, HUE, Filter(conditions=(OneOf("shots", (4,)),))) == [second.id]
    assert set(find(library, HUE, Filter(conditions=(Between("shots", least=4),)))) == {first.id, second.id}
    assert find(library, HUE, Filter(tags=("unheard-of",))) == []


def test_a_search_reflects_every_earlier_write(library: Library) -> None:
    seq = register(library, "colour", HUE).seq
    assert find(library, HUE, min_seq=seq)
    with pytest.raises(SeqNotReached):
        find(library, HUE, min_seq=seq + 1)


class UntaggingVectors(MemoryVectors):
    """Removes the tags of the vectors that pass a filter before the search continues."""

    def ids(self, which: Filter) -> frozenset[str]:
        passing = super().ids(which)
        for vector_id in passing:
            self.update(vector_id, Amendment(tags=()))
        return passing


def test_a_vector_that_stops_passing_during_the_search_is_not_returned() -> None:
    library = replace(memory_library(), catalogue=memory_catalogue(vectors=UntaggingVectors))
    change(library, register(library, "colour", HUE), Amendment(tags=("checked",)))
    assert find(library, HUE, Filter(tags=("checked",))) == []
