"""Self-labelling: the model answers unlabelled questions with a few labelled examples in its prompt.

A vector trained on these answers by the mimicry loss needs no more labels than one prompt holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vlibrary.domain.example import Example
from vlibrary.domain.query import Query
from vlibrary.engine.static import StaticGenerator
from vlibrary.evaluation.accuracy import DECODING, draw_prompts, generate_answers
from vlibrary.methods.base import MIN_EXAMPLES, Method, TaskData, check_test, split_examples
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.progress import Report, ignore


def split_self_labelled(
    engine: StaticGenerator,
    method: Method,
    examples: Sequence[Example],
    unlabelled: Sequence[Query],
    seed: int,
    test: Sequence[Example] | None = None,
    report: Report = ignore,
) -> TaskData:
    """Label the questions and split them; all labelled examples become the support.

    Raises InvalidExamples for fewer than 10 questions, for too few examples, if the model answers every question alike,
    and as `split_examples`.

    Args:
        engine: Generates the labels.
        method: Says how many demonstrations its prompts have.
        examples: The labelled examples, the demonstrations of all prompts.
        unlabelled: Questions, each with one image.
        seed: Seed of the demonstrations and of the split.
        test: Labelled examples to measure on; None holds out some of the questions.
        report: Receives progress reports.
    """
    if len(unlabelled) < MIN_EXAMPLES:
        raise InvalidExamples(f"Got {len(unlabelled)} unlabelled questions.", f"Provide at least {MIN_EXAMPLES}.")
    if test is not None:
        check_test(test, examples)
    questions = [Example(query.images[0], query.text or "", "") for query in unlabelled]
    support = tuple(examples)
    shots = method.shots_for(TaskData(train=(), validation=(), test=(), support=support))
    prompts = draw_prompts(questions, support, shots, seed)
    answers = generate_answers(engine, [(prompt, None) for prompt in prompts], DECODING, report, "label")
    if len(set(answers)) == 1:
        raise InvalidExamples(
            f"With {shots} demonstrations, the model answers all {len(answers)} unlabelled questions with "
            f"{answers[0]!r:.60}.",
            "Check the labelled examples, or add some: a vector that always answers the same cannot be measured.",
        )
    labelled = [replace(each, answer=answer) for each, answer in zip(questions, answers, strict=True)]
    data = split_examples(labelled, seed, test)
    return replace(data, support=support, test_has_labels=test is not None)
