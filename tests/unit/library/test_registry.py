"""Naming, amending, aliasing and following vectors, on the in-memory twins."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from tests.support.library import memory_ports, register
from tests.support.memory.catalogue import MemoryCatalogue
from tests.support.memory.worker import MODEL, MemoryWorker
from tests.support.samples import artifact, card
from vlibrary.api.http.deps import Ports
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
from vlibrary.domain.filters import Between, OneOf
from vlibrary.domain.ports import Alias, Amendment, Filter
from vlibrary.domain.query import EmbedderSpec, Query
from vlibrary.domain.wire import WorkerInfo
from vlibrary.formats.card import parse_card
from vlibrary.library import audit
from vlibrary.library.alias import drop, find_alias, point
from vlibrary.library.amend import Changes, amend
from vlibrary.library.audit import read_audit
from vlibrary.library.lineage import MAX_CHILDREN, lineage
from vlibrary.library.publish import Submission, publish
from vlibrary.library.references import resolve, resolve_fixed
from vlibrary.library.retrieve import retrieve

HUE = "Which hue has the shape?"
COUNT = "How many dogs are there?"


@pytest.fixture
def ports() -> Ports:
    return memory_ports()


def find(ports: Ports, text: str, among: Filter | None = None, min_seq: int = 0) -> list[str]:
    matches = retrieve(
        Query(text=text),
        k=5,
        model_id=None,
        catalogue=ports.catalogue,
        index=ports.index,
        worker=ports.worker,
        among=among,
        min_seq=min_seq,
    )
    return [match.record.id for match in matches]


def change(ports: Ports, record: VectorRecord, changes: Changes, *, revision: int | None = None) -> VectorRecord:
    after, seq = amend(
        record,
        changes,
        expected_revision=revision or record.revision,
        catalogue=ports.catalogue,
        worker=ports.worker,
        actor="ann",
    )
    assert seq == ports.catalogue.position().seq
    return after


def derived(ports: Ports, name: str, *parents: str) -> VectorRecord:
    submission = Submission(artifact(MODEL), parse_card(card(name, HUE, derived_from=list(parents))))
    return publish(
        submission,
        catalogue=ports.catalogue,
        artifacts=ports.artifacts,
        worker=ports.worker,
        clock=ports.clock,
    )


def test_a_vector_is_named_by_id_version_alias_or_name(ports: Ports) -> None:
    first, second = (register(ports, "colour", HUE, seed=seed) for seed in (1, 2))
    register(ports, "count", COUNT)
    point("colour", "production", "colour:1", expected=0, catalogue=ports.catalogue)
    for reference, meant in {
        first.id: first,
        "colour:1": first,
        "colour@production": first,
        "colour:2": second,
        "colour": second,
    }.items():
        assert resolve(reference, ports.catalogue).id == meant.id, reference
    ports.catalogue.delete(second.id)
    assert resolve("colour", ports.catalogue).id == first.id


@pytest.mark.parametrize(
    "reference",
    ["", ":", "@a", "colour:", "colour:0", "colour:2", "colour:1:1", "colour:1\n", "Colour", "a b", "x" * 200],
)
def test_what_names_nothing_is_not_found(ports: Ports, reference: str) -> None:
    register(ports, "colour", HUE)
    with pytest.raises(VectorNotFound, match="name:3"):
        resolve(reference, ports.catalogue)


def test_a_name_that_looks_like_an_id_is_a_name_all_the_same(ports: Ports) -> None:
    number = "0" * 26
    record = register(ports, number, HUE)
    assert resolve(number, ports.catalogue).id == record.id
    assert resolve(record.id, ports.catalogue).id == record.id


def test_an_unknown_alias_and_an_impossible_one_are_not_found(ports: Ports) -> None:
    with pytest.raises(AliasNotFound):
        resolve("colour@production", ports.catalogue)
    with pytest.raises(VectorNotFound):
        resolve("colour@v3", ports.catalogue)


class MovesOn(MemoryCatalogue):
    """Moves the alias, and deletes what it pointed to, right after it was first read."""

    def __init__(self) -> None:
        super().__init__()
        self.left: list[VectorRecord] = []

    def alias(self, name: str, alias: str) -> Alias:
        found = super().alias(name, alias)
        if self.left:
            old, new = self.left.pop(), self.left.pop()
            self.set_alias(name, alias, new.id, expected=found.revision)
            self.delete(old.id)
        return found


def test_an_alias_that_moves_while_it_is_followed_leads_to_its_new_vector() -> None:
    catalogue = MovesOn()
    ports = replace(memory_ports(), catalogue=catalogue)
    old, new = (register(ports, "colour", HUE, seed=seed) for seed in (1, 2))
    catalogue.set_alias("colour", "production", old.id, expected=0)
    catalogue.left = [new, old]
    assert resolve("colour@production", catalogue).id == new.id


def test_what_is_changed_is_named_by_what_never_means_another(ports: Ports) -> None:
    record = register(ports, "colour", HUE)
    for reference in ("colour:1", record.id):
        assert resolve_fixed(reference, ports.catalogue).id == record.id
    for reference in ("colour", "colour@production"):
        with pytest.raises(InvalidInput, match="another vector"):
            resolve_fixed(reference, ports.catalogue)
    ports.catalogue.delete(record.id)
    for reference in ("colour:1", record.id):
        with pytest.raises(VectorNotFound):
            resolve_fixed(reference, ports.catalogue)
        assert resolve_fixed(reference, ports.catalogue, status=None).status is Status.DELETED


def test_an_amended_vector_is_found_by_its_new_description_only(ports: Ports) -> None:
    record = register(ports, "colour", HUE)
    other = register(ports, "animals", "Is there an animal, and what is its shape?")
    assert find(ports, HUE) == [record.id, other.id]
    after = change(ports, record, Changes(description=COUNT, tags=("b", "a"), metadata={"shots": 16}))
    assert (after.revision, after.card.description) == (2, COUNT)
    assert (after.tags, after.metadata) == (("a", "b"), {"shots": 16})
    assert find(ports, COUNT) == [record.id, other.id]
    assert find(ports, HUE) == [other.id, record.id]
    entry = ports.catalogue.audit(0, 100)[-1]
    assert (entry.actor, entry.action, entry.subject) == ("ann", "vector.update", record.id)


def test_what_an_amendment_leaves_out_stays(ports: Ports) -> None:
    record = change(ports, register(ports, "colour", HUE), Changes(tags=("a",)))
    after = change(ports, record, Changes(metadata={"checked": True}))
    assert (after.card.description, after.tags, after.metadata) == (HUE, ("a",), {"checked": True})
    assert find(ports, HUE) == [record.id]


def test_an_amendment_of_an_earlier_revision_is_refused(ports: Ports) -> None:
    record = register(ports, "colour", HUE)
    change(ports, record, Changes(tags=("a",)))
    with pytest.raises(StaleRevision):
        change(ports, record, Changes(tags=("b",)))
    assert ports.catalogue.get(record.id).tags == ("a",)


def test_the_last_key_cannot_be_taken_away(ports: Ports) -> None:
    with pytest.raises(InvalidCard, match="neither keys nor a description"):
        change(ports, register(ports, "colour", HUE), Changes(description=" "))


class OtherEmbedder(MemoryWorker):
    def served(self) -> tuple[WorkerInfo, ...]:
        (info,) = super().served()
        return (replace(info, embedder=EmbedderSpec("other", "2" * 64, 49, 64)),)


def test_a_description_does_not_get_a_key_of_another_embedder_than_the_other_keys(ports: Ports) -> None:
    record = register(ports, "colour", HUE)
    changed = replace(ports, worker=OtherEmbedder(ports.artifacts))
    with pytest.raises(InvalidCard, match="embedder"):
        change(changed, record, Changes(description=COUNT))
    assert change(changed, record, Changes(tags=("a",))).tags == ("a",)


def test_an_alias_moves_only_from_where_the_caller_saw_it(ports: Ports) -> None:
    first, second = (register(ports, "colour", HUE, seed=seed) for seed in (1, 2))
    made = point("colour", "staging", "colour:2", expected=0, catalogue=ports.catalogue)
    with pytest.raises(AliasTaken):
        point("colour", "staging", "colour:1", expected=0, catalogue=ports.catalogue)
    promoted = point("colour", "production", "colour@staging", expected=0, catalogue=ports.catalogue)
    assert (made.vector_id, promoted.vector_id) == (second.id, second.id)
    moved = point("colour", "production", first.id, expected=promoted.revision, catalogue=ports.catalogue)
    with pytest.raises(StaleRevision):
        drop("colour", "production", expected=promoted.revision, catalogue=ports.catalogue)
    assert find_alias("colour", "production", catalogue=ports.catalogue) == moved
    drop("colour", "production", expected=moved.revision, catalogue=ports.catalogue)
    with pytest.raises(AliasNotFound):
        find_alias("colour", "production", catalogue=ports.catalogue)


def test_an_alias_that_reads_as_a_version_or_points_elsewhere_is_refused(ports: Ports) -> None:
    register(ports, "colour", HUE)
    count = register(ports, "count", COUNT)
    with pytest.raises(InvalidInput, match="reads as a version"):
        point("colour", "v3", "colour", expected=0, catalogue=ports.catalogue)
    with pytest.raises(VectorNotFound):
        point("colour", "production", count.id, expected=0, catalogue=ports.catalogue)


def test_of_many_who_move_an_alias_exactly_one_does(ports: Ports) -> None:
    register(ports, "colour", HUE)
    won: list[int] = []

    def move(number: int) -> None:
        try:
            point("colour", "production", "colour:1", expected=0, catalogue=ports.catalogue)
        except AliasTaken:
            return
        won.append(number)

    threads = [threading.Thread(target=move, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_deleting_restoring_and_purging(ports: Ports) -> None:
    record = register(ports, "colour", HUE)
    alias = point("colour", "production", "colour", expected=0, catalogue=ports.catalogue)
    with pytest.raises(StillAliased, match="colour@production"):
        ports.catalogue.delete(record.id)
    drop("colour", "production", expected=alias.revision, catalogue=ports.catalogue)
    with pytest.raises(NotDeleted):
        ports.catalogue.purge(record.id)
    with pytest.raises(StaleRevision):
        ports.catalogue.delete(record.id, expected_revision=7)
    ports.catalogue.delete(record.id, expected_revision=1)
    assert find(ports, HUE) == []
    assert ports.catalogue.restore(record.id) == 3
    assert find(ports, HUE) == [record.id]
    ports.catalogue.delete(record.id)
    assert ports.catalogue.purge(record.id) == 5
    assert find(ports, HUE) == []
    assert ports.catalogue.page(Filter(status=None), limit=5).records == ()


def test_lineage_knows_parents_children_and_what_is_missing(ports: Ports) -> None:
    gone = "01K9Z4T0XJ4V6W8M2Q5R7S9A1B"
    root = register(ports, "colour", HUE)
    middle = derived(ports, "colour", root.id, gone)
    leaf = derived(ports, "count", middle.id)
    ports.catalogue.delete(root.id)
    found = lineage(middle, ports.catalogue)
    assert [parent.id for parent in found.parents] == [root.id]
    assert found.parents[0].status is Status.DELETED
    assert found.missing == (gone,)
    assert [child.id for child in found.children] == [leaf.id]
    assert not found.more


def test_lineage_says_when_there_are_more_children(ports: Ports) -> None:
    root = register(ports, "colour", HUE)
    for _ in range(MAX_CHILDREN + 1):
        derived(ports, "child", root.id)
    found = lineage(root, ports.catalogue)
    assert (len(found.children), found.more) == (MAX_CHILDREN, True)


def test_the_audit_log_is_sieved_and_read_in_pages(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 4)
    for number in range(10):
        ports.catalogue.note("test.note", f"thing-{number % 2}", {}, actor="ann" if number % 3 else "bob")
    page = read_audit(ports.catalogue, after=0, limit=2, subject="thing-1", actor="ann")
    assert [entry.seq for entry in page.entries] == [2, 6]
    rest = read_audit(ports.catalogue, after=page.next or 0, limit=2, subject="thing-1", actor="ann")
    assert [entry.seq for entry in rest.entries] == [8]
    assert rest.next is None


def test_a_question_to_the_audit_log_reads_only_so_far(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "BATCH", 2)
    monkeypatch.setattr(audit, "MOST_READ", 4)
    for _ in range(9):
        ports.catalogue.note("test.note", "thing", {}, actor="ann")
    page = read_audit(ports.catalogue, after=0, limit=5, actor="nobody")
    assert (page.entries, page.next) == ((), 4)


def test_retrieval_finds_only_what_passes_the_filter(ports: Ports) -> None:
    first, second, _ = (register(ports, "colour", HUE, seed=seed) for seed in (1, 2, 3))
    change(ports, first, Changes(tags=("checked",), metadata={"shots": 16}))
    change(ports, second, Changes(metadata={"shots": 4}))
    assert len(find(ports, HUE)) == 3
    assert find(ports, HUE, Filter(tags=("checked",))) == [first.id]
    assert find(ports, HUE, Filter(conditions=(OneOf("shots", (4,)),))) == [second.id]
    assert set(find(ports, HUE, Filter(conditions=(Between("shots", least=4),)))) == {first.id, second.id}
    assert find(ports, HUE, Filter(tags=("unheard-of",))) == []


def test_a_search_knows_of_every_write_before_it(ports: Ports) -> None:
    seq = register(ports, "colour", HUE).seq
    assert find(ports, HUE, min_seq=seq)
    with pytest.raises(SeqNotReached):
        find(ports, HUE, min_seq=seq + 1)


class Untags(MemoryCatalogue):
    """Takes the tag away from whatever passed, before the search goes on."""

    def ids(self, which: Filter) -> frozenset[str]:
        passing = super().ids(which)
        for vector_id in passing:
            self.update(vector_id, Amendment(tags=()))
        return passing


def test_a_vector_that_stops_passing_during_the_search_is_not_returned() -> None:
    ports = replace(memory_ports(), catalogue=Untags())
    change(ports, register(ports, "colour", HUE), Changes(tags=("checked",)))
    assert find(ports, HUE, Filter(tags=("checked",))) == []
