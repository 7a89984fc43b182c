"""How probable it is that a query belongs to the task of a vector, given the other vectors of the library.

Training measures two cosines for each part, image and text, and stores them on the card as a `PartScale`: what the
task's own queries reach, and what unrelated queries reach. They make parts, tasks and embedders comparable: the level
of a part is 0 at the cosine of unrelated queries and 1 at that of own queries.

The evidence of a part is linear in its level. A vector's evidence is a soft minimum over the parts, so that each part
has to fit. A missing image counts as one that fits, never as better than that; without a text, a query has no evidence
for a vector whose queries have one, since a picture does not say what is asked about it. The probabilities are
those of a softmax over the vectors and "none of them", whose evidence is 0. So they change with the library, without a
new calibration: every further vector can only lower them, and two vectors that fit equally well get at most one half
each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from vlibrary.domain.errors import InvalidCard
from vlibrary.domain.query import Modality, PartScores

# Below it, own and unrelated queries hardly differ, and a small difference of cosines means nothing.
MIN_RANGE: Final = 0.05
# An own query's level; a closer one is not better, since cosines above it differ by chance.
_MAX_LEVEL: Final = 1.0
# Evidence of a part: slope x (level - centre). Fitted to the development wordings of the retrieval protocol.
_IMAGE_SLOPE: Final = 12.0
_IMAGE_CENTRE: Final = 0.6
_TEXT_SLOPE: Final = 16.0
_TEXT_CENTRE: Final = 0.6
# From this probability, a vector is applied.
ACCEPTED: Final = 0.5


@dataclass(frozen=True)
class PartScale:
    """The cosines of two kinds of queries with a vector's closest key part, in [-1, 1].

    own: reached by 95 % of the task's queries. unrelated: reached by 5 % of unrelated queries. Raises InvalidCard.
    """

    own: float
    unrelated: float

    def __post_init__(self) -> None:
        for name, cosine in (("own", self.own), ("unrelated", self.unrelated)):
            if not -1.0 <= cosine <= 1.0:
                raise InvalidCard(f"The calibration's {name} cosine is {cosine}.", "Use a number from -1 to 1.")

    def level(self, cosine: float, *, decisive: bool = True) -> float:
        """Return where the cosine lies: 0 at `unrelated`, 1 at `own` and above.

        decisive: whether a part by which own and unrelated queries hardly differ rejects rather than accepts them.
        """
        span = max(self.own - self.unrelated, MIN_RANGE)
        lowest = self.unrelated if decisive else self.own - span
        return min(_MAX_LEVEL, (cosine - lowest) / span)


# By part, Modality.IMAGE or Modality.TEXT. Empty for a card that was not calibrated.
Calibration = Mapping[Modality, PartScale]


def weigh(parts: PartScores, calibration: Calibration) -> float:
    """Return the evidence that a query belongs to the vector's task, as log odds against unrelated queries."""
    lines = {Modality.IMAGE: (_IMAGE_SLOPE, _IMAGE_CENTRE), Modality.TEXT: (_TEXT_SLOPE, _TEXT_CENTRE)}
    cosines = parts.cosines
    if not cosines.keys() & calibration.keys() or (parts.text is None and Modality.TEXT in calibration):
        return -math.inf
    total = 0.0
    for part, scale in calibration.items():
        slope, centre = lines[part]
        cosine = cosines.get(part)
        # Some tasks are asked about any picture: then the text alone decides.
        level = _MAX_LEVEL if cosine is None else scale.level(cosine, decisive=part is Modality.TEXT)
        total += math.exp(-slope * (level - centre))
    return -math.log(total)


def normalise(evidence: Sequence[float], groups: Sequence[str]) -> list[float]:
    """Return the probability of each vector.

    evidence: of each vector, from `weigh`. groups: the name of each; versions of one name do not compete.
    """
    best: dict[str, float] = {}
    for name, value in zip(groups, evidence, strict=True):
        best[name] = max(value, best.get(name, value))
    highest = max(best.values(), default=0.0)
    shift = max(highest, 0.0)
    none = math.exp(-shift)
    weights = {name: math.exp(value - shift) for name, value in best.items()}
    total = math.fsum(weights.values()) + none
    return [
        math.exp(value - shift) / (total - weights[name] + math.exp(value - shift))
        for name, value in zip(groups, evidence, strict=True)
    ]
