"""The contract of registrations, vectors and the change log: on the reference model, SQLite and PostgreSQL."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from tests.support.memory.catalogue import memory_catalogue
from tests.support.registrations import EMBEDDER, MODEL, draft, embedding, key, plain, plain_keys, register, upload
from vlibrary.domain.card import KeyKind, Status, TaskKey
from vlibrary.domain.changes import ChangeKind
from vlibrary.domain.errors import InProgress, InvalidInput, KeyReused, UploadExpired, VectorExists, VectorNotFound
from vlibrary.domain.filters import Filter
from vlibrary.domain.matching.calibration import PartScale
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.vector import ModelSpec


class TestPublishing:
    def test_publish_returns_the_record_with_version_and_seq(self, catalogue: Catalogue) -> None:
        rng = np.random.default_rng(0)
        new = upload()
        given = draft(
            new,
            "tiere",
            description="Zählt Tiere · ‖",
            embedder=EMBEDDER.fingerprint,
            keys=(
                TaskKey(KeyKind.CENTROID, embedding(rng)),
                TaskKey(KeyKind.SUBCENTROID, embedding(rng, text=False)),
                TaskKey(KeyKind.DESCRIPTION, embedding(rng, image=False)),
            ),
            calibration={
                Modality.TEXT: PartScale(own=0.75, unrelated=-0.25),
                Modality.IMAGE: PartScale(own=0.5, unrelated=0.25),
            },
            thresholds={Modality.TEXT: 0.25, Modality.IMAGE_TEXT: -0.5},
            results={"steered": 0.97, "per_class": {"cat": [1, 2]}},
        )
        assert catalogue.registrations.reserve(new) is None
        before = datetime.now(UTC) - timedelta(seconds=1)
        record = catalogue.registrations.publish(new, given)
        assert before < record.created_at < datetime.now(UTC) + timedelta(seconds=1)
        assert (record.version, record.seq, record.status) == (1, 1, Status.ACTIVE)
        placed = replace(given, version=1, seq=1, created_at=record.created_at)
        assert plain(record) == plain(placed)
        assert plain(catalogue.vectors.get(new.vector_id)) == plain(placed)

    def test_nothing_is_visible_before_it_is_published(self, catalogue: Catalogue) -> None:
        new = upload()
        catalogue.registrations.reserve(new)
        assert catalogue.vectors.page(limit=9, cursor=None).records == ()
        assert catalogue.change_log.position().seq == 0
        with pytest.raises(VectorNotFound):
            catalogue.vectors.get(new.vector_id)

    def test_versions_count_up_per_name_and_are_never_reused(self, catalogue: Catalogue) -> None:
        assert [register(catalogue, "a").version for _ in range(2)] == [1, 2]
        assert register(catalogue, "b").version == 1
        catalogue.vectors.delete(register(catalogue, "a").id)
        assert register(catalogue, "a").version == 4

    def test_publishing_the_same_upload_again_changes_nothing(self, catalogue: Catalogue) -> None:
        new = upload()
        catalogue.registrations.reserve(new)
        first = catalogue.registrations.publish(new, draft(new))
        assert plain(catalogue.registrations.publish(new, draft(new))) == plain(first)
        assert catalogue.change_log.position().seq == 1

    def test_an_upload_past_its_deadline_is_not_published(self, catalogue: Catalogue) -> None:
        late = upload(seconds=-1)
        assert catalogue.registrations.reserve(late) is None
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(late, draft(late))
        assert catalogue.change_log.position().seq == 0
        assert catalogue.vectors.get_many([late.vector_id]) == []

    @pytest.mark.parametrize("hours", [-12, 0, 14])
    def test_a_deadline_may_be_in_any_time_zone(self, catalogue: Catalogue, hours: int) -> None:
        zone = timezone(timedelta(hours=hours))
        late, new = upload(seconds=-60), upload(seconds=60)
        for one in (late, new):
            assert catalogue.registrations.reserve(replace(one, deadline=one.deadline.astimezone(zone))) is None
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(late, draft(late))
        assert catalogue.registrations.publish(new, draft(new)).seq == 1

    def test_reserving_the_same_upload_again_succeeds(self, catalogue: Catalogue) -> None:
        new = upload("key")
        assert catalogue.registrations.reserve(new) is None
        assert catalogue.registrations.reserve(new) is None
        record = catalogue.registrations.publish(new, draft(new))
        answer = catalogue.registrations.reserve(new)
        assert answer is not None
        assert answer.id == record.id

    def test_an_id_or_object_key_of_another_registration_is_refused(self, catalogue: Catalogue) -> None:
        first = upload("first")
        catalogue.registrations.reserve(first)
        for taken in (
            replace(upload("second"), vector_id=first.vector_id),
            replace(upload("second"), object_key=first.object_key),
        ):
            with pytest.raises(VectorExists):
                catalogue.registrations.reserve(taken)
        catalogue.registrations.publish(first, draft(first))
        with pytest.raises(VectorExists):
            catalogue.registrations.reserve(replace(upload("second"), vector_id=first.vector_id))

    def test_an_upload_without_reservation_is_not_published(self, catalogue: Catalogue) -> None:
        unknown = upload()
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(unknown, draft(unknown))


class TestIdempotency:
    def test_a_repeated_request_gets_the_first_record(self, catalogue: Catalogue) -> None:
        first, again = upload("key"), upload("key")
        catalogue.registrations.reserve(first)
        record = catalogue.registrations.publish(first, draft(first))
        answer = catalogue.registrations.reserve(again)
        assert answer is not None
        assert plain(answer) == plain(record)

    def test_a_repeated_request_gets_it_after_deadline_and_deletion(self, catalogue: Catalogue) -> None:
        first = upload("key", seconds=2.0)
        catalogue.registrations.reserve(first)
        catalogue.registrations.publish(first, draft(first))
        catalogue.vectors.delete(first.vector_id)
        threading.Event().wait(2.05)
        answer = catalogue.registrations.reserve(upload("key"))
        assert answer is not None
        assert (answer.id, answer.status) == (first.vector_id, Status.DELETED)

    def test_a_different_request_with_the_same_key_is_refused(self, catalogue: Catalogue) -> None:
        first = upload("key")
        catalogue.registrations.reserve(first)
        with pytest.raises(KeyReused):
            catalogue.registrations.reserve(upload("key", request="another"))
        catalogue.registrations.publish(first, draft(first))
        with pytest.raises(KeyReused):
            catalogue.registrations.reserve(upload("key", request="another"))

    def test_a_request_in_progress_is_not_started_twice(self, catalogue: Catalogue) -> None:
        catalogue.registrations.reserve(upload("key"))
        with pytest.raises(InProgress):
            catalogue.registrations.reserve(upload("key"))

    @pytest.mark.parametrize("request_text", ["request", "another"])
    def test_an_expired_reservation_is_replaced_permanently(self, catalogue: Catalogue, request_text: str) -> None:
        late, new = upload("key", seconds=-1), upload("key", request=request_text)
        catalogue.registrations.reserve(late)
        assert catalogue.registrations.reserve(new) is None
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(late, draft(late))
        assert catalogue.registrations.publish(new, draft(new)).id == new.vector_id

    @pytest.mark.parametrize("request_text", ["request", "another"])
    def test_a_later_upload_of_the_same_vector_replaces_an_interrupted_one(
        self, catalogue: Catalogue, request_text: str
    ) -> None:
        """For example of an archive, or of a newer version of it."""
        broken, new = upload("key"), upload("key", request=request_text)
        new = replace(new, vector_id=broken.vector_id)
        catalogue.registrations.reserve(broken)
        assert catalogue.registrations.reserve(new) is None
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(broken, draft(broken))
        assert catalogue.registrations.publish(new, draft(new)).object_key == new.object_key

    def test_a_replaced_upload_does_not_get_the_other_record(self, catalogue: Catalogue) -> None:
        late, new = upload("key", seconds=-1), upload("key", request="another")
        new = replace(new, vector_id=late.vector_id)
        catalogue.registrations.reserve(late)
        catalogue.registrations.reserve(new)
        record = catalogue.registrations.publish(new, draft(new))
        with pytest.raises(UploadExpired, match="replaced this one"):
            catalogue.registrations.publish(late, draft(late))
        assert plain(catalogue.registrations.publish(new, draft(new))) == plain(record)

    def test_a_released_key_is_free_and_its_upload_unpublishable(self, catalogue: Catalogue) -> None:
        given_up, new = upload("key"), upload("key")
        catalogue.registrations.reserve(given_up)
        catalogue.registrations.release(given_up)
        assert catalogue.registrations.reserve(new) is None
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(given_up, draft(given_up))

    def test_release_ignores_published_foreign_and_unknown_reservations(self, catalogue: Catalogue) -> None:
        new, stranger = upload("key"), upload("key")
        catalogue.registrations.reserve(new)
        catalogue.registrations.release(stranger)
        catalogue.registrations.release(upload())
        catalogue.registrations.publish(new, draft(new))
        catalogue.registrations.release(new)
        assert catalogue.registrations.reserve(upload("key")) is not None


class TestClock:
    def test_the_clock_dates_deletions(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        before = catalogue.change_log.now()
        catalogue.vectors.delete(record.id)
        deleted_at = catalogue.vectors.get(record.id, deleted=True).deleted_at
        assert deleted_at is not None
        assert before.tzinfo is UTC
        assert before <= deleted_at <= catalogue.change_log.now()


class TestReading:
    def test_get_many_keeps_the_order_and_omits_missing_vectors(self, catalogue: Catalogue) -> None:
        ids = [register(catalogue).id for _ in range(4)]
        catalogue.vectors.delete(ids[1])
        asked = [ids[3], "unknown", ids[0], ids[1], ids[2]]
        assert [record.id for record in catalogue.vectors.get_many(asked)] == [ids[3], ids[0], ids[2]]
        assert catalogue.vectors.get_many([]) == []

    def test_get_many_omits_keys_only(self, catalogue: Catalogue) -> None:
        whole = register(catalogue, keys=(key(embedding(np.random.default_rng(0))),), tags=("checked",))
        assert catalogue.vectors.get_many([whole.id]) == [replace(whole, card=replace(whole.card, keys=()))]

    @pytest.mark.parametrize("vector_id", ["", "unknown", "0" * 300, "a\x00b", "\ud800", "' OR 1=1 --"])
    def test_unknown_ids_are_not_found(self, catalogue: Catalogue, vector_id: str) -> None:
        register(catalogue)
        with pytest.raises(VectorNotFound):
            catalogue.vectors.get(vector_id)
        with pytest.raises(VectorNotFound):
            catalogue.vectors.delete(vector_id)

    def test_pages_are_newest_first_without_gap_or_overlap(self, catalogue: Catalogue) -> None:
        ids = [register(catalogue, f"n{number % 3}").id for number in range(7)]
        catalogue.vectors.delete(ids.pop(3))
        pages, cursor = [], None
        while True:
            page = catalogue.vectors.page(limit=2, cursor=cursor)
            pages.append([record.id for record in page.records])
            cursor = page.next
            if cursor is None:
                break
        newest = list(reversed(ids))
        assert pages == [newest[0:2], newest[2:4], newest[4:6]]

    def test_registrations_do_not_shift_later_pages(self, catalogue: Catalogue) -> None:
        first, second = register(catalogue).id, register(catalogue).id
        page = catalogue.vectors.page(limit=1, cursor=None)
        assert page.records[0].id == second
        register(catalogue)
        following = catalogue.vectors.page(limit=1, cursor=page.next)
        assert [record.id for record in following.records] == [first]

    def test_pages_filter_by_name_and_model(self, catalogue: Catalogue) -> None:
        other = ModelSpec("tests/other", "c" * 64, "Llava", layers=4, hidden_size=8)
        register(catalogue, "a")
        wanted = register(catalogue, "a", model=other)
        register(catalogue, "b", model=other)
        found = catalogue.vectors.page(Filter(name="a", model_id=other.model_id), limit=9)
        assert [record.id for record in found.records] == [wanted.id]
        assert len(catalogue.vectors.page(Filter(name="a"), limit=9).records) == 2
        assert len(catalogue.vectors.page(Filter(model_id=MODEL.model_id), limit=9).records) == 1
        assert len(catalogue.vectors.page(Filter(fingerprint=other.fingerprint), limit=9).records) == 2
        assert catalogue.vectors.page(Filter(name="\x00", model_id="\ud800"), limit=9).records == ()

    @pytest.mark.parametrize(
        "cursor", ["", "x", "djE6", "djI6MQ", "djE6MDE", "djE6MQ==", "djE6LTE", "é", "v1:1", "a" * 9999]
    )
    def test_a_foreign_cursor_is_refused(self, catalogue: Catalogue, cursor: str) -> None:
        with pytest.raises(InvalidInput):
            catalogue.vectors.page(limit=9, cursor=cursor)


class TestChangeLog:
    def test_entries_are_in_order(self, catalogue: Catalogue) -> None:
        part = embedding(np.random.default_rng(1))
        keys = (TaskKey(KeyKind.CENTROID, part),)
        first = register(catalogue, "a", keys=keys, embedder=EMBEDDER.fingerprint)
        second = register(catalogue, "b")
        assert catalogue.vectors.delete(first.id) == 3
        log = catalogue.change_log.read(after=0, limit=9)
        assert [(entry.seq, entry.kind, entry.vector_id) for entry in log] == [
            (1, ChangeKind.PUBLISHED, first.id),
            (2, ChangeKind.PUBLISHED, second.id),
            (3, ChangeKind.DELETED, first.id),
        ]
        # Keys of a deleted vector, too: an index that replays the log applies every entry.
        assert (log[0].model, log[0].embedder) == (MODEL.fingerprint, EMBEDDER.fingerprint)
        assert plain_keys(log[0].keys) == plain_keys(keys)
        assert (log[1].keys, log[1].embedder) == ((), None)
        assert (log[2].model, log[2].keys, log[2].embedder) == ("", (), None)

    def test_the_log_is_read_from_any_position_in_parts(self, catalogue: Catalogue) -> None:
        for _ in range(5):
            register(catalogue)
        assert [entry.seq for entry in catalogue.change_log.read(after=2, limit=2)] == [3, 4]
        assert catalogue.change_log.read(after=5, limit=2) == []
        assert catalogue.change_log.position().seq == 5

    def test_a_refused_write_leaves_no_gap(self, catalogue: Catalogue) -> None:
        late = upload(seconds=-1)
        catalogue.registrations.reserve(late)
        with pytest.raises(UploadExpired):
            catalogue.registrations.publish(late, draft(late))
        with pytest.raises(VectorNotFound):
            catalogue.vectors.delete("unknown")
        assert register(catalogue).seq == 1

    def test_each_catalogue_has_a_constant_epoch_of_its_own(self, catalogue: Catalogue) -> None:
        epoch = catalogue.change_log.position().epoch
        register(catalogue)
        assert catalogue.change_log.position().epoch == epoch != memory_catalogue().change_log.position().epoch

    def test_a_vector_is_deleted_once(self, catalogue: Catalogue) -> None:
        record = register(catalogue)
        catalogue.vectors.delete(record.id)
        with pytest.raises(VectorNotFound):
            catalogue.vectors.get(record.id)
        with pytest.raises(VectorNotFound):
            catalogue.vectors.delete(record.id)
        assert catalogue.change_log.position().seq == 2


def test_missing_key_parts_differ_from_zeros(catalogue: Catalogue) -> None:
    text_only = TaskEmbedding(text=embedding(np.random.default_rng(2)).text)
    record = register(catalogue, keys=(TaskKey(KeyKind.DESCRIPTION, text_only),))
    assert catalogue.vectors.get(record.id).card.keys[0].embedding.image is None
