"""Errors of training."""

from __future__ import annotations

from vlibrary.domain.errors import ErrorCode, InvalidInput, VLibraryError


class InvalidExamples(InvalidInput):
    code, title = ErrorCode.INVALID_EXAMPLES, "Invalid training examples"


class InvalidSettings(InvalidInput):
    code, title = ErrorCode.INVALID_TRAINING_SETTINGS, "Invalid training settings"


class TrainingDiverged(VLibraryError):
    code, title = ErrorCode.TRAINING_DIVERGED, "Training diverged"


def require_positive(name: str, value: int) -> None:
    """Raises InvalidSettings below 1."""
    if value < 1:
        raise InvalidSettings(f"{name} is {value}.", "It must be at least 1.")
