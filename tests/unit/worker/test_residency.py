"""The host cache of vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.support.memory.artifacts import MemoryArtifacts
from tests.support.samples import vector
from vlibrary.domain.errors import ArtifactLost, ArtifactsUnavailable, InvalidArtifact, UnsupportedEdit, WrongModel
from vlibrary.domain.vector import ModelSpec, NormRule, Positions, SteeringVector, check_applicable
from vlibrary.domain.wire import ArtifactAtStrength
from vlibrary.formats.artifact import encode, sha256_of
from vlibrary.worker.residency import Residency, SingleFlight

SPEC = ModelSpec("tiny", "f" * 64, "Tiny", layers=2, hidden_size=8)
CALLERS = 16


class Counting(MemoryArtifacts):
    """A store that counts its reads and blocks them while `open` is cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.open = threading.Event()
        self.open.set()
        self.reading = threading.Event()
        self.failures: list[Exception] = []

    def get(self, key: str, sha256: str) -> bytes:
        self.reads.append(key)
        self.reading.set()
        assert self.open.wait(10)
        if self.failures:
            raise self.failures.pop()
        return super().get(key, sha256)

    def stored(self, data: bytes, strength: float = 1.0) -> ArtifactAtStrength:
        digest = sha256_of(data)
        self.put(f"v/{digest}", data, digest)
        return ArtifactAtStrength("v", f"v/{digest}", digest, strength)

    def stored_vector(self, seed: int, strength: float = 1.0) -> ArtifactAtStrength:
        return self.stored(encode(vector(SPEC, seed)), strength)

    def damage(self, applied: ArtifactAtStrength) -> None:
        """Replace the bytes under the key, as a failing disk would."""
        self._objects[applied.object_key] = b"rotten" + self._objects[applied.object_key]


@pytest.fixture
def store() -> Counting:
    return Counting()


def residency(store: Counting, most: int = 8, took: Callable[[float], None] = lambda _seconds: None) -> Residency:
    return Residency(store, lambda one: check_applicable(one, SPEC), most, took)


def content(kept: Residency, *applied: ArtifactAtStrength) -> SteeringVector:
    one, _ = kept.get(applied)
    assert one is not None
    return one


def run_concurrently(action: Callable[[], object], store: Counting) -> list[Future[object]]:
    """Return the results of many callers that all start during the first read."""
    store.open.clear()
    with ThreadPoolExecutor(CALLERS) as threads:
        outcomes = [threads.submit(action) for _ in range(CALLERS)]
        assert store.reading.wait(10)
        store.open.set()
    return outcomes


def test_without_vectors_there_is_no_edit(store: Counting) -> None:
    assert residency(store).get(()) == (None, None)
    assert store.reads == []


def test_concurrent_callers_share_one_load(store: Counting) -> None:
    applied, kept = store.stored_vector(1), residency(store)
    outcomes = run_concurrently(lambda: content(kept, applied), store)
    assert len(store.reads) == 1
    assert all(outcome.result() == vector(SPEC, 1) for outcome in outcomes)
    assert kept.single.misses == 1


def test_a_failed_load_is_raised_in_all_waiters_and_not_cached(store: Counting) -> None:
    applied, kept, calls = store.stored_vector(1), residency(store), threading.Barrier(CALLERS)
    store.failures = [ArtifactsUnavailable("The store is down.", "Retry.")]

    def ask() -> SteeringVector:
        calls.wait(10)
        return content(kept, applied)

    outcomes = run_concurrently(ask, store)
    failed = [outcome for outcome in outcomes if outcome.exception() is not None]
    assert failed
    assert all(isinstance(outcome.exception(), ArtifactsUnavailable) for outcome in failed)
    assert content(kept, applied) == vector(SPEC, 1)


def test_a_failure_is_raised_in_all_waiters_of_the_value() -> None:
    flight, entered, go = SingleFlight[int](4), threading.Event(), threading.Event()

    def make() -> int:
        entered.set()
        assert go.wait(10)
        raise ArtifactLost("It is gone.", "Store it again.")

    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(flight.get, "key", make)
        assert entered.wait(10)
        others = [threads.submit(flight.get, "key", lambda: pytest.fail("made twice")) for _ in range(3)]
        while flight.hits < 3:
            threading.Event().wait(0.001)
        go.set()
    assert [type(one.exception()) for one in (first, *others)] == [ArtifactLost] * 4
    assert len(flight) == 0
    assert flight.get("key", lambda: 7) == 7


def test_an_evicted_vector_is_loaded_again(store: Counting) -> None:
    applied, kept = [store.stored_vector(seed) for seed in (1, 2, 3)], residency(store, most=2)
    for number in (0, 1, 2, 0):
        assert content(kept, applied[number]) == vector(SPEC, number + 1)
    assert store.reads == [applied[number].object_key for number in (0, 1, 2, 0)]
    assert (len(kept.single), kept.single.evictions) == (2, 2)


def test_the_least_recently_used_value_is_evicted() -> None:
    flight, made = SingleFlight[str](2), list[str]()

    def make(key: str) -> str:
        made.append(key)
        return key

    for key in ("one", "two", "one", "three", "one", "two"):
        assert flight.get(key, partial(make, key)) == key
    assert made == ["one", "two", "three", "two"]
    assert (flight.hits, flight.misses, flight.evictions, len(flight)) == (2, 4, 2, 2)


def test_a_value_evicted_during_its_computation_reaches_its_waiters() -> None:
    flight = SingleFlight[int](1)

    def make() -> int:
        assert flight.get("other", lambda: 2) == 2  # pushes this one out
        return 1

    assert flight.get("key", make) == 1
    assert flight.evictions == 1
    assert flight.get("key", lambda: 3) == 3


def test_another_strength_of_a_vector_needs_no_second_load(store: Counting) -> None:
    applied, kept = store.stored_vector(1), residency(store)
    (whole, one_key), (half, half_key) = kept.get((applied,)), kept.get((replace(applied, strength=0.5),))
    assert whole == vector(SPEC, 1)
    assert half == vector(SPEC, 1) * 0.5
    assert one_key != half_key
    assert len(store.reads) == 1


def test_the_key_depends_on_content_and_not_on_the_id(store: Counting) -> None:
    applied, kept = store.stored_vector(1), residency(store)
    assert kept.get((applied,))[1] == kept.get((replace(applied, vector_id="another name"),))[1]
    assert kept.get((applied,))[1] != kept.get((store.stored_vector(2),))[1]


def test_several_vectors_are_their_weighted_sum(store: Counting) -> None:
    one, two = store.stored_vector(1, 0.5), store.stored_vector(2, -2.0)
    kept = residency(store)
    combined, key = kept.get((one, two))
    assert combined == vector(SPEC, 1) * 0.5 + vector(SPEC, 2) * -2.0
    assert key not in {kept.get((one,))[1], kept.get((two,))[1]}
    assert kept.get((one, two))[0] is combined


def test_a_corrupt_artifact_is_lost_until_it_is_repaired(store: Counting) -> None:
    applied, kept = store.stored_vector(1), residency(store)
    whole = store.get(applied.object_key, applied.sha256)
    store.damage(applied)
    for _ in range(2):
        with pytest.raises(ArtifactLost):
            content(kept, applied)
    assert (len(kept.single), len(kept.combined)) == (0, 0)
    store.delete(applied.object_key)
    store.put(applied.object_key, whole, applied.sha256)
    assert content(kept, applied) == vector(SPEC, 1)


def test_invalid_artifacts_are_refused_every_time(store: Counting) -> None:
    applied, kept = store.stored(b"not a vector"), residency(store)
    for _ in range(2):
        with pytest.raises(InvalidArtifact):
            content(kept, applied)
    assert len(kept.single) == 0


def test_a_cached_vector_outlives_its_object(store: Counting) -> None:
    applied, kept = store.stored_vector(1), residency(store)
    content(kept, applied)
    store.delete(applied.object_key)
    assert content(kept, applied) == vector(SPEC, 1)
    with pytest.raises(ArtifactLost):
        content(residency(store), applied)


def test_a_vector_for_another_model_is_refused_every_time(store: Counting) -> None:
    other, kept = replace(SPEC, fingerprint="0" * 64), residency(store)
    applied = store.stored(encode(vector(other, 1)))
    for _ in range(2):
        with pytest.raises(WrongModel):
            content(kept, applied)


@pytest.mark.parametrize(
    "changed", [replace(vector(SPEC, 2), positions=Positions.LAST), replace(vector(SPEC, 2), norm=NormRule.PRESERVE)]
)
def test_vectors_that_cannot_be_added_are_refused(store: Counting, changed: SteeringVector) -> None:
    kept, one, two = residency(store), store.stored_vector(1), store.stored(encode(changed))
    for _ in range(2):
        with pytest.raises(UnsupportedEdit):
            content(kept, one, two)
    assert content(kept, one) == vector(SPEC, 1)


def test_only_successful_loads_are_timed(store: Counting) -> None:
    times: list[float] = []
    kept, applied = residency(store, took=times.append), store.stored_vector(1)
    store.failures = [ArtifactsUnavailable("The store is down.", "Retry.")]
    with pytest.raises(ArtifactsUnavailable):
        content(kept, applied)
    assert times == []
    content(kept, applied)
    content(kept, replace(applied, strength=3.0))
    assert len(times) == 1
    assert times[0] > 0


def test_strength_zero_has_no_effect(store: Counting) -> None:
    nothing = content(residency(store), store.stored_vector(1, 0.0))
    assert not any(np.any(edit.shift) for edit in nothing.edits.values())
