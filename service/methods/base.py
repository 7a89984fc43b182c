"""The interface of training methods, and the split of a task's examples that they receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
MAX_HELD_OUT = 200
MIN_EXAMPLES = 10


@dataclass(frozen=True)
class TaskData:
    """One task's examples in disjoint parts.

    Args:
        train: For the method to use freely.
        validation: To select the best state and to calibrate thresholds.
        test: For the results on the card; methods must not use it.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]


@dataclass(frozen=True)
class Fit:
    """The outcome of a method.

    Args:
        vector: The trained vector with its training record.
        curve: One entry per step: "step", the training losses, and "validation" at the steps that measured it (nats).
    """

    vector: SteeringVector
    curve: tuple[Mapping[str, float], ...] = ()


class Method(Protocol):
    """A procedure that turns examples and a frozen model into a vector.

    An instance holds the method's settings; `fit` can be called for any number of tasks.
    """

    @property
    def name(self) -> str:
        """The value of `SteeringVector.method`."""
        ...

    @property
    def shots(self) -> int:
        """Demonstrations in the prompts that the vector replaces."""
        ...

    def fit(
        self, data: TaskData, features: Features, lvlm: Lvlm, *, seed: int, folder: Path | None, report: Report
    ) -> Fit:
        """Return the trained vector and its loss curve; the same arguments give the same vector.

        Args:
            data: The task's examples.
            features: The embeddings of data.train.
            lvlm: The frozen model; it is not changed.
            seed: Seed of every random choice.
            folder: Where to save state, so that calling again with the same arguments resumes; None saves nothing.
            report: Receives progress reports.
        """
        ...


def split_examples(examples: Sequence[Example], seed: int, test: Sequence[Example] | None = None) -> TaskData:
    """Shuffle, and hold out 10 % for validation and 20 % for test (at most 200 each); a given test set is used as is.

    Raises InvalidExamples for fewer than 10 examples or an empty test set.
    """
    if len(examples) < MIN_EXAMPLES:
        raise InvalidExamples(f"Got {len(examples)} examples.", f"Provide at least {MIN_EXAMPLES}.")
    if test is not None and not test:
        raise InvalidExamples("The test set is empty.", "Leave it out to hold out some of the examples.")
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples))
    shuffled = [examples[at] for at in order.tolist()]
    validation = _held_out_size(len(examples), VALIDATION_SHARE)
    tested = 0 if test is not None else _held_out_size(len(examples), TEST_SHARE)
    return TaskData(
        train=tuple(shuffled[validation + tested :]),
        validation=tuple(shuffled[:validation]),
        test=tuple(shuffled[validation : validation + tested] if test is None else test),
    )


def _held_out_size(count: int, share: float) -> int:
    return min(MAX_HELD_OUT, max(1, round(share * count)))
