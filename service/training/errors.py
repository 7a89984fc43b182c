"""What can go wrong while a vector is made."""

from __future__ import annotations

from vlibrary.domain.errors import InvalidInput, VLibraryError


class InvalidExamples(InvalidInput):
    slug, title = "invalid-examples", "The training examples cannot be used"


class InvalidSettings(InvalidInput):
    slug, title = "invalid-training-settings", "The training settings cannot be used"


class TrainingDiverged(VLibraryError):
    slug, title = "training-diverged", "The training lost its way"


def require_positive(name: str, value: int) -> None:
    """Raises InvalidSettings below 1."""
    if value < 1:
        raise InvalidSettings(f"{name} is {value}.", "It must be at least 1.")
