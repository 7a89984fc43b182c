"""The algebra of steering vectors: laws that hold for every vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vlibrary.domain.errors import UnsupportedEdit, WrongModel
from vlibrary.domain.vector import Array, Edit, ModelSpec, NormRule, Positions, Site, SteeringVector

unhurried = settings(max_examples=30)

MODEL = ModelSpec("tiny", "f" * 64, "Tiny", layers=2, hidden_size=3)
OTHER = replace(MODEL, fingerprint="0" * 64)

# Wide enough to show rounding, narrow enough that no product overflows or loses bits near zero.
NUMBERS = st.floats(-1e6, 1e6, width=32).filter(lambda number: number == 0 or abs(number) > 1e-15)


def array(*shape: int) -> st.SearchStrategy[Array]:
    return arrays.arrays(np.float32, shape, elements=NUMBERS)


EDITS = st.builds(Edit, array(2, 3), array(2), st.none() | array(2))
SITES = st.dictionaries(st.sampled_from(Site), EDITS)
VECTORS = st.builds(SteeringVector, st.just(MODEL), SITES, st.just("m2iv"))
STRENGTHS = st.floats(-100, 100, width=32)


def assert_close(one: SteeringVector, other: SteeringVector, scale: float) -> None:
    """Assert equal effects, up to the rounding of numbers of magnitude `scale`."""
    for site in Site:
        for mine, theirs in zip(effect(one, site), effect(other, site), strict=True):
            assert np.abs(mine - theirs).max() <= 1e-6 * scale


def effect(vector: SteeringVector, site: Site) -> tuple[Array, Array]:
    """Shift [L, d] and gain [L]; an absent site shifts by 0 at gain 1."""
    edit = vector.edits.get(site, Edit(np.zeros((2, 3), np.float32), np.zeros(2, np.float32)))
    return edit.shift, np.ones(2, np.float32) if edit.gain is None else edit.gain


def largest(*vectors: SteeringVector) -> float:
    return 1.0 + sum(float(np.abs(part).max()) for v in vectors for site in Site for part in effect(v, site))


@unhurried
@given(VECTORS)
def test_zero_is_neutral(vector: SteeringVector) -> None:
    zero = SteeringVector.zero(MODEL)
    assert zero + vector == vector == vector + zero


@unhurried
@given(VECTORS)
def test_strength_one_is_the_vector_and_strength_zero_is_neutral(vector: SteeringVector) -> None:
    assert vector * 1 == vector == 1 * vector
    assert vector * 0 == SteeringVector.zero(MODEL)


@unhurried
@given(VECTORS)
def test_a_vector_minus_itself_is_neutral(vector: SteeringVector) -> None:
    assert_close(vector + vector * -1, SteeringVector.zero(MODEL), largest(vector))
    for site in Site:
        shift, _ = effect(vector + vector * -1, site)
        assert not shift.any()


@unhurried
@given(VECTORS, VECTORS)
def test_addition_is_commutative(one: SteeringVector, two: SteeringVector) -> None:
    assert one + two == two + one


@unhurried
@given(VECTORS, VECTORS, VECTORS)
def test_addition_is_associative(one: SteeringVector, two: SteeringVector, three: SteeringVector) -> None:
    assert_close((one + two) + three, one + (two + three), largest(one, two, three))


@unhurried
@given(VECTORS, VECTORS, STRENGTHS)
def test_strength_distributes_over_a_sum(one: SteeringVector, two: SteeringVector, strength: float) -> None:
    scale = largest(one, two) * (1 + abs(strength))
    assert_close(strength * (one + two), strength * one + strength * two, scale)


@unhurried
@given(VECTORS, STRENGTHS, STRENGTHS)
def test_strengths_multiply_and_add(vector: SteeringVector, first: float, second: float) -> None:
    scale = largest(vector) * (1 + abs(first)) * (1 + abs(second))
    assert_close((vector * first) * second, vector * (first * second), scale)
    assert_close(vector * first + vector * second, vector * (first + second), scale)


@unhurried
@given(VECTORS)
def test_equality_compares_effects_and_not_records(vector: SteeringVector) -> None:
    assert vector == replace(vector, method="other", training={"shots": 4})
    ones = np.ones(2, np.float32)
    written_otherwise = {
        site: Edit(edit.vectors * 2, edit.scale * np.float32(0.5), ones if edit.gain is None else edit.gain)
        for site, edit in vector.edits.items()
    }
    assert vector == replace(vector, edits=written_otherwise)


def vector(site: Site = Site.MLP, model: ModelSpec = MODEL, gain: Array | None = None, **frame: Any) -> SteeringVector:
    edit = Edit(np.ones((2, 3), np.float32), np.ones(2, np.float32), gain)
    return SteeringVector(model, {site: edit}, "m2iv", **frame)


@pytest.mark.parametrize(
    "other",
    [
        vector() * 1.001,
        vector(Site.ATTENTION),
        vector(model=OTHER),
        vector(gain=np.array([1, 0.999], np.float32)),
        vector(positions=Positions.LAST),
        vector(norm=NormRule.PRESERVE),
        SteeringVector.zero(MODEL),
    ],
)
def test_vectors_with_different_effects_differ(other: SteeringVector) -> None:
    assert vector() != other
    assert vector() != "a vector"


def test_an_edit_follows_its_equation() -> None:
    edit = Edit(np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([2, -1], np.float32))
    assert edit.shift.tolist() == [[2, 4, 6], [-4, -5, -6]]
    both = edit.plus(edit.scale_by(0.5))
    assert both.shift.tolist() == [[3, 6, 9], [-6, -7.5, -9]]


def test_gains_add_their_distances_from_one() -> None:
    gained = vector(gain=np.array([0.5, 3.0], np.float32))
    assert effect(gained * 0.5, Site.MLP)[1].tolist() == [0.75, 2.0]
    assert effect(gained + gained, Site.MLP)[1].tolist() == [0.0, 5.0]
    assert effect(gained + vector(), Site.MLP)[1].tolist() == [0.5, 3.0]


@pytest.mark.parametrize("part", ["vectors", "scale", "gain"])
def test_arrays_are_read_only(part: str) -> None:
    source: dict[str, Array] = {"vectors": np.ones((2, 3), np.float32)}
    source |= {"scale": np.ones(2, np.float32), "gain": np.ones(2, np.float32)}
    edit = Edit(**source)
    source[part][...] = 7
    assert getattr(edit, part).max() == 1
    with pytest.raises(ValueError, match="read-only"):
        getattr(edit, part)[...] = 7
    with pytest.raises(FrozenInstanceError):
        setattr(edit, part, source[part])


def test_vectors_are_immutable() -> None:
    edits, training = dict(vector().edits), {"shots": 4}
    one = SteeringVector(MODEL, edits, "m2iv", training=training)
    edits.clear()
    training["shots"] = 5
    assert (one, one.training["shots"]) == (vector(), 4)
    for mapping in (one.edits, one.training):
        with pytest.raises(TypeError):
            cast("dict[str, int]", mapping)["shots"] = 5
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)


def test_vectors_of_different_models_cannot_be_added() -> None:
    for pair in ((vector(), vector(model=OTHER)), (SteeringVector.zero(OTHER), vector())):
        with pytest.raises(WrongModel, match="cannot be added") as refusal:
            pair[0] + pair[1]
        assert refusal.value.cure


FRAMES: list[Mapping[str, Any]] = [{"positions": Positions.LAST}, {"norm": NormRule.PRESERVE}]


@pytest.mark.parametrize("frame", FRAMES)
def test_vectors_with_different_positions_or_norms_cannot_be_added(frame: Mapping[str, Any]) -> None:
    with pytest.raises(UnsupportedEdit, match="different positions or norm rules"):
        vector() + vector(**frame)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_sum_keeps_positions_and_norm_rule(frame: Mapping[str, Any]) -> None:
    one, zero = vector(**frame), SteeringVector.zero(MODEL)
    for total in (one + one, zero + one, one + zero):
        assert (total.positions, total.norm) == (one.positions, one.norm)
        assert total.method == "sum"
