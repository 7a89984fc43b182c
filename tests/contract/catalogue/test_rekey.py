"""New task keys after a change of the embedder, on every catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.support.registrations import EMBEDDER, direction, embedding, key, register
from vlibrary.domain.card import KeyKind, TaskKey, VectorCard
from vlibrary.domain.matching.calibration import PartScale
from vlibrary.domain.ports.catalogue import Catalogue
from vlibrary.domain.query import Modality, TaskEmbedding
from vlibrary.domain.registration import Amendment
from vlibrary.upkeep.rekey import Outcome, rekey

OLD = "e" * 64
RNG = np.random.default_rng(0)
DESCRIBED = TaskKey(KeyKind.DESCRIPTION, TaskEmbedding(text=direction(RNG, EMBEDDER.text_size)))


def test_keys_are_recomputed_as_far_as_the_library_knows_what_they_embed(catalogue: Catalogue) -> None:
    trained = VectorCard(
        "trained", embedder=EMBEDDER.fingerprint, keys=(key(embedding(RNG)),), thresholds={Modality.TEXT: 0.7}
    )
    old = (key(embedding(RNG)),)
    register(catalogue, "described", description="a", embedder=OLD, keys=(DESCRIBED,))
    register(catalogue, "trained", description="b", embedder=OLD, keys=old, thresholds={Modality.TEXT: 0.2})
    register(catalogue, "lost", description="c", embedder=OLD, keys=(*old, DESCRIBED))
    current = register(catalogue, "current", description="d", embedder=EMBEDDER.fingerprint, keys=old)
    before = catalogue.change_log.position().seq

    outcomes = {
        record.name: found for record, found in rekey(catalogue, EMBEDDER, lambda _: DESCRIBED, {"trained": trained})
    }
    assert outcomes == {
        "described": Outcome.RECOMPUTED,
        "trained": Outcome.RECOMPUTED,
        "lost": Outcome.NEEDS_EXAMPLES,
        "current": Outcome.CURRENT,
    }
    cards = {record.name: record.card for record in catalogue.vectors.page(limit=9).records}
    assert {name: card.embedder for name, card in cards.items()} == {
        "described": EMBEDDER.fingerprint,
        "trained": EMBEDDER.fingerprint,
        "lost": OLD,
        "current": EMBEDDER.fingerprint,
    }
    assert [one.kind for one in cards["trained"].keys] == [KeyKind.CENTROID, KeyKind.DESCRIPTION]
    assert cards["trained"].thresholds == {Modality.TEXT: 0.7}
    assert cards["trained"].description == "b"
    assert catalogue.vectors.get(current.id).revision == current.revision
    changed = catalogue.change_log.read(before, limit=9)
    assert [(change.kind.value, change.embedder) for change in changed] == [("rekeyed", EMBEDDER.fingerprint)] * 2


def test_a_second_run_changes_nothing(catalogue: Catalogue) -> None:
    register(catalogue, "described", description="a", embedder=OLD, keys=(DESCRIBED,))
    for expected in (Outcome.RECOMPUTED, Outcome.CURRENT):
        assert [found for _, found in rekey(catalogue, EMBEDDER, lambda _: DESCRIBED, {})] == [expected]


def test_scales_of_the_former_embedder_do_not_outlive_its_keys(catalogue: Catalogue) -> None:
    scales: dict[str, Any] = {"calibration": {Modality.TEXT: PartScale(0.9, 0.1)}, "thresholds": {Modality.TEXT: 0.2}}
    register(catalogue, "described", description="a", embedder=OLD, keys=(DESCRIBED,), **scales)
    ((record, _),) = rekey(catalogue, EMBEDDER, lambda _: DESCRIBED, {})
    stored = catalogue.vectors.get(record.id).card
    assert (stored.calibration, stored.thresholds) == ({}, {})


def test_a_description_that_changes_at_the_same_time_gets_its_own_key(catalogue: Catalogue) -> None:
    record = register(catalogue, "described", description="old", embedder=OLD, keys=(DESCRIBED,))
    later = TaskKey(KeyKind.DESCRIPTION, TaskEmbedding(text=direction(RNG, EMBEDDER.text_size)))

    def describe(text: str) -> TaskKey:
        if text == "old":
            catalogue.vectors.update(record.id, Amendment(description="new"), description_key=DESCRIBED)
        return later if text == "new" else DESCRIBED

    ((amended, outcome),) = rekey(catalogue, EMBEDDER, describe, {})
    assert (amended.card.description, amended.card.keys, outcome) == ("new", (later,), Outcome.RECOMPUTED)


def test_a_vector_that_is_deleted_at_the_same_time_is_left_out(catalogue: Catalogue) -> None:
    record = register(catalogue, "described", description="a", embedder=OLD, keys=(DESCRIBED,))

    def describe(_: str) -> TaskKey:
        catalogue.vectors.delete(record.id)
        return DESCRIBED

    assert list(rekey(catalogue, EMBEDDER, describe, {})) == []
