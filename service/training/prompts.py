"""Examples as prompts: the one place where training, teaching and measuring agree on what the model is shown."""

from __future__ import annotations

from collections.abc import Sequence

from vlibrary.domain.example import Example
from vlibrary.domain.wire import Demonstration, Prompt

# A forward pass without gradients takes about this many prompt tokens: some GB for an 8 B model, and long prompts
# gain nothing from more.
TOKENS_A_BATCH = 8_192


def as_prompt(query: Example, context: Sequence[Example] = ()) -> Prompt:
    """The query after its demonstrations; the query's own answer is never shown."""
    demonstrations = tuple(Demonstration(each.question, (each.image,), each.answer) for each in context)
    return Prompt(query.question, (query.image,), demonstrations)
