"""Registration: everything is checked first, and nothing is left behind when it is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.support.library import memory_library, register
from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.memory.catalogue import MemoryChangeLog, MemoryRegistrations, memory_catalogue
from tests.support.memory.worker import EMBEDDER, MODEL
from tests.support.samples import artifact, card, vector
from vlibrary.domain.card import KeyKind, VectorRecord
from vlibrary.domain.changes import LogPosition
from vlibrary.domain.errors import (
    ArtifactLost,
    ArtifactsUnavailable,
    CatalogueUnavailable,
    InvalidArtifact,
    InvalidCard,
    KeyReused,
    WrongModel,
)
from vlibrary.domain.registration import ANONYMOUS, Amendment, Upload
from vlibrary.domain.vector import SteeringVector
from vlibrary.formats.artifact import decode, encode
from vlibrary.formats.card import digest_of, dump_card, parse_card
from vlibrary.library.library import Library
from vlibrary.library.publish import Submission, publish
from vlibrary.library.reindex import catch_up
from vlibrary.library.vectors import amend


class BrokenArtifacts(MemoryArtifacts):
    """A store whose disk is full."""

    def put(self, key: str, data: bytes, sha256: str) -> None:
        raise ArtifactsUnavailable("The disk is full.", "Free some space.")


def send(library: Library, data: bytes, text: str) -> None:
    publish(
        Submission(data, parse_card(text)),
        library=library,
    )


def assert_nothing_registered(library: Library) -> None:
    assert library.catalogue.change_log.position().seq == 0
    assert library.catalogue.vectors.page(limit=10).records == ()


def test_a_registered_vector_is_stored_byte_for_byte() -> None:
    library = memory_library()
    record = register(library, "colour", "Which colour is it?", seed=7)
    data = library.artifacts.get(record.object_key, record.sha256)
    assert data == artifact(MODEL, 7)
    assert decode(data) == vector(MODEL, 7)
    assert (record.version, record.seq, record.size) == (1, 1, len(data))
    assert library.catalogue.vectors.get(record.id) == record


def test_versions_count_up_within_a_name() -> None:
    library = memory_library()
    names = ["colour", "shape", "colour"]
    assert [register(library, name, "any", seed=at).version for at, name in enumerate(names)] == [1, 1, 2]


def test_the_description_becomes_a_key() -> None:
    library = memory_library()
    record = register(library, "colour", "Which colour is it?")
    assert [key.kind for key in record.card.keys] == [KeyKind.DESCRIPTION]
    assert record.card.embedder == EMBEDDER.fingerprint


def test_the_same_idempotency_key_registers_once() -> None:
    library = memory_library()
    first = register(library, "colour", "any", key="k1")
    assert register(library, "colour", "any", key="k1").id == first.id
    assert library.catalogue.change_log.position().seq == 1
    with pytest.raises(KeyReused):
        register(library, "colour", "another", key="k1")


@pytest.mark.parametrize(
    ("data", "text", "error"),
    [
        (b"\x80\x04pickle", card("colour", "any"), InvalidArtifact),
        (artifact(replace(MODEL, fingerprint="f" * 64)), card("colour", "any"), WrongModel),
        (artifact(replace(MODEL, hidden_size=5)), card("colour", "any"), WrongModel),
        (artifact(MODEL), card("colour"), InvalidCard),
        (artifact(MODEL), card("colour", "any", keys=[{"kind": "centroid", "text": [1.0]}], embedder="x"), InvalidCard),
    ],
    ids=["pickle", "other model", "other width", "no key at all", "keys of another embedder"],
)
def test_a_refused_registration_leaves_nothing_behind(data: bytes, text: str, error: type[Exception]) -> None:
    store = MemoryArtifacts()
    library = memory_library(store)
    with pytest.raises(error):
        send(library, data, text)
    assert_nothing_registered(library)


def test_a_vector_that_edits_nothing_is_refused() -> None:
    with pytest.raises(InvalidArtifact):
        decode(encode(SteeringVector.zero(MODEL)))


def test_a_failed_store_registers_nothing_and_frees_the_key() -> None:
    library = memory_library(BrokenArtifacts())
    with pytest.raises(ArtifactsUnavailable):
        register(library, "colour", "any", key="k1")
    assert_nothing_registered(library)
    mended = replace(library, artifacts=MemoryArtifacts())
    assert register(mended, "colour", "any", key="k1").version == 1


def test_a_registration_with_unknown_outcome_can_be_retried_at_once() -> None:
    class FailingRegistrations(MemoryRegistrations):
        commits = fails = False

        def publish(self, upload: Upload, record: VectorRecord, *, actor: str = ANONYMOUS) -> VectorRecord:
            if self.commits or not self.fails:
                record = super().publish(upload, record, actor=actor)
            if self.fails:
                raise CatalogueUnavailable("The database did not respond.", "Retry.")
            return record

    for commits in (False, True):
        catalogue = memory_catalogue(registrations=FailingRegistrations)
        library = replace(memory_library(), catalogue=catalogue)
        FailingRegistrations.fails, FailingRegistrations.commits = True, commits
        with pytest.raises(CatalogueUnavailable):
            register(library, "colour", "Which colour is it?", key="k1")
        FailingRegistrations.fails = False
        record = register(library, "colour", "Which colour is it?", key="k1")
        assert catalogue.vectors.page(limit=10).records == (record,)
        assert library.artifacts.get(record.object_key, record.sha256)


def test_writes_are_acknowledged_even_if_the_index_cannot_catch_up() -> None:
    """The client would send them again, and make a second vector."""

    class FailingChangeLog(MemoryChangeLog):
        fails = True

        def position(self) -> LogPosition:
            if self.fails:
                raise CatalogueUnavailable("The database did not respond.", "Retry.")
            return super().position()

    catalogue = memory_catalogue(change_log=FailingChangeLog)
    library = replace(memory_library(), catalogue=catalogue)
    record = register(library, "colour", "Which colour is it?")
    amended, seq = amend(record.id, Amendment(tags=("a",)), library, expected_revision=1)
    assert (amended.card.tags, seq) == (("a",), 1)
    FailingChangeLog.fails = False
    assert catch_up(catalogue.change_log, library.index).seq == 1


class DamagingArtifacts(MemoryArtifacts):
    """Keeps other bytes than it was given, and notices."""

    def put(self, key: str, data: bytes, sha256: str) -> None:
        raise ArtifactLost(f"Object {key} differs.", "Register the vector again.")


def test_an_upload_damaged_by_the_store_is_a_store_failure() -> None:
    library = memory_library(DamagingArtifacts())
    with pytest.raises(ArtifactsUnavailable, match="other bytes"):
        register(library, "colour", "any")
    assert_nothing_registered(library)


def test_a_card_survives_its_file() -> None:
    record = register(memory_library(), "colour", "Which colour is it?")
    again = parse_card(dump_card(record.card))
    assert dump_card(again) == dump_card(record.card)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"name": "Bad Name"}',
        '{"name": "a", "unknown": 1}',
        '{"name": "a", "keys": [{"kind": "odd"}]}',
        '{"name": "a", "keys": [{"kind": "centroid", "text": ["x"]}]}',
        '{"name": "a", "keys": [{"kind": "centroid", "text": [NaN]}]}',
        '{"name": "a", "thresholds": {"text": 2}}',
        '{"name": "a", "thresholds": {"smell": 0.5}}',
        '{"name": "a", "description": 5}',
        "[" * 100_000,
        r'{"name": "a", "description": "\u0000"}',
        r'{"name": "a", "results": {"note": "\ud800"}}',
        '{"name": "a", "name": "b"}',
        '{"name": "a", "results": {"x": 1e400}}',
        '{"name": "a", "results": {"x": -Infinity}}',
        f'{{"name": "a", "results": {{"x": {"9" * 400}}}}}',
        f'{{"name": "a", "thresholds": {{"text": {"9" * 400}}}}}',
        f'{{"name": "a", "keys": [{{"kind": "centroid", "text": [{"9" * 400}]}}]}}',
        f'{{"name": "a", "results": {{"x": {"[" * 40}{"]" * 40}}}}}',
    ],
)
def test_a_wrong_card_is_an_error_with_a_cure(text: str) -> None:
    with pytest.raises(InvalidCard) as caught:
        parse_card(text)
    assert caught.value.cure


def test_equal_cards_have_equal_digests() -> None:
    """The digest distinguishes a repeated request from a different one with the same idempotency key."""
    full: dict[str, Any] = {
        "name": "a",
        "description": "b",
        "embedder": "f" * 64,
        "keys": [{"kind": "centroid", "image": [1.0, 0.5]}, {"kind": "subcentroid", "text": [0.25, 2.0]}],
        "thresholds": {"text": 0.5},
        "results": {"x": 1},
        "tags": ["t"],
        "metadata": {"m": 1},
        "derived_from": ["0" * 26],
    }
    image, text = full["keys"]
    others = [
        *({name: value for name, value in full.items() if name != left} for left in full if left != "name"),
        full | {"name": "c"},
        full | {"metadata": {"m": True}},
        full | {"keys": [text, image]},
        full | {"keys": [image, text, text]},
        full | {"keys": [image | {"kind": "subcentroid"}, text]},
        full | {"keys": [{"kind": "centroid", "text": [1.0, 0.5]}, text]},
        full | {"keys": [{"kind": "centroid", "image": [1.0], "text": [0.5]}, text]},
        full | {"keys": [image, {"kind": "subcentroid", "text": [0.25, 2.0000002]}]},
    ]
    digests = [digest_of(parse_card(json.dumps(card))) for card in (full, *others)]
    assert len(set(digests)) == len(digests)
    assert digest_of(parse_card(dump_card(parse_card(json.dumps(full))))) == digests[0]


def test_results_may_be_nested_deeply() -> None:
    deep = f'{{"x": {"[" * 30}1{"]" * 30}}}'
    assert json.loads(dump_card(parse_card(f'{{"name": "a", "results": {deep}}}')))["results"] == json.loads(deep)
