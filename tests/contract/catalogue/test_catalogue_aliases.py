"""The Catalogue port's contract: aliases, the audit log, and the epoch."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.support.registrations import register
from vlibrary.domain.errors import AliasNotFound, AliasTaken, StaleRevision, VectorNotFound
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Amendment


class TestAliases:
    def test_an_alias_points_to_a_vector_of_its_name(self, catalogue: Catalogue) -> None:
        record = register(catalogue, "a")
        alias = catalogue.aliases.set("a", "production", record.id, expected=0)
        assert (alias.name, alias.alias, alias.vector_id) == ("a", "production", record.id)
        assert abs(alias.changed_at - datetime.now(UTC)) < timedelta(seconds=5)
        assert catalogue.aliases.get("a", "production") == alias

    def test_an_alias_is_created_once_and_moved_at_its_revision(self, catalogue: Catalogue) -> None:
        first, second = register(catalogue), register(catalogue)
        made = catalogue.aliases.set("colours", "best", first.id, expected=0)
        with pytest.raises(AliasTaken):
            catalogue.aliases.set("colours", "best", second.id, expected=0)
        moved = catalogue.aliases.set("colours", "best", second.id, expected=made.revision)
        with pytest.raises(StaleRevision):
            catalogue.aliases.set("colours", "best", first.id, expected=made.revision)
        assert catalogue.aliases.get("colours", "best") == moved
        assert moved.vector_id == second.id

    def test_a_recreated_alias_has_a_new_revision(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        made = catalogue.aliases.set("colours", "best", record.id, expected=0)
        catalogue.aliases.drop("colours", "best", expected=made.revision)
        with pytest.raises(AliasNotFound):
            catalogue.aliases.get("colours", "best")
        with pytest.raises(StaleRevision, match="colours@best does not exist"):
            catalogue.aliases.set("colours", "best", record.id, expected=made.revision)
        again = catalogue.aliases.set("colours", "best", record.id, expected=0)
        assert again.revision != made.revision
        with pytest.raises(StaleRevision):
            catalogue.aliases.drop("colours", "best", expected=made.revision)

    def test_an_alias_points_only_to_active_vectors_of_its_name(self, catalogue: Catalogue) -> None:
        other, gone = register(catalogue, "other"), register(catalogue)
        catalogue.vectors.delete(gone.id)
        for vector_id in (other.id, gone.id, "unknown", "\ud800", "a\x00"):
            with pytest.raises(VectorNotFound, match="'colours' has no active version"):
                catalogue.aliases.set("colours", "best", vector_id, expected=0)
        assert catalogue.aliases.list() == []

    @pytest.mark.parametrize("alias", ["", "\x00", "\ud800", "a\n"])
    def test_text_that_the_database_cannot_store_names_no_alias(self, catalogue: Catalogue, alias: str) -> None:
        register(catalogue)
        with pytest.raises(AliasNotFound):
            catalogue.aliases.get("colours", alias)
        with pytest.raises(AliasNotFound):
            catalogue.aliases.drop("colours", alias, expected=1)

    def test_aliases_are_listed_in_order(self, catalogue: Catalogue) -> None:
        a, b = register(catalogue, "a"), register(catalogue, "b")
        made = [
            catalogue.aliases.set(record.name, alias, record.id, expected=0)
            for record, alias in ((b, "x"), (a, "y"), (a, "best"), (a, "a-b"), (a, "a.b"))
        ]
        assert catalogue.aliases.list("a") == [made[3], made[4], made[2], made[1]]
        assert catalogue.aliases.list() == [made[3], made[4], made[2], made[1], made[0]]
        assert catalogue.aliases.list("none") == catalogue.aliases.list("\x00") == []


class TestAudit:
    def test_the_audit_log_records_actor_action_and_subject(self, catalogue: Catalogue) -> None:
        record = register(catalogue, "a", actor="ann")
        catalogue.vectors.update(record.id, Amendment(tags=("x",), description=""), actor="bob")
        alias = catalogue.aliases.set("a", "best", record.id, expected=0, actor="cid")
        catalogue.aliases.drop("a", "best", expected=alias.revision)
        catalogue.vectors.delete(record.id, actor="dan")
        catalogue.vectors.restore(record.id, actor="eve")
        catalogue.vectors.delete(record.id, actor="dan")
        catalogue.vectors.purge(record.id, actor="fay")
        catalogue.audit_log.append("library.collect", "all", {"removed": 2}, actor="gus")
        log = catalogue.audit_log.read(after=0, limit=99)
        assert [(entry.seq, entry.actor, entry.action, entry.subject) for entry in log] == [
            (1, "ann", "vector.publish", record.id),
            (2, "bob", "vector.update", record.id),
            (3, "cid", "alias.set", "a@best"),
            (4, "anonymous", "alias.drop", "a@best"),
            (5, "dan", "vector.delete", record.id),
            (6, "eve", "vector.restore", record.id),
            (7, "dan", "vector.delete", record.id),
            (8, "fay", "vector.purge", record.id),
            (9, "gus", "library.collect", "all"),
        ]
        assert [entry.detail for entry in log] == [
            {"name": "a", "version": 1, "sha256": record.sha256, "seq": 1},
            {"revision": 2, "tags": ["x"]},
            {"vector_id": record.id, "before": None},
            {"vector_id": record.id},
            {"name": "a", "version": 1, "revision": 3},
            {"name": "a", "version": 1, "revision": 4},
            {"name": "a", "version": 1, "revision": 5},
            {"name": "a", "version": 1, "object_key": record.object_key},
            {"removed": 2},
        ]
        assert all(abs(entry.at - datetime.now(UTC)) < timedelta(seconds=5) for entry in log)

    def test_refused_writes_are_not_in_the_audit_log(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        with pytest.raises(StaleRevision):
            catalogue.vectors.delete(record.id, expected_revision=7)
        with pytest.raises(AliasNotFound):
            catalogue.aliases.drop("colours", "best", expected=1)
        catalogue.vectors.delete(record.id)
        assert [entry.seq for entry in catalogue.audit_log.read(after=0, limit=99)] == [1, 2]

    def test_the_audit_log_is_read_in_parts(self, catalogue: Catalogue) -> None:
        for _ in range(4):
            register(catalogue)
        assert [entry.seq for entry in catalogue.audit_log.read(after=1, limit=2)] == [2, 3]
        assert catalogue.audit_log.read(after=4, limit=2) == []


def test_a_renewed_epoch_keeps_the_position(catalogue: Catalogue) -> None:
    register(catalogue)
    before = catalogue.change_log.position()
    renewed = catalogue.change_log.renew_epoch(actor="restore")
    assert renewed == catalogue.change_log.position()
    assert renewed.epoch != before.epoch
    assert (renewed.seq, renewed.token) == (before.seq, before.token)
    assert renewed.seq == 1
    entry = catalogue.audit_log.read(after=1, limit=9)[0]
    assert (entry.actor, entry.action, entry.subject) == ("restore", "catalogue.renew_epoch", renewed.epoch)


def test_concurrent_renewals_of_one_epoch_happen_once(catalogue: Catalogue) -> None:
    before = catalogue.change_log.position()
    renewed = catalogue.change_log.renew_epoch(replacing=before.epoch)
    assert renewed.epoch != before.epoch
    assert catalogue.change_log.renew_epoch(replacing=before.epoch) == renewed == catalogue.change_log.position()
    assert len(catalogue.audit_log.read(after=0, limit=9)) == 1


def test_every_change_keeps_a_token_of_its_own(catalogue: Catalogue) -> None:
    assert catalogue.change_log.position().token == ""
    record = register(catalogue)
    register(catalogue)
    before = [entry.token for entry in catalogue.change_log.read(after=0, limit=9)]
    assert catalogue.change_log.position().token == before[-1]
    catalogue.vectors.delete(record.id)
    catalogue.vectors.purge(record.id)
    after = [entry.token for entry in catalogue.change_log.read(after=0, limit=9)]
    assert after[:2] == before
    assert catalogue.change_log.position().token == after[-1]
    assert len(set(after)) == 4
    assert all(after)
