"""Errors of training and evaluation."""

from __future__ import annotations

from vlibrary.domain.errors import ErrorCode, InvalidInput, VLibraryError


class InvalidExamples(InvalidInput):
    code, title = ErrorCode.INVALID_EXAMPLES, "Invalid training examples"


class InvalidSettings(InvalidInput):
    code, title = ErrorCode.INVALID_TRAINING_SETTINGS, "Invalid training settings"


class TrainingDiverged(VLibraryError):
    code, title = ErrorCode.TRAINING_DIVERGED, "Training diverged"


def require_positive(name: str, value: int) -> None:
    """Raise InvalidSettings if the value is below 1."""
    if value < 1:
        raise InvalidSettings(f"Invalid {name} {value}.", f"Set {name} to at least 1.")
