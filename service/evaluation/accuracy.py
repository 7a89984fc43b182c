"""Exact-match accuracy of a model, with demonstrations in the prompt or with a vector applied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Prompt
from vlibrary.engine.static import StaticGenerator
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.forward import TOKENS_PER_BATCH, to_prompt
from vlibrary.training.progress import Progress, Report, ignore

# Greedy decoding makes results reproducible; 32 tokens are ample for short answers.
DECODING = Decoding(max_new_tokens=32)


def is_correct(prediction: str, answer: str) -> bool:
    """Return whether the texts are equal after folding case and collapsing white space."""
    return " ".join(prediction.split()).casefold() == " ".join(answer.split()).casefold()


def icl_accuracy(
    engine: StaticGenerator,
    queries: Sequence[Example],
    support: Sequence[Example],
    shots: int,
    seed: int,
    report: Report = ignore,
) -> float:
    """Return the share of queries answered correctly after `shots` demonstrations.

    The demonstrations are drawn from the support for each query; 0 shots measures the plain question. Raises
    InvalidExamples if the support is smaller than `shots`, PromptTooLong if the prompt exceeds the context.
    """
    if shots > len(support):
        raise InvalidExamples(f"{shots} demonstrations need {shots} examples; got {len(support)}.", "Add examples.")
    prompts = []
    for number, query in enumerate(queries):
        rng = np.random.default_rng([seed, shots, number])
        drawn = rng.choice(len(support), size=shots, replace=False)
        prompts.append(to_prompt(query, [support[at] for at in drawn.tolist()]))
    return _accuracy(engine, queries, [(prompt, None) for prompt in prompts], report)


def steered_accuracy(
    engine: StaticGenerator, queries: Sequence[Example], vector: SteeringVector, report: Report = ignore
) -> float:
    """Return the share of queries answered correctly with the vector applied and no demonstrations."""
    return _accuracy(engine, queries, [(to_prompt(query), vector) for query in queries], report)


def _accuracy(
    engine: StaticGenerator,
    queries: Sequence[Example],
    calls: Sequence[tuple[Prompt, SteeringVector | None]],
    report: Report,
) -> float:
    if not queries:
        raise InvalidExamples("There are no test examples.", "Provide at least one.")
    # The first prompt runs alone: its length determines the batch size.
    answers = engine.generate(calls[:1], DECODING)
    size = max(1, TOKENS_PER_BATCH // answers[0].prompt_tokens)
    while len(answers) < len(calls):
        answers += engine.generate(calls[len(answers) : len(answers) + size], DECODING)
        report(Progress("measure", len(answers), len(calls)))
    correct = (is_correct(given.text, query.answer) for given, query in zip(answers, queries, strict=True))
    return sum(correct) / len(queries)
