"""Labelled items of training and evaluation sets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Example:
    """A question about an image with its correct answer.

    image: the bytes of an image file. alternatives: other answers that count as correct.
    """

    image: bytes
    question: str
    answer: str
    alternatives: tuple[str, ...] = ()

    @property
    def answers(self) -> tuple[str, ...]:
        """All correct answers, `answer` first."""
        return (self.answer, *self.alternatives)
