"""The interface of training methods, and the split of a task's examples that they receive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
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
MIN_IMAGES = 3


@dataclass(frozen=True)
class TaskData:
    """One task's examples in disjoint parts.

    Args:
        train: For the method to use freely.
        validation: To select the best state and to calibrate thresholds.
        test: For the results on the card; methods must not use it.
        support: Labelled examples for demonstrations alone; `train` and `validation` are then labelled by the model,
            with these in its prompt. Empty: `train` has true labels and provides the demonstrations.
        test_has_labels: Whether the answers of `test` are true labels, rather than the model's.
    """

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    support: tuple[Example, ...] = ()
    test_has_labels: bool = True

    @property
    def demonstrations(self) -> tuple[Example, ...]:
        """The examples from which the demonstrations of prompts are drawn."""
        return self.support or self.train


@dataclass(frozen=True)
class Fit:
    """The outcome of a method.

    Args:
        vector: The trained vector with its training record.
        curve: One entry per step: "step", the training losses, and "validation" at the steps that measured it (nats).
        stream: The norm of the model's residual stream after every layer, [L]; empty if the method did not measure it.
    """

    vector: SteeringVector
    curve: tuple[Mapping[str, float], ...] = ()
    stream: tuple[float, ...] = ()


class Method(Protocol):
    """A procedure that turns examples and a frozen model into a vector.

    An instance holds the method's settings; `fit` can be called for any number of tasks.
    """

    @property
    def name(self) -> str:
        """The value of `SteeringVector.method`."""
        ...

    def shots_for(self, data: TaskData) -> int:
        """Return the number of demonstrations in the prompts that the vector replaces.

        Raises InvalidExamples if the data has too few.
        """
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

    Examples with the same image stay together: a model that has seen an image with its answer in training would be
    measured on what it remembers.

    Raises InvalidExamples for fewer than 10 examples, for images or answers that do not differ, and for a test set that
    is empty or shares an image with the examples.
    """
    if len(examples) < MIN_EXAMPLES:
        raise InvalidExamples(f"Got {len(examples)} examples.", f"Provide at least {MIN_EXAMPLES}.")
    if len({example.answer for example in examples}) == 1:
        raise InvalidExamples(
            f"All {len(examples)} examples have the answer {examples[0].answer!r}.",
            "Add examples with other answers: a vector that always answers the same cannot be measured.",
        )
    if test is not None:
        check_test(test, examples)
    order = np.random.default_rng([seed, len(examples)]).permutation(len(examples))
    groups: dict[bytes, list[Example]] = {}
    for at in order.tolist():
        groups.setdefault(sha256(examples[at].image).digest(), []).append(examples[at])
    if len(groups) < MIN_IMAGES:
        raise InvalidExamples(
            f"The {len(examples)} examples show {len(groups)} different images.",
            f"Provide at least {MIN_IMAGES}: training, validation and test share none.",
        )
    left = list(groups.values())
    validation = _take(left, _held_out_size(len(examples), VALIDATION_SHARE))
    held_out = _take(left, _held_out_size(len(examples), TEST_SHARE)) if test is None else test
    return TaskData(tuple(example for group in left for example in group), tuple(validation), tuple(held_out))


def check_test(test: Sequence[Example], examples: Sequence[Example]) -> None:
    """Raise InvalidExamples if the test set is empty or shares an image with the examples."""
    if not test:
        raise InvalidExamples("The test set is empty.", "Leave it out to hold out some of the examples.")
    if shared := len({example.image for example in test} & {example.image for example in examples}):
        raise InvalidExamples(
            f"{shared} images of the test set are among the training examples too.", "Remove them from one of the two."
        )


def _take(groups: list[list[Example]], count: int) -> list[Example]:
    """Remove groups from the list, in its order, up to `count` examples, or the smallest if none is small enough."""
    taken: list[Example] = []
    for group in [group for group in groups if len(group) <= count]:
        if len(taken) + len(group) <= count:
            groups.remove(group)
            taken += group
    if not taken:
        taken = min(groups, key=len)
        groups.remove(taken)
    return taken


def _held_out_size(count: int, share: float) -> int:
    return min(MAX_HELD_OUT, max(1, round(share * count)))
