"""Conversion of examples to prompts, shared by training, teacher and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from vlibrary.domain.example import Example
from vlibrary.domain.wire import Demonstration, Prompt

# Prompt tokens per forward pass without gradients. They take some GB with an 8 B model; larger batches gain no speed.
TOKENS_PER_BATCH = 8_192


def to_prompt(query: Example, context: Sequence[Example] = ()) -> Prompt:
    """Return the query after the demonstrations of the context; the query's own answer is left out."""
    demonstrations = tuple(Demonstration(each.question, (each.image,), each.answer) for each in context)
    return Prompt(query.question, (query.image,), demonstrations)
