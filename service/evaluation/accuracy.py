"""How often the model is right: exact match, with demonstrations in the prompt, or with a vector in their place.

It stands here rather than in vlibrary.evaluation, because a trained vector's card carries these figures and methods may
not import evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vlibrary.domain.example import Example
from vlibrary.domain.vector import SteeringVector
from vlibrary.domain.wire import Decoding, Prompt
from vlibrary.engine.static import StaticGenerator
from vlibrary.training.errors import InvalidExamples
from vlibrary.training.progress import Progress, Report, silent
from vlibrary.training.prompts import TOKENS_A_BATCH, as_prompt

# Greedy, so that a figure can be had again; an answer that needs more tokens than this is not a short answer.
DECODING = Decoding(max_new_tokens=32)


def is_right(said: str, answer: str) -> bool:
    """Exact match after folding case and runs of space."""
    return _folded(said) == _folded(answer)


def icl_accuracy(
    engine: StaticGenerator,
    queries: Sequence[Example],
    support: Sequence[Example],
    shots: int,
    seed: int,
    report: Report = silent,
) -> float:
    """Share of queries answered right after `shots` demonstrations, drawn anew for each query from the support.

    0 shots is the plain question. Raises InvalidExamples when the support is smaller, PromptTooLong when they do not
    fit the context.
    """
    if shots > len(support):
        raise InvalidExamples(f"{len(support)} examples cannot give {shots} demonstrations.", "Add examples.")
    prompts = []
    for number, query in enumerate(queries):
        rng = np.random.default_rng([seed, shots, number])
        drawn = rng.choice(len(support), size=shots, replace=False)
        prompts.append(as_prompt(query, [support[place] for place in drawn.tolist()]))
    return _share_right(engine, queries, [(prompt, None) for prompt in prompts], report)


def steered_accuracy(
    engine: StaticGenerator, queries: Sequence[Example], vector: SteeringVector, report: Report = silent
) -> float:
    """Share of queries answered right with the vector and no demonstration."""
    return _share_right(engine, queries, [(as_prompt(query), vector) for query in queries], report)


def _share_right(
    engine: StaticGenerator,
    queries: Sequence[Example],
    calls: Sequence[tuple[Prompt, SteeringVector | None]],
    report: Report,
) -> float:
    if not queries:
        raise InvalidExamples("There is nothing to measure on.", "Give at least one test example.")
    # The first prompt goes alone and tells how many of its length make a batch.
    said = engine.generate(calls[:1], DECODING)
    size = max(1, TOKENS_A_BATCH // said[0].prompt_tokens)
    while len(said) < len(calls):
        said += engine.generate(calls[len(said) : len(said) + size], DECODING)
        report(Progress("measure", len(said), len(calls)))
    return sum(is_right(one.text, query.answer) for one, query in zip(said, queries, strict=True)) / len(queries)


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
