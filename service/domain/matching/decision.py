"""Which of the vectors found for a query fit it, and which one `auto` applies.

A vector with a calibrated card fits if the query more probably belongs to its task than to none, and is applied if its
probability among all vectors is at least one half: see `calibration`.

Another vector fits if the query's score reaches the vector's threshold for the query's parts and, for a query with
images and a text, if each of the two parts reaches its own threshold as well. So a part that the query lacks never
makes a match easier: the thresholds of the other part are the same with and without it. A query without a text is
refused by vectors whose training queries had one: a picture does not say what is asked about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from vlibrary.domain.card import VectorRecord, has_lift
from vlibrary.domain.matching.calibration import ACCEPTED, normalise, weigh
from vlibrary.domain.query import EmbedderSpec, Modality, PartScores, TaskEmbedding, score_parts
from vlibrary.domain.steering import NotSteered, SteeringReason
from vlibrary.domain.vector import Array

# For cards without a calibrated threshold: between the scores of unrelated and of related queries with common CLIP
# embedders.
DEFAULT_THRESHOLD = 0.8
# Scores of two vectors that differ by less do not tell which of them the query belongs to.
AMBIGUOUS_MARGIN = 0.005
# The cosine from which keys of cards without thresholds are the same: the same text in about the same words.
SAME_KEY = 0.99
# Vectors of other names that are compared with the best one.
MAX_RIVALS = 8
# From the closest to being applied to the farthest.
_CLOSEST = (SteeringReason.NO_LIFT, SteeringReason.MISSING_PART, SteeringReason.BELOW_THRESHOLD)


@dataclass(frozen=True)
class Match:
    """A vector found for a query, and whether `auto` may apply it.

    record: its card has no keys. score: mean cosine of the query's parts with the vector's best key, in [-1, 1].
    threshold: the score from which the vector fits. parts: the cosine of each part with the closest key part.
    probability: that the query belongs to the vector's task; None if the card is not calibrated.
    reason: why `auto` does not apply the vector; None if it may. rivals: the vectors that fit equally well.
    """

    record: VectorRecord
    score: float
    threshold: float
    parts: PartScores
    probability: float | None = None
    reason: SteeringReason | None = None
    rivals: tuple[VectorRecord, ...] = field(default=(), compare=False)

    @property
    def accepted(self) -> bool:
        return self.reason is None

    @property
    def label(self) -> str:
        return f"{self.record.name} version {self.record.version}"


@dataclass(frozen=True)
class Decision:
    """What `auto` does with a query.

    best: the vector that it applies or, if there is a reason to apply none, the one that came closest to it; None
    without a vector. second: the match of another name with the highest score. margin: the difference of both scores.
    """

    best: Match | None
    second: Match | None
    reason: NotSteered | None

    @property
    def margin(self) -> float | None:
        return None if self.best is None or self.second is None else self.best.score - self.second.score


@dataclass(frozen=True, eq=False)
class Candidate:
    """A vector to judge. score: as in `Match`. keys: all of its keys as rows [n, row_size]."""

    record: VectorRecord
    score: float
    keys: Array


def judge(query: TaskEmbedding, candidates: Sequence[Candidate], spec: EmbedderSpec) -> list[Match]:
    """Return a match for each candidate, in the same order. candidates: the nearest vectors, best score first."""
    matches = _add_probabilities([_compare(query, one, spec) for one in candidates])
    accepted = sorted((at for at, match in enumerate(matches) if match.accepted), key=lambda at: _order(matches[at]))
    if not accepted:
        return matches
    best = accepted[-1]
    others = [at for at in accepted if matches[at].record.name != matches[best].record.name]
    rivals = [
        at
        for at in others[-MAX_RIVALS:]
        if _too_close(matches[best], matches[at]) or _fit_each_other(candidates[best], candidates[at], spec)
    ]
    for at in rivals:
        matches[at] = replace(matches[at], reason=SteeringReason.AMBIGUOUS, rivals=(matches[best].record,))
    if rivals or (rivals := _find_probable_rival(matches, best)):
        records = tuple(matches[at].record for at in rivals)
        matches[best] = replace(matches[best], reason=SteeringReason.AMBIGUOUS, rivals=records)
    return matches


def _find_probable_rival(matches: Sequence[Match], best: int) -> list[int]:
    """Return the most probable vector of another name, accepted or not, if the best one is not probable enough."""
    one = matches[best]
    if one.probability is None or one.probability >= ACCEPTED:
        return []
    others = [at for at, match in enumerate(matches) if match.record.name != one.record.name]
    return sorted(others, key=lambda at: _order(matches[at]))[-1:]


def _order(match: Match) -> tuple[float, float]:
    """Return what to sort accepted matches by; the most probable one is applied, a calibrated one before others."""
    return (-1.0 if match.probability is None else match.probability, match.score)


def _too_close(best: Match, other: Match) -> bool:
    """Return whether the query does not tell which of the two accepted vectors it belongs to."""
    if best.probability is not None and other.probability is not None:
        return best.probability < ACCEPTED
    return best.score - other.score < AMBIGUOUS_MARGIN


def _add_probabilities(matches: list[Match]) -> list[Match]:
    """Return the matches with the probabilities of those whose cards are calibrated."""
    known = [at for at, match in enumerate(matches) if match.record.card.calibration]
    evidence = [weigh(matches[at].parts, matches[at].record.card.calibration) for at in known]
    shares = normalise(evidence, [matches[at].record.name for at in known])
    for at, probability in zip(known, shares, strict=True):
        matches[at] = replace(matches[at], probability=probability)
    return matches


def _fit_each_other(one: Candidate, other: Candidate, spec: EmbedderSpec) -> bool:
    """Return whether the keys of each vector fit the other, so that hardly a query tells them apart."""
    pairs = ((one, other), (other, one))
    return all(_fits(key, there, spec) for here, there in pairs for key in _training_keys(here.keys, spec))


def _training_keys(rows: Array, spec: EmbedderSpec) -> list[TaskEmbedding]:
    """Return the keys with the most parts: those of the training queries, without the description's."""
    keys = [TaskEmbedding.from_row(row, spec) for row in rows]
    most = max(key.parts for key in keys)
    return [key for key in keys if key.parts == most]


def _fits(key: TaskEmbedding, other: Candidate, spec: EmbedderSpec) -> bool:
    parts, card = score_parts(key, other.keys, spec), other.record.card
    if card.calibration:
        return weigh(parts, card.calibration) >= 0
    score = float((other.keys @ key.row(spec)).max()) / key.parts
    limits = _limits(key.modality, score, parts, card.thresholds, SAME_KEY)
    return all(found >= least for found, least in limits)


def decide(matches: Sequence[Match]) -> Decision:
    """Return what `auto` does, from the matches of `judge`."""
    accepted = [match for match in matches if match.accepted]
    ambiguous = [match for match in matches if match.reason is SteeringReason.AMBIGUOUS]
    if ambiguous:  # an accepted match is a worse one, and not the answer to an ambiguous query
        best: Match | None = ambiguous[0]
    else:
        best = _prefer_newer(accepted) if accepted else _find_closest(matches)
    if best is None:
        missing = NotSteered(SteeringReason.NO_MATCH, "The library has no vector for this base model.")
        return Decision(None, None, missing)
    second = next((match for match in matches if match.record.name != best.record.name), None)
    return Decision(best, second, _explain(best))


def _compare(query: TaskEmbedding, one: Candidate, spec: EmbedderSpec) -> Match:
    card, parts = one.record.card, score_parts(query, one.keys, spec)
    limits = _limits(query.modality, one.score, parts, card.thresholds, DEFAULT_THRESHOLD)
    uncovered = query.modality is Modality.IMAGE and not parts.covered
    reason = None
    if card.calibration:
        below = not uncovered and weigh(parts, card.calibration) < 0
    else:
        below = any(score < least for score, least in limits)
    if below:
        reason = SteeringReason.BELOW_THRESHOLD
    elif uncovered:
        reason = SteeringReason.MISSING_PART
    elif has_lift(card.results) is False:
        reason = SteeringReason.NO_LIFT
    return Match(one.record, one.score, limits[0][1], parts, reason=reason)


def _limits(
    modality: Modality, score: float, parts: PartScores, thresholds: Mapping[Modality, float], default: float
) -> list[tuple[float, float]]:
    """Return the scores that must reach a threshold, each with it: the mean, then the parts of a query with both.

    default: threshold of the mean for a card without one.
    """
    limits = [(score, thresholds.get(modality, default))]
    if modality is Modality.IMAGE_TEXT:
        limits += [(cosine, thresholds[part]) for part, cosine in parts.cosines.items() if part in thresholds]
    return limits


def _prefer_newer(accepted: Sequence[Match]) -> Match:
    """Return the best match, or a newer version of it with about the same score."""
    best = max(accepted, key=_order)
    versions = [one for one in accepted if one.record.name == best.record.name]
    similar = [one for one in versions if best.score - one.score < AMBIGUOUS_MARGIN]
    probable = [one for one in similar if one.probability is None or one.probability >= ACCEPTED]
    return max(probable, key=lambda one: one.record.version)


def _find_closest(matches: Sequence[Match]) -> Match | None:
    """Return the first match with the reason that is closest to acceptance."""
    for reason in _CLOSEST:
        for match in matches:
            if match.reason is reason:
                return match
    return None


def _explain(best: Match) -> NotSteered | None:
    """Return why the best match is not applied; None if it is."""
    match best.reason:
        case None:
            return None
        case SteeringReason.AMBIGUOUS:
            other = best.rivals[0]
            detail = (
                f"The query fits {best.label} and {other.name} version {other.version} about equally well. "
                "Name one of them in `steering`."
            )
        case SteeringReason.NO_LIFT:
            results = best.record.card.results
            detail = (
                f"The best match, {best.label}, does not help, according to its card: accuracy "
                f"{results['steered']:.3f} with it, {results['zero_shot']:.3f} without. "
                "Name it in `steering` to apply it."
            )
        case SteeringReason.MISSING_PART:
            detail = (
                f"The query has no text, and the queries of the best match, {best.label}, have one. "
                "Send the question with the image."
            )
        case _:
            detail = _explain_parts(best) if best.record.card.calibration else _explain_score(best)
    return NotSteered(best.reason, detail)


def _explain_parts(best: Match) -> str:
    """Name the part that is farther from the vector's queries."""
    scales = best.record.card.calibration
    levels = {
        part: (scales[part].level(cosine, decisive=part is Modality.TEXT), cosine)
        for part, cosine in best.parts.cosines.items()
        if part in scales
    }
    if not levels:
        only = " and ".join(scales)
        return f"The best match, {best.label}, is calibrated for {only} only, which the query or its keys do not have."
    part = min(levels, key=lambda one: levels[one])
    return (
        f"The {part} of the query has the cosine {levels[part][1]:.3f} with the best match, {best.label}, whose own "
        f"queries reach {scales[part].own:.3f} and unrelated ones {scales[part].unrelated:.3f}."
    )


def _explain_score(best: Match) -> str:
    if best.score < best.threshold:
        return f"The best match, {best.label}, scores {best.score:.3f}, below its threshold of {best.threshold:.3f}."
    thresholds = best.record.card.thresholds
    part, score = next((part, one) for part, one in best.parts.cosines.items() if one < thresholds.get(part, -1.0))
    least = thresholds[part]
    return f"The {part} of the query scores {score:.3f} with the best match, {best.label}, below {least:.3f}."
