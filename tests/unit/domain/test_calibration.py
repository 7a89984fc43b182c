"""Laws of the probabilities by which `auto` chooses a vector."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlibrary.domain.card import KeyKind, TaskKey, VectorCard
from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.matching.calibration import ACCEPTED, PartScale, normalise, weigh
from vlibrary.domain.query import Modality, PartScores, TaskEmbedding

COSINES = st.floats(-1.0, 1.0)
SCALES = st.builds(PartScale, own=COSINES, unrelated=COSINES)
# A part by which own and unrelated queries differ.
WIDE_SCALES = st.floats(-1.0, 0.9).flatmap(
    lambda low: st.builds(PartScale, own=st.floats(low + 0.06, 1.0), unrelated=st.just(low))
)
CALIBRATIONS = st.fixed_dictionaries({}, optional={Modality.IMAGE: SCALES, Modality.TEXT: SCALES}).filter(bool)
PARTS = st.builds(PartScores, image=COSINES, text=COSINES)
EVIDENCE = st.lists(st.floats(-80.0, 20.0), min_size=1, max_size=8)
USUAL = {Modality.IMAGE: PartScale(0.95, 0.2), Modality.TEXT: PartScale(1.0, 0.3)}

PART = np.ones(1, np.float32)


def probability(parts: PartScores, *, rivals: int = 0) -> float:
    evidence = weigh(parts, USUAL)
    return normalise([evidence] * (1 + rivals), [str(number) for number in range(1 + rivals)])[0]


@given(PARTS, CALIBRATIONS, st.sampled_from(["image", "text"]), COSINES)
def test_a_closer_part_never_lowers_the_evidence(
    parts: PartScores, calibration: dict[Modality, PartScale], part: str, other: float
) -> None:
    farther, closer = sorted([getattr(parts, part), other])
    before = weigh(replace(parts, **{part: farther}), calibration)
    assert weigh(replace(parts, **{part: closer}), calibration) >= before


@given(PARTS, st.fixed_dictionaries({Modality.IMAGE: WIDE_SCALES}, optional={Modality.TEXT: WIDE_SCALES}))
def test_a_query_without_an_image_fits_no_better_than_with_the_best_image(
    parts: PartScores, calibration: dict[Modality, PartScale]
) -> None:
    assert weigh(replace(parts, image=None), calibration) <= weigh(replace(parts, image=1.0), calibration) + 1e-9


@given(PARTS)
def test_a_query_without_a_text_never_fits_a_vector_of_questions(parts: PartScores) -> None:
    assert weigh(replace(parts, text=None), USUAL) == -math.inf


@given(EVIDENCE, st.floats(-80.0, 20.0))
def test_a_further_vector_never_makes_another_more_probable(evidence: list[float], new: float) -> None:
    names = [str(number) for number in range(len(evidence))]
    before, after = normalise(evidence, names), normalise([*evidence, new], [*names, "new"])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(before, after, strict=False))


@given(EVIDENCE)
def test_the_order_of_the_vectors_does_not_matter(evidence: list[float]) -> None:
    names = [str(number) for number in range(len(evidence))]
    reversed_ = normalise(evidence[::-1], names[::-1])
    assert normalise(evidence, names) == pytest.approx(reversed_[::-1], abs=1e-12)


@given(EVIDENCE)
def test_probabilities_of_different_names_add_up_to_less_than_one(evidence: list[float]) -> None:
    found = normalise(evidence, [str(number) for number in range(len(evidence))])
    assert all(0 <= one <= 1 for one in found)
    assert sum(found) <= 1 + 1e-12


@given(EVIDENCE)
def test_an_accepted_vector_is_more_probable_than_no_vector(evidence: list[float]) -> None:
    found = normalise(evidence, [str(number) for number in range(len(evidence))])
    assert all(value >= -1e-9 for value, share in zip(evidence, found, strict=True) if share >= ACCEPTED)


def test_of_two_vectors_that_fit_equally_well_none_is_accepted() -> None:
    own = PartScores(image=0.97, text=1.0)
    assert probability(own) > 0.95
    assert probability(own, rivals=1) < ACCEPTED


def test_versions_of_one_name_do_not_compete() -> None:
    alone = [normalise([evidence], ["a"])[0] for evidence in (3.0, 1.0)]
    assert normalise([3.0, 1.0], ["a", "a"]) == pytest.approx(alone)
    with_rival = [normalise([evidence, 2.0], ["a", "b"])[0] for evidence in (3.0, 1.0)]
    assert normalise([3.0, 1.0, 2.0], ["a", "a", "b"])[:2] == pytest.approx(with_rival)


@pytest.mark.parametrize("parts", [PartScores(image=0.2, text=1.0), PartScores(image=0.97, text=0.3)])
def test_one_unrelated_part_is_enough_to_reject(parts: PartScores) -> None:
    assert probability(parts) < 0.01


def test_a_part_whose_queries_resemble_unrelated_ones_needs_a_higher_cosine() -> None:
    narrow, wide = PartScale(own=0.9, unrelated=0.88), PartScale(own=0.9, unrelated=0.1)
    assert narrow.level(0.85) < 0 < wide.level(0.85)


def test_pictures_that_resemble_unrelated_ones_leave_the_decision_to_the_text() -> None:
    any_picture = {Modality.IMAGE: PartScale(own=0.5, unrelated=0.6), Modality.TEXT: PartScale(1.0, 0.3)}
    assert weigh(PartScores(image=0.5, text=1.0), any_picture) > 0 > weigh(PartScores(image=0.9, text=0.3), any_picture)


def test_questions_that_resemble_unrelated_ones_are_rejected() -> None:
    any_question = {Modality.IMAGE: PartScale(0.95, 0.2), Modality.TEXT: PartScale(own=0.5, unrelated=0.6)}
    assert weigh(PartScores(image=0.97, text=0.55), any_question) < 0


def test_a_library_without_calibrated_vectors_has_no_probabilities() -> None:
    assert normalise([], []) == []


@pytest.mark.parametrize("cosines", [(1.5, 0.0), (0.0, -1.5), (math.nan, 0.0)])
def test_a_scale_holds_cosines_only(cosines: tuple[float, float]) -> None:
    with pytest.raises(InvalidCard, match="Use a number from -1 to 1"):
        PartScale(*cosines)


@pytest.mark.parametrize("lacking", [Modality.IMAGE, Modality.TEXT])
def test_a_part_of_the_keys_without_a_scale_is_refused(lacking: Modality) -> None:
    keys = (TaskKey(KeyKind.EXEMPLAR, TaskEmbedding(image=PART, text=PART)),)
    with pytest.raises(InvalidCard, match=f"lacks '{lacking}'"):
        VectorCard("a", keys=keys, calibration={part: one for part, one in USUAL.items() if part is not lacking})


def test_the_key_of_a_description_needs_no_scale() -> None:
    keys = (
        TaskKey(KeyKind.EXEMPLAR, TaskEmbedding(image=PART)),
        TaskKey(KeyKind.DESCRIPTION, TaskEmbedding(text=PART)),
    )
    VectorCard("a", keys=keys, calibration={Modality.IMAGE: USUAL[Modality.IMAGE]})
