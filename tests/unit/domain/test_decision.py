"""Which of the vectors found fit a query, and which one `auto` applies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.registrations import draft, upload
from vlibrary.domain.matching.calibration import ACCEPTED, Calibration, PartScale
from vlibrary.domain.matching.decision import AMBIGUOUS_MARGIN, Candidate, Decision, Match, decide, judge
from vlibrary.domain.query import EmbedderSpec, Modality, TaskEmbedding, score
from vlibrary.domain.steering import SteeringReason
from vlibrary.domain.vector import Array

THRESHOLDS = {Modality.IMAGE: 0.3, Modality.TEXT: 0.9, Modality.IMAGE_TEXT: 0.6}
SPEC = EmbedderSpec("two", "f" * 64, image_size=2, text_size=2)
COSINES = st.floats(-1.0, 1.0, width=32)
SCALES = st.builds(PartScale, own=COSINES, unrelated=COSINES)
MAYBE = st.none() | COSINES


def direction(cosine: float) -> Array:
    """Return the unit vector [2] with this cosine to the query's part."""
    return np.array([cosine, math.sqrt(max(0.0, 1 - cosine**2))], np.float32)


def query(modality: Modality = Modality.IMAGE_TEXT) -> TaskEmbedding:
    image, text = modality is not Modality.TEXT, modality is not Modality.IMAGE
    return TaskEmbedding(direction(1) if image else None, direction(1) if text else None)


def candidate(
    name: str,
    image: float | None,
    text: float | None,
    *,
    modality: Modality = Modality.IMAGE_TEXT,
    version: int = 1,
    keys: Sequence[TaskEmbedding] = (),
    **card: Any,
) -> Candidate:
    """Return a vector whose key has these cosines to the query's parts, and further keys."""
    record = replace(draft(upload(), name, **{"thresholds": THRESHOLDS} | card), version=version)
    key = TaskEmbedding(None if image is None else direction(image), None if text is None else direction(text))
    rows = np.stack([one.row(SPEC) for one in (key, *keys)])
    best = max(score(query(modality), TaskEmbedding.from_row(row, SPEC), SPEC) for row in rows)
    return Candidate(record, best, rows)


def judged(candidates: Sequence[Candidate], modality: Modality = Modality.IMAGE_TEXT) -> list[Match]:
    ordered = sorted(candidates, key=lambda one: -one.score)
    return judge(query(modality), ordered, SPEC)


def decided(candidates: Sequence[Candidate], modality: Modality = Modality.IMAGE_TEXT) -> Decision:
    return decide(judged(candidates, modality))


def reason(match: Match | None) -> SteeringReason | None:
    assert match is not None
    return match.reason


def test_a_vector_fits_if_the_score_and_each_part_reach_their_thresholds() -> None:
    matches = judged(
        [
            candidate("fits", 0.9, 0.99),
            candidate("other-picture", 0.2, 1.0, thresholds=THRESHOLDS | {Modality.IMAGE_TEXT: 0.5}),
            candidate("other-question", 0.9, 0.8),
            candidate("far", 0.31, 0.91, thresholds=THRESHOLDS | {Modality.IMAGE_TEXT: 0.7}),
        ]
    )
    assert {match.record.name for match in matches if match.accepted} == {"fits"}
    assert {match.reason for match in matches[1:]} == {SteeringReason.BELOW_THRESHOLD}


def test_the_second_is_applied_if_the_nearest_rejects() -> None:
    decision = decided([candidate("near", 1.0, 0.8), candidate("wide", 0.5, 0.95)])
    assert decision.best is not None
    assert (decision.best.record.name, decision.reason) == ("wide", None)
    assert decision.second is not None
    assert decision.second.record.name == "near"
    assert decision.margin == pytest.approx(-0.175)


def test_a_query_without_text_is_refused_by_vectors_whose_queries_have_one() -> None:
    decision = decided([candidate("both", 1.0, 1.0, modality=Modality.IMAGE)], Modality.IMAGE)
    assert reason(decision.best) == SteeringReason.MISSING_PART
    decision = decided([candidate("images", 1.0, None, modality=Modality.IMAGE)], Modality.IMAGE)
    assert decision.reason is None


@given(image=COSINES, text=COSINES, least=st.tuples(COSINES, COSINES, COSINES))
def test_a_missing_part_never_makes_a_match_easier(
    image: float, text: float, least: tuple[float, float, float]
) -> None:
    """The threshold of a part is the same with and without the other part."""
    thresholds = dict(zip(Modality, least, strict=True))

    def fits(modality: Modality) -> bool:
        one = candidate("a", image, text, modality=modality, thresholds=thresholds)
        return judged([one], modality)[0].accepted

    assert not fits(Modality.IMAGE)
    if not fits(Modality.TEXT):
        assert not fits(Modality.IMAGE_TEXT)


def test_vectors_of_different_names_that_fit_equally_well_are_ambiguous() -> None:
    decision = decided([candidate("a", 0.9, 1.0), candidate("b", 0.9 - AMBIGUOUS_MARGIN, 1.0)])
    assert reason(decision.best) == SteeringReason.AMBIGUOUS
    assert decision.reason is not None
    assert "a version 1 and b version 1" in decision.reason.detail
    assert decision.best is not None
    assert [rival.name for rival in decision.best.rivals] == ["b"]


def test_vectors_whose_keys_fit_each_other_are_ambiguous_even_if_one_is_nearer() -> None:
    assert decided([candidate("a", 1.0, 1.0), candidate("b", 0.7, 0.95)]).reason is not None
    apart = [TaskEmbedding(direction(-1.0), direction(-1.0))]
    decision = decided([candidate("a", 1.0, 1.0), candidate("wide", 0.7, 0.95, keys=apart)])
    assert decision.best is not None
    assert (decision.best.record.name, decision.reason) == ("a", None)


def test_descriptions_do_not_hide_that_keys_are_the_same() -> None:
    described = [TaskEmbedding(text=direction(-1.0))]
    decision = decided([candidate("a", 1.0, 1.0, keys=described), candidate("b", 0.9, 1.0)])
    assert reason(decision.best) == SteeringReason.AMBIGUOUS


def test_versions_of_one_name_are_not_ambiguous_and_the_newest_is_applied() -> None:
    decision = decided([candidate("a", 0.9, 1.0, version=1), candidate("a", 0.9 - AMBIGUOUS_MARGIN, 1.0, version=2)])
    assert decision.best is not None
    assert (decision.best.record.version, decision.reason) == (2, None)


def test_an_older_version_is_applied_if_the_newest_fits_clearly_worse() -> None:
    decision = decided([candidate("a", 1.0, 1.0, version=1), candidate("a", 0.5, 1.0, version=2)])
    assert decision.best is not None
    assert decision.best.record.version == 1


def test_a_vector_without_lift_is_not_applied() -> None:
    useless = {"zero_shot": 0.5, "steered": 0.5}
    decision = decided([candidate("a", 1.0, 1.0, results=useless), candidate("b", 1.0, 0.1)])
    assert reason(decision.best) == SteeringReason.NO_LIFT
    assert decision.reason is not None
    assert "accuracy 0.500 with it, 0.500 without" in decision.reason.detail
    decision = decided([candidate("a", 1.0, 1.0, results=useless), candidate("b", 1.0, 1.0)])
    assert decision.best is not None
    assert (decision.best.record.name, decision.reason) == ("b", None)


def test_without_a_vector_there_is_no_match() -> None:
    decision = decided([])
    assert (decision.best, decision.second, decision.margin) == (None, None, None)
    assert decision.reason is not None
    assert decision.reason.code == SteeringReason.NO_MATCH


def test_the_reason_names_the_part_that_does_not_fit() -> None:
    decision = decided([candidate("a", 0.25, 1.0)])
    assert decision.reason is not None
    assert (
        decision.reason.detail == "The image of the query scores 0.250 with the best match, a version 1, below 0.300."
    )


@st.composite
def libraries(draw: st.DrawFn, modality: Modality) -> list[Candidate]:
    """Return vectors of few names; keys may lack parts, and calibrations may lack those of the keys."""
    found = []
    for version in range(1, draw(st.integers(1, 5)) + 1):
        image, text = draw(st.tuples(MAYBE, MAYBE).filter(lambda parts: parts != (None, None)))
        scales = st.fixed_dictionaries({}, optional={Modality.IMAGE: SCALES, Modality.TEXT: SCALES})
        results = draw(st.sampled_from([{}, {"zero_shot": 0.5, "steered": 0.5}]))
        name = draw(st.sampled_from("abc"))
        found.append(
            candidate(name, image, text, modality=modality, version=version, calibration=draw(scales), results=results)
        )
    return found


@given(st.data(), st.sampled_from(Modality))
def test_any_library_gets_a_decision_and_less_than_one_half_is_never_applied(
    data: st.DataObject, modality: Modality
) -> None:
    decision = decided(data.draw(libraries(modality)), modality)
    assert decision.best is not None
    if decision.reason is None and decision.best.record.card.calibration:
        assert decision.best.probability is not None
        assert decision.best.probability >= ACCEPTED


@pytest.mark.parametrize("part", [Modality.IMAGE, Modality.TEXT])
def test_a_vector_is_not_applied_if_no_calibrated_part_was_compared(part: Modality) -> None:
    other = Modality.TEXT if part is Modality.IMAGE else Modality.IMAGE
    image, text = (1.0 if part is one else None for one in (Modality.IMAGE, Modality.TEXT))
    calibration: Calibration = {part: PartScale(0.95, 0.2)}
    decision = decided([candidate("a", image, text, modality=other, calibration=calibration)], other)
    assert decision.reason is not None
    assert decision.reason.code in (SteeringReason.BELOW_THRESHOLD, SteeringReason.MISSING_PART)


def test_vectors_that_just_do_not_fit_still_count_against_a_vector_that_just_does() -> None:
    calibration = {Modality.TEXT: PartScale(1.0, 0.0)}
    near = [candidate(f"near-{number}", None, 0.59, calibration=calibration) for number in range(4)]
    decision = decided([candidate("a", None, 0.62, calibration=calibration), *near])
    assert decision.best is not None
    assert (decision.best.record.name, reason(decision.best)) == ("a", SteeringReason.AMBIGUOUS)
    assert all(rival.name.startswith("near") for rival in decision.best.rivals)


def test_many_versions_of_the_best_vector_do_not_hide_a_rival() -> None:
    versions = [candidate("a", 0.9, 1.0, version=number) for number in range(1, 12)]
    rival = candidate("b", 0.9 - AMBIGUOUS_MARGIN / 2, 1.0)
    assert reason(decided([*versions, rival]).best) == SteeringReason.AMBIGUOUS
