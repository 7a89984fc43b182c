"""What an examination reports, and what it must not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from tests.support.memory.catalogue import MemoryAliases, MemoryChangeLog, MemoryVectors, memory_catalogue
from tests.support.upkeep import DATA, DAY, SHA256, HandClock, MemoryLibrary, drafted
from vlibrary.domain.card import VectorRecord
from vlibrary.domain.changes import Change, ChangeKind
from vlibrary.domain.filters import EVERYTHING_ACTIVE, Filter
from vlibrary.domain.registration import Alias, Page
from vlibrary.upkeep.examine import examine, examine_vectors
from vlibrary.upkeep.findings import Finding, Level, Progress, Report


@pytest.fixture
def library() -> MemoryLibrary:
    return MemoryLibrary()


def found(report: Report) -> list[tuple[str, str]]:
    return [(step.kind, step.subject) for step in report if isinstance(step, Finding)]


def examined(library: MemoryLibrary) -> list[tuple[str, str]]:
    return found(examine(library.catalogue, library.artifacts))


def busy(library: MemoryLibrary) -> list[VectorRecord]:
    """Fill the library with vectors, aliases and reservations in every state."""
    records = [library.publish() for _ in range(4)]
    library.catalogue.aliases.set("colours", "production", records[0].id, expected=0)
    for record in records[1:]:
        library.catalogue.vectors.delete(record.id)
    library.catalogue.vectors.restore(records[2].id)
    library.catalogue.vectors.purge(records[3].id)
    library.artifacts.delete(records[3].object_key)
    library.reserve()
    library.store()
    return records


def test_a_sound_library_has_no_findings_and_reports_progress(library: MemoryLibrary) -> None:
    busy(library)
    steps = list(examine(library.catalogue, library.artifacts))
    assert [step.part for step in steps if isinstance(step, Progress)] == [
        "vectors",
        "change log",
        "aliases",
        "reservations",
        "objects",
        "markers",
    ]
    assert len(steps) == 6


def test_a_missing_object_is_found_for_deleted_vectors_too(library: MemoryLibrary) -> None:
    active, deleted, _, _ = busy(library)
    for record in (active, deleted):
        library.artifacts.delete(record.object_key)
    assert set(examined(library)) == {("object-missing", active.id), ("object-missing", deleted.id)}


def test_objects_of_another_size_or_with_other_bytes_are_found(library: MemoryLibrary) -> None:
    short, damaged = library.store(), library.store()
    library.catalogue.registrations.publish(short, replace(drafted(short), size=len(DATA) + 1))
    library.catalogue.registrations.publish(damaged, replace(drafted(damaged), sha256="0" * 64))
    assert set(examined(library)) == {("object-size", short.vector_id), ("object-damaged", damaged.vector_id)}
    unread = examine_vectors(library.catalogue, library.artifacts, sample=0.0)
    assert found(unread) == [("object-size", short.vector_id)]


def test_a_vector_purged_during_its_examination_is_no_finding() -> None:
    class PurgingVectors(MemoryVectors):
        def page(self, which: Filter = EVERYTHING_ACTIVE, *, limit: int, cursor: str | None = None) -> Page:
            page = super().page(which, limit=limit, cursor=cursor)
            for record in page.records:
                self.delete(record.id)
                self.purge(record.id)
                purging.artifacts.delete(record.object_key)
            return page

    purging = MemoryLibrary(partial(memory_catalogue, vectors=PurgingVectors))
    purging.publish()
    assert found(examine_vectors(purging.catalogue, purging.artifacts, sample=1.0)) == []
    assert purging.keys() == []


def test_an_examination_resumes_where_it_was_interrupted(library: MemoryLibrary) -> None:
    records = [library.publish() for _ in range(501)]
    for record in (records[0], records[-1]):
        library.artifacts.delete(record.object_key)
    steps = examine_vectors(library.catalogue, library.artifacts, sample=0.0)
    first = next(steps)
    cursor = next(step.cursor for step in steps if isinstance(step, Progress))
    assert isinstance(first, Finding)
    assert first.subject == records[-1].id  # newest first
    rest = examine_vectors(library.catalogue, library.artifacts, sample=0.0, cursor=cursor)
    assert found(rest) == [("object-missing", records[0].id)]


class TamperedChangeLog(MemoryChangeLog):
    """A catalogue with a damaged change log. kinds: by seq; None: the entry is missing."""

    kinds: Mapping[int, ChangeKind | None] = {}

    def read(self, after: int, limit: int) -> list[Change]:
        entries = super().read(after, limit)
        kinds = [(entry, self.kinds.get(entry.seq, entry.kind)) for entry in entries]
        return [replace(entry, kind=kind) for entry, kind in kinds if kind is not None]


@pytest.mark.parametrize(("lost", "named"), [({2}, "2-2"), ({1}, "1-1"), ({3, 4}, "3-4"), ({8}, "8-8")])
def test_missing_change_log_entries_are_found(lost: set[int], named: str) -> None:
    class GappyChangeLog(TamperedChangeLog):
        kinds = dict.fromkeys(lost)

    library = MemoryLibrary(partial(memory_catalogue, change_log=GappyChangeLog))
    for _ in range(8):
        library.publish()
    findings = examined(library)
    assert ("log-gap", named) in findings
    assert len([kind for kind, _ in findings if kind == "log-differs"]) == len(lost)


def test_a_change_log_that_contradicts_the_catalogue_is_found() -> None:
    class WrongChangeLog(TamperedChangeLog):
        kinds: Mapping[int, ChangeKind | None] = {1: ChangeKind.DELETED, 3: ChangeKind.RESTORED}

    library = MemoryLibrary(partial(memory_catalogue, change_log=WrongChangeLog))
    hidden, shown = library.publish(), library.publish()
    library.catalogue.vectors.delete(shown.id)
    assert examined(library) == [("log-differs", hidden.id), ("log-differs", shown.id)]


def test_changes_during_the_examination_are_no_findings(library: MemoryLibrary) -> None:
    findings = []
    for step in examine(library.catalogue, library.artifacts):
        findings += [step] if isinstance(step, Finding) else []
        library.catalogue.vectors.delete(library.publish().id)
        library.publish()
    assert findings == []


def test_an_alias_of_a_deleted_vector_is_found_unless_dropped_since() -> None:
    class WrongAliases(MemoryAliases):
        def list(self, name: str | None = None) -> Sequence[Alias]:
            return [self.get("colours", "production"), Alias("colours", "dropped", "gone", 1, HandClock().now())]

        def get(self, name: str, alias: str) -> Alias:
            if alias == "production":
                return Alias(name, alias, f"{1:026}", 1, HandClock().now())
            return super().get(name, alias)

    library = MemoryLibrary(partial(memory_catalogue, aliases=WrongAliases))
    library.catalogue.vectors.delete(library.publish().id)
    assert examined(library) == [("alias-dangling", "colours@production")]


def test_waste_is_reported_by_age_and_is_not_an_error(library: MemoryLibrary) -> None:
    library.store()
    library.clock.at += 20 * DAY
    for _ in range(2):
        library.store()
    library.clock.at += timedelta(hours=2)
    library.store()  # young
    steps = examine(library.catalogue, library.artifacts)
    findings = [step for step in steps if isinstance(step, Finding)]
    assert {finding.level for finding in findings} == {Level.WASTE}
    assert [(finding.kind, finding.subject) for finding in findings if finding.kind == "orphans"] == [
        ("orphans", "at most 30 d"),
        ("orphans", "at most 1 d"),
    ]
    assert [finding.detail for finding in findings if finding.kind == "orphans"] == [
        "Unreferenced objects, at most 30 d old: 1 (25 bytes).",
        "Unreferenced objects, at most 1 d old: 2 (50 bytes).",
    ]
    assert len([finding for finding in findings if finding.kind == "upload-stuck"]) == 3
    assert library.artifacts.get(library.keys()[0], SHA256) == DATA
