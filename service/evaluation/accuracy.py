"""Exact-match accuracy of a model, with demonstrations in the prompt or with a vector applied."""

from __future__ import annotations

import math
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


def is_correct(prediction: str, *answers: str) -> bool:
    """Return whether the prediction equals an answer after folding case and collapsing white space."""
    return _fold(prediction) in {_fold(answer) for answer in answers}


def _fold(text: str) -> str:
    return " ".join(text.split()).casefold()


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share measured on `count` items (Wilson, 1927), both ends in [0, 1]."""
    z = 1.96
    centre = share + z**2 / (2 * count)
    margin = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def icl_accuracy(
    engine: StaticGenerator,
    queries: Sequence[Example],
    support: Sequence[Example],
    shots: int,
    seed: int,
    report: Report = ignore,
    decoding: Decoding = DECODING,
) -> float:
    """Return the share of queries answered correctly after `shots` demonstrations.

    The demonstrations are drawn from the support for each query; 0 shots measures the plain question. Raises
    InvalidExamples if the support is smaller than `shots`, PromptTooLong if the prompt exceeds the context.
    """
    if shots > len(support):
        raise InvalidExamples(f"{shots} demonstrations need {shots} examples; got {len(support)}.", "Add examples.")
    prompts = draw_prompts(queries, support, shots, seed)
    return _accuracy(queries, generate_answers(engine, [(prompt, None) for prompt in prompts], decoding, report))


def draw_prompts(queries: Sequence[Example], support: Sequence[Example], shots: int, seed: int) -> list[Prompt]:
    """Return the prompt of each query with `shots` demonstrations, drawn from the support."""
    prompts = []
    for number, query in enumerate(queries):
        rng = np.random.default_rng([seed, shots, number])
        drawn = rng.choice(len(support), size=shots, replace=False)
        prompts.append(to_prompt(query, [support[at] for at in drawn.tolist()]))
    return prompts


def steered_accuracy(
    engine: StaticGenerator,
    queries: Sequence[Example],
    vector: SteeringVector,
    report: Report = ignore,
    decoding: Decoding = DECODING,
) -> float:
    """Return the share of queries answered correctly with the vector applied and no demonstrations."""
    calls = [(to_prompt(query), vector) for query in queries]
    return _accuracy(queries, generate_answers(engine, calls, decoding, report))


def generate_answers(
    engine: StaticGenerator,
    calls: Sequence[tuple[Prompt, SteeringVector | None]],
    decoding: Decoding = DECODING,
    report: Report = ignore,
    stage: str = "measure",
) -> list[str]:
    """Return the answer to each call, in order. Raises InvalidExamples if there are none."""
    if not calls:
        raise InvalidExamples("There are no test examples.", "Provide at least one.")
    # The first prompt runs alone: its length determines the batch size, until a longer one is found.
    answers = engine.generate(calls[:1], decoding)
    longest = answers[0].prompt_tokens
    while len(answers) < len(calls):
        size = max(1, TOKENS_PER_BATCH // longest)
        batch = engine.generate(calls[len(answers) : len(answers) + size], decoding)
        longest = max([longest, *(answer.prompt_tokens for answer in batch)])
        answers += batch
        report(Progress(stage, len(answers), len(calls)))
    return [answer.text for answer in answers]


def _accuracy(queries: Sequence[Example], predictions: Sequence[str]) -> float:
    correct = (is_correct(text, *query.answers) for text, query in zip(predictions, queries, strict=True))
    return sum(correct) / len(queries)
