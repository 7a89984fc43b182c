"""Why an answer was not steered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class SteeringReason(StrEnum):
    """Why no vector was applied: the `code` of `steering.reason` in answers."""

    OFF = "off"
    """The request switched steering off."""
    NO_VECTORS = "no_vectors"
    """The request's list of vectors is empty."""
    NO_MATCH = "no_match"
    """The library has no vector for this base model."""
    BELOW_THRESHOLD = "below_threshold"
    """The best match scores below its threshold."""


@dataclass(frozen=True)
class NotSteered:
    """A reason and its explanation for people."""

    code: SteeringReason
    detail: str
