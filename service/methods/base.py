"""What every method is: examples and a frozen model in, a vector out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.models.lvlm import Lvlm
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.features import Features
from vlibrary.training.progress import Report

TEST_SHARE = 0.2
VALIDATION_SHARE = 0.1
MOST_HELD_BACK = 200
FEWEST_EXAMPLES = 10


@dataclass(frozen=True)
class TaskData:
    """One task's examples, disjoint. train: what the method may use as it likes; validation: to choose the best state
    and to calibrate thresholds; test: for the figures on the card, never seen by the method."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


class Method(Protocol):
    """A way to make a vector. An instance holds the method's settings; `fit` may be called for many tasks."""

    @property
    def name(self) -> str:
        """What SteeringVector.method says."""
        ...

    @property
    def shots(self) -> int:
        """The length of the prompts that the vector replaces."""
        ...

    def fit(
        self, data: TaskData, features: Features, lvlm: Lvlm, *, seed: int, folder: Path | None, report: Report
    ) -> SteeringVector:
        """The vector, with its training record filled in.

        features: of data.train. folder: where an interrupted run leaves what a repeat with the same arguments resumes
        from; None keeps nothing. The model is not changed. The same arguments give the same vector.
        """
        ...


def split_examples(examples: Sequence[Example], seed: int, test: Sequence[Example] | None = None) -> TaskData:
    """Shuffle and hold back 10 % for validation and 20 % for the test (each at most 200), unless test is given.

    Raises InvalidExamples below 10 examples or for an empty test.
    """
    if len(examples) < FEWEST_EXAMPLES:
        raise InvalidExamples(f"There are {len(examples)} examples.", f"Give at least {FEWEST_EXAMPLES}.")
    if test is not None and not test:
        raise InvalidExamples("The test examples are an empty list.", "Leave them out to hold some back.")
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples))
    shuffled = [examples[place] for place in order.tolist()]
    validation = _held_back(len(examples), VALIDATION_SHARE)
    tested = 0 if test is not None else _held_back(len(examples), TEST_SHARE)
    held_test = shuffled[validation : validation + tested] if test is None else test
    return TaskData(
        train=tuple(shuffled[validation + tested :]),
        validation=tuple(shuffled[:validation]),
        test=tuple(held_test),
    )


def _held_back(count: int, share: float) -> int:
    return min(MOST_HELD_BACK, max(1, round(share * count)))
