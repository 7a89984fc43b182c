"""The Catalogue port's contract: amending, deleting, restoring and purging vectors, and what a collector may remove."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from tests.support.registrations import EMBEDDER, draft, embedding, key, plain, plain_keys, register, upload
from vlibrary.domain.card import KeyKind, Status
from vlibrary.domain.changes import ChangeKind
from vlibrary.domain.errors import (
    NotDeleted,
    StaleRevision,
    StillAliased,
    UploadExpired,
    VectorExists,
    VectorNotFound,
    VectorPurged,
)
from vlibrary.domain.filters import Filter
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.registration import Amendment, Upload

RNG = np.random.default_rng(7)


def kinds(catalogue: Catalogue) -> list[str]:
    return [str(entry.kind) for entry in catalogue.change_log.read(after=0, limit=99)]


class TestAmending:
    def test_an_amendment_changes_only_tags_metadata_and_description(self, catalogue: Catalogue) -> None:
        before = register(catalogue, tags=("a",), metadata={"n": 1}, results={"steered": 0.9}, derived_from=("0" * 26,))
        change = Amendment(description="new · ‖", tags=("c", "b"), metadata={"n": 1.5, "ok": True, "t": "x"})
        after, _ = catalogue.vectors.update(before.id, change)
        card = replace(before.card, description="new · ‖", tags=("b", "c"), metadata=dict(change.metadata or {}))
        assert plain(after) == plain(replace(before, card=card, revision=2))
        assert plain(catalogue.vectors.get(before.id)) == plain(after)
        assert [type(value) for value in catalogue.vectors.get(before.id).metadata.values()] == [float, bool, str]

    def test_omitted_fields_are_kept(self, catalogue: Catalogue) -> None:
        record = register(catalogue, description="old", tags=("a",), metadata={"n": 1})
        assert catalogue.vectors.update(record.id, Amendment(tags=()))[0].card == replace(record.card, tags=())
        assert catalogue.vectors.update(record.id, Amendment(metadata={}))[0].card == replace(
            record.card, tags=(), metadata={}
        )
        assert catalogue.vectors.update(record.id, Amendment())[0].revision == 4

    def test_filters_find_new_labels_only(self, catalogue: Catalogue) -> None:
        record = register(catalogue, tags=("old",))
        catalogue.vectors.update(record.id, Amendment(tags=("new",)))
        assert catalogue.vectors.ids(Filter(tags=("old",))) == frozenset()
        assert catalogue.vectors.ids(Filter(tags=("new",))) == {record.id}

    def test_a_new_description_replaces_its_key_and_is_logged(self, catalogue: Catalogue) -> None:
        kept, old = key(embedding(RNG)), key(embedding(RNG, image=False), KeyKind.DESCRIPTION)
        new = key(embedding(RNG, image=False), KeyKind.DESCRIPTION)
        record = register(catalogue, description="old", keys=(kept, old), embedder=EMBEDDER.fingerprint)
        catalogue.vectors.update(record.id, Amendment(tags=("x",)))
        assert kinds(catalogue) == ["published"]
        after, _ = catalogue.vectors.update(record.id, Amendment(description="new"), description_key=new)
        assert (
            plain_keys(after.card.keys)
            == plain_keys(catalogue.vectors.get(record.id).card.keys)
            == plain_keys((kept, new))
        )
        entry = catalogue.change_log.read(after=1, limit=9)[0]
        assert (entry.kind, entry.embedder) == (ChangeKind.REKEYED, EMBEDDER.fingerprint)
        assert plain_keys(entry.keys) == plain_keys((kept, new))
        assert plain_keys(catalogue.vectors.update(record.id, Amendment(description=""))[0].card.keys) == plain_keys(
            (kept,)
        )
        assert kinds(catalogue) == ["published", "rekeyed", "rekeyed"]

    def test_an_amendment_returns_the_seq_even_without_a_log_entry(self, catalogue: Catalogue) -> None:
        new = key(embedding(RNG, image=False), KeyKind.DESCRIPTION)
        record = register(catalogue, keys=(key(embedding(RNG)),), embedder=EMBEDDER.fingerprint)
        assert catalogue.vectors.update(record.id, Amendment(tags=("x",)))[1] == 1
        assert catalogue.vectors.update(record.id, Amendment(description="new"), description_key=new)[1] == 2
        assert (
            catalogue.vectors.update(record.id, Amendment(tags=("y",)))[1] == 2 == catalogue.change_log.position().seq
        )

    def test_an_unchanged_description_changes_no_key(self, catalogue: Catalogue) -> None:
        old = key(embedding(RNG, image=False), KeyKind.DESCRIPTION)
        record = register(catalogue, description="old", keys=(old,), embedder=EMBEDDER.fingerprint)
        after, _ = catalogue.vectors.update(record.id, Amendment(description="old"))
        assert plain_keys(after.card.keys) == plain_keys((old,))
        assert kinds(catalogue) == ["published"]

    def test_only_the_expected_revision_is_amended(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        assert catalogue.vectors.update(record.id, Amendment(tags=("a",)), expected_revision=1)[0].revision == 2
        for act in (
            lambda: catalogue.vectors.update(record.id, Amendment(tags=("b",)), expected_revision=1),
            lambda: catalogue.vectors.delete(record.id, expected_revision=1),
        ):
            with pytest.raises(StaleRevision):
                act()
        assert catalogue.vectors.get(record.id).tags == ("a",)
        catalogue.vectors.delete(record.id, expected_revision=2)
        for act in (
            lambda: catalogue.vectors.restore(record.id, expected_revision=2),
            lambda: catalogue.vectors.purge(record.id, expected_revision=2),
        ):
            with pytest.raises(StaleRevision):
                act()
        catalogue.vectors.restore(record.id, expected_revision=3)
        assert catalogue.vectors.get(record.id).revision == 4

    def test_deleted_and_unknown_vectors_cannot_be_amended(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        catalogue.vectors.delete(record.id)
        for vector_id in (record.id, "unknown", "a\x00b", "\ud800"):
            with pytest.raises(VectorNotFound):
                catalogue.vectors.update(vector_id, Amendment(tags=("a",)))


class TestDeletingAndRestoring:
    def test_a_restored_vector_is_unchanged(self, catalogue: Catalogue) -> None:
        part = key(embedding(RNG))
        before = register(catalogue, tags=("a",), keys=(part,), embedder=EMBEDDER.fingerprint)
        assert catalogue.vectors.delete(before.id) == 2
        hidden = catalogue.vectors.get(before.id, deleted=True)
        assert (hidden.status, hidden.revision) == (Status.DELETED, 2)
        assert hidden.deleted_at is not None
        assert abs(hidden.deleted_at - datetime.now(UTC)) < timedelta(seconds=5)
        assert catalogue.vectors.restore(before.id) == 3
        assert plain(catalogue.vectors.get(before.id)) == plain(replace(before, revision=3))
        entry = catalogue.change_log.read(after=2, limit=9)[0]
        assert (entry.kind, entry.model) == (ChangeKind.RESTORED, before.model.fingerprint)
        assert plain_keys(entry.keys) == plain_keys((part,))

    def test_a_vector_can_be_deleted_and_restored_repeatedly(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        for _ in range(3):
            catalogue.vectors.delete(record.id)
            catalogue.vectors.restore(record.id)
        assert kinds(catalogue) == ["published", *["deleted", "restored"] * 3]

    def test_pages_include_deleted_vectors_only_on_request(self, catalogue: Catalogue) -> None:
        gone, kept = register(catalogue), register(catalogue)
        catalogue.vectors.delete(gone.id)
        assert catalogue.vectors.ids(Filter()) == {kept.id}
        assert catalogue.vectors.ids(Filter(status=Status.DELETED)) == {gone.id}
        assert [record.id for record in catalogue.vectors.page(Filter(status=None), limit=9).records] == [
            kept.id,
            gone.id,
        ]

    def test_active_and_unknown_vectors_cannot_be_restored(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        with pytest.raises(NotDeleted):
            catalogue.vectors.restore(record.id)
        with pytest.raises(VectorNotFound):
            catalogue.vectors.restore("unknown")
        assert kinds(catalogue) == ["published"]

    def test_an_aliased_vector_cannot_be_deleted(self, catalogue: Catalogue) -> None:
        first, second = register(catalogue), register(catalogue)
        alias = catalogue.aliases.set("colours", "production", first.id, expected=0)
        with pytest.raises(StillAliased):
            catalogue.vectors.delete(first.id)
        assert catalogue.vectors.get(first.id).revision == 1
        catalogue.aliases.set("colours", "production", second.id, expected=alias.revision)
        catalogue.vectors.delete(first.id)


class TestPurging:
    def test_a_purged_vector_is_gone_and_its_version_not_reused(self, catalogue: Catalogue) -> None:
        record = register(catalogue, "a", tags=("x",), keys=(key(embedding(RNG)),), embedder=EMBEDDER.fingerprint)
        catalogue.vectors.delete(record.id)
        assert catalogue.vectors.purge(record.id) == 3
        for act in (
            lambda: catalogue.vectors.get(record.id, deleted=True),
            lambda: catalogue.vectors.restore(record.id),
            lambda: catalogue.vectors.purge(record.id),
        ):
            with pytest.raises(VectorNotFound):
                act()
        assert catalogue.vectors.page(Filter(status=None, tags=("x",)), limit=9).records == ()
        assert register(catalogue, "a").version == 2

    def test_only_a_deleted_vector_is_purged(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        with pytest.raises(NotDeleted):
            catalogue.vectors.purge(record.id)
        assert catalogue.vectors.get(record.id).revision == 1

    def test_the_log_keeps_entries_of_purged_vectors(self, catalogue: Catalogue) -> None:
        record = register(catalogue, keys=(key(embedding(RNG)),), embedder=EMBEDDER.fingerprint)
        catalogue.vectors.delete(record.id)
        catalogue.vectors.purge(record.id)
        assert kinds(catalogue) == ["published", "deleted", "purged"]
        assert {entry.vector_id for entry in catalogue.change_log.read(after=0, limit=9)} == {record.id}
        assert catalogue.change_log.read(after=0, limit=1)[0].keys == ()

    def test_the_key_of_a_purged_vector_is_never_reused(self, catalogue: Catalogue) -> None:
        first = upload("key")
        catalogue.registrations.reserve(first)
        catalogue.registrations.publish(first, draft(first))
        catalogue.vectors.delete(first.vector_id)
        catalogue.vectors.purge(first.vector_id)
        with pytest.raises(VectorPurged):
            catalogue.registrations.reserve(upload("key"))
        with pytest.raises(VectorPurged):
            catalogue.registrations.publish(first, draft(first))


class TestLaterUploadsOfTheSameVector:
    """An archive is imported twice under the vector's own id; the first time it broke off, or is still under way."""

    @pytest.fixture(params=[-1, 900])
    def slow(self, catalogue: Catalogue, request: pytest.FixtureRequest) -> Upload:
        slow = upload(seconds=request.param)
        catalogue.registrations.reserve(slow)
        return slow

    @pytest.fixture
    def quick(self, catalogue: Catalogue, slow: Upload) -> Upload:
        later = slow.deadline + timedelta(minutes=5)
        quick = replace(slow, object_key=f"{upload().vector_id}/file", deadline=later)
        assert catalogue.registrations.reserve(quick) is None
        return quick

    def test_the_slower_upload_is_not_published(self, catalogue: Catalogue, slow: Upload, quick: Upload) -> None:
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(slow, draft(slow))
        assert catalogue.registrations.publish(quick, draft(quick)).object_key == quick.object_key

    def test_the_slower_upload_does_not_release_the_other(
        self, catalogue: Catalogue, slow: Upload, quick: Upload
    ) -> None:
        catalogue.registrations.release(slow)
        assert catalogue.registrations.find_referenced([quick.object_key]) == {quick.object_key}
        assert catalogue.registrations.publish(quick, draft(quick)).id == slow.vector_id

    def test_both_uploads_get_the_published_record(self, catalogue: Catalogue, slow: Upload, quick: Upload) -> None:
        made = catalogue.registrations.publish(quick, draft(quick))
        assert plain(catalogue.registrations.publish(slow, draft(slow))) == plain(made)


class TestLeftReservations:
    """Interrupted uploads under other keys do not block a registration."""

    def test_an_expired_reservation_frees_its_vector_and_object(self, catalogue: Catalogue) -> None:
        dead = upload("dead", seconds=-1)
        catalogue.registrations.reserve(dead)
        later = upload().deadline
        new = replace(dead, idempotency_key="new", deadline=later)
        assert catalogue.registrations.reserve(new) is None
        assert catalogue.registrations.publish(new, draft(new)).id == dead.vector_id
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(dead, draft(dead))

    def test_an_open_reservation_keeps_its_vector_and_object(self, catalogue: Catalogue) -> None:
        running = upload("running")
        catalogue.registrations.reserve(running)
        with pytest.raises(VectorExists):
            catalogue.registrations.reserve(replace(running, idempotency_key="new"))


class TestReferences:
    def test_objects_of_vectors_and_open_reservations_are_referenced(self, catalogue: Catalogue) -> None:
        active, deleted, purged = (register(catalogue) for _ in range(3))
        for record in (deleted, purged):
            catalogue.vectors.delete(record.id)
        catalogue.vectors.purge(purged.id)
        running, late, given_up = upload(), upload(seconds=-1), upload()
        for one in (running, late, given_up):
            catalogue.registrations.reserve(one)
        catalogue.registrations.release(given_up)
        asked = {one.object_key for one in (active, deleted, purged, running, late, given_up)} | {"unknown", "\ud800"}
        assert catalogue.registrations.find_referenced(asked) == {
            active.object_key,
            deleted.object_key,
            running.object_key,
        }
        assert catalogue.registrations.find_referenced([]) == frozenset()

    def test_objects_of_recently_purged_vectors_can_be_included(self, catalogue: Catalogue) -> None:
        purged, late = register(catalogue), upload(seconds=-1)
        catalogue.vectors.delete(purged.id)
        catalogue.vectors.purge(purged.id)
        catalogue.registrations.reserve(late)
        asked = {purged.object_key, late.object_key}
        assert catalogue.registrations.find_referenced(asked, purged_within=timedelta(minutes=1)) == {purged.object_key}
        assert catalogue.registrations.find_referenced(asked, purged_within=timedelta(0)) == frozenset()

    def test_many_keys_can_be_checked_at_once(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        assert catalogue.registrations.find_referenced(
            [*(f"none/{number}" for number in range(2_500)), record.object_key]
        ) == {record.object_key}

    def test_expired_reservations_are_listed_until_released(self, catalogue: Catalogue) -> None:
        first, second = upload(seconds=-20), upload(seconds=-10)
        for one in (second, first, upload()):
            catalogue.registrations.reserve(one)
        register(catalogue)
        assert [one.vector_id for one in catalogue.registrations.list_expired(9)] == [first.vector_id, second.vector_id]
        assert [one.vector_id for one in catalogue.registrations.list_expired(1)] == [first.vector_id]
        assert abs(catalogue.registrations.list_expired(1)[0].deadline - first.deadline) < timedelta(milliseconds=1)
        catalogue.registrations.release(first)
        assert [one.vector_id for one in catalogue.registrations.list_expired(9)] == [second.vector_id]
